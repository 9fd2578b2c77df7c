"""README and docs: links lead somewhere, Python examples run, tables name every column."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import importlib.util
import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.report_pages import PAGES, ROOT, tokens_of

import distviz
from distviz import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

GENERATED = ROOT / "docs" / "commands"


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of the page's headings, as GitHub and MyST make them."""
    tokens = tokens_of(page)
    headings = [
        tokens[index + 1].content
        for index, token in enumerate(tokens)
        if token.type == "heading_open"
    ]
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


def links_of(page: Path) -> Iterator[str]:
    for token in tokens_of(page):
        target = token.attrs.get("href") or token.attrs.get("src")
        if target is not None and not re.match(r"[a-z]+:", str(target)):
            yield str(target)


def commands() -> set[str]:
    from typer.main import get_command

    from distviz.cli.app import app

    return set(get_command(app).commands) | {"index"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    broken = []
    for link in links_of(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if target.parent == GENERATED:
            is_there = target.stem in commands() and not anchor
        else:
            is_there = target.exists() and target.is_relative_to(ROOT)
            is_there &= not anchor or (target.suffix == ".md" and anchor in anchors_of(target))
        if not is_there:
            broken.append(link)
    assert not broken


def test_every_page_is_reached_from_the_first() -> None:
    tree = [token for token in tokens_of(ROOT / "docs" / "index.md") if token.type == "fence"]
    listed = {word for token in tree if "toctree" in token.info for word in token.content.split()}
    assert {page.stem for page in PAGES if page.parent == ROOT / "docs"} - {"index"} <= listed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_modules_that_a_page_names_exist(page: Path) -> None:
    code = [token.content for token in tokens_of(page) if token.type == "code_inline"]
    folders = r"(distviz|tests|docs|scripts|sample_configs)/"
    assert not [text for text in code if re.match(folders, text) and not is_there(text)]
    modules = re.findall(r"(?<![\w.])distviz\.[a-z_.]+[a-z_](?![\w(])", "\n".join(code))
    assert not [name for name in modules if not is_a_name(name)]


def is_there(name: str) -> bool:
    """Whether a file or folder exists; capital letters and an ellipsis are placeholders."""
    return bool(re.search(r"[A-Z…]", name)) or (ROOT / name).exists()


def is_a_name(dotted: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    place, _, last = dotted.rpartition(".")
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module(dotted)
        return True
    return is_a_name(place) and hasattr(importlib.import_module(place), last)


# Python examples ----------------------------------------------------------------------------


def python_of(page: Path) -> list[str]:
    return [t.content for t in tokens_of(page) if t.type == "fence" and t.info == "python"]


def names_at_hand(folder: Path, tokenizer: Any) -> dict[str, Any]:
    """Return the names that examples use without defining them: a model, its tokenizer, inputs."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    inputs = dict(tokenizer("Anna had 12 apples and", return_tensors="pt"))
    return {
        "distviz": distviz,
        "model": model,
        "tokenizer": tokenizer,
        "inputs": inputs | {"max_new_tokens": 4, "pad_token_id": 2},
        "input_ids": inputs["input_ids"],
        "mask": inputs["attention_mask"],
        "tensor": model.lm_head.weight.detach(),
        "b": distviz.Sketch().add(np.array([1.0], np.float32)),
    }


def runnable(code: str, place: Path, demo: Path) -> str:
    """Replace what only a reader has by what the tests have."""
    code = code.replace('"path/to/model"', repr(str(demo)))
    code = code.replace('save("runs/mine")', 'save("runs/mine", force=True)')
    code = code.replace('report_to="none"', 'report_to="none", dataloader_pin_memory=False')
    code = code.replace("from vllm import", "from support.pretended_engine import")
    if "lm_eval" in code:
        if not os.environ.get("CI"):
            pytest.importorskip("lm_eval", reason="pip install lm-eval")
        (place / "sums.jsonl").write_text('{"q": "12 + 3 =", "a": " 15"}\n')
        options = "task_manager=TaskManager(include_defaults=False), bootstrap_iters=0"
        task = {
            "task": "sums", "dataset_path": "json", "test_split": "test",
            "output_type": "loglikelihood", "metric_list": [{"metric": "perplexity"}],
            "dataset_kwargs": {"data_files": {"test": str(place / "sums.jsonl")}},
            "doc_to_text": "{{q}}", "doc_to_target": "{{a}}",
        }  # fmt: skip
        assert 'tasks=["gsm8k"]' in code
        code = code.replace('tasks=["gsm8k"]', f"tasks=[{task!r}], {options}")
        code = f"from lm_eval.tasks import TaskManager\n{code}"
    return code


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the commands of the cookbook have run."""
    place = tmp_path_factory.mktemp("measured")
    run = distviz.run(text=["One morning in January, Maria found 3 + 4 = 7 telescopes."] * 2,
                      sites="act,product", arm_layers="none")  # fmt: skip
    folder = run.save(place / "runs" / "mine")
    zeros = place / "runs" / "mine-zeros"
    distviz.whatif(folder, sparsity=50, figures=[], out=zeros)
    return place


@pytest.mark.parametrize(
    "page", [page for page in PAGES if python_of(page)], ids=lambda page: page.name
)
def test_python_examples_run(
    page: Path,
    measured: Path,
    demo_folder: Path,
    demo_tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(measured)
    names = names_at_hand(demo_folder, demo_tokenizer)
    checked = doctest.DocTestParser()
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    runner = doctest.DocTestRunner(optionflags=flags, verbose=False)
    failures: list[str] = []
    for number, block in enumerate(python_of(page)):
        place = f"{page.name}, block {number}"
        if block.startswith(">>>"):
            runner.run(
                checked.get_doctest(block, names, place, str(page), 0),
                out=failures.append, clear_globs=False,
            )  # fmt: skip
        else:
            exec(compile(runnable(block, measured, demo_folder), place, "exec"), names)
    assert not failures, "".join(failures)


def test_the_sample_configuration_has_every_setting_and_its_default() -> None:
    lines = (ROOT / "sample_configs" / "all_options.toml").read_text("utf-8").splitlines()
    general = lines[: next(i for i, line in enumerate(lines) if line.startswith("# [layer]"))]
    named = {found[1] for line in general if (found := re.match(r"(?:# )?(\w+) = ", line))}
    assert named == set(settings.OPTIONS)
    values = tomllib.loads("\n".join(lines))
    assert values == {name: settings.OPTIONS[name].default for name in values}


# Tables and outputs -------------------------------------------------------------------------

FILES = ROOT / "docs" / "files.md"
SHARED = {"layer", "site", "phase", "module", "stack"}
PAIRS = {"layer_a", "layer_b", "phase_a", "phase_b", "module_a", "module_b"}


def explained(heading: str) -> set[str]:
    """Return the words in code type below a heading of the page of the files."""
    tokens = tokens_of(FILES)
    start = next(
        index
        for index, token in enumerate(tokens)
        if token.type == "heading_open" and tokens[index + 1].content == heading
    )
    words: set[str] = set()
    for token in tokens[start + 1 :]:
        if token.type == "heading_open":
            break
        if token.type == "code_inline":
            words.add(token.content)
    return words


def test_every_column_of_a_run_is_explained(demo_run: distviz.Run) -> None:
    formats = {"documents": "parquet", "channels": "parquet"}
    for name, table in demo_run.tables().items():
        heading = f"{name}.{formats.get(name, 'csv')}"
        assert set(table.columns) <= explained(heading) | SHARED, heading


def test_every_column_of_a_comparison_is_explained(demo_run: distviz.Run) -> None:
    compared = distviz.compare(demo_run, demo_run, phase_b="after")
    for name in ("compare", "inference", "channels", "classes"):
        # The few columns of the classes are explained below those of the channels.
        given = explained("channels.csv" if name == "classes" else f"{name}.csv")
        columns = set(compared.tables()[name].columns)
        assert columns, name
        assert columns <= given | SHARED | PAIRS, name


def test_every_column_of_the_studies_is_explained() -> None:
    from support import synthetic_fillers

    from distviz.hooks.expert_recorder import ExpertTable
    from distviz.results.sweep import NAMED, SWEEP_QUANTITIES
    from distviz.results.whatif import COLUMNS

    tables = synthetic_fillers.study().tables()
    own = explained("filler.csv") | explained("inference.csv")
    assert set(tables["filler"].columns) <= own | SHARED
    assert set(tables["positions"].columns) <= own | explained("positions.csv") | SHARED
    assert set(tables["attention"].columns) <= explained("attention.csv") | own | SHARED
    assert set(tables["tokens"].columns) <= explained("tokens.parquet") | own | SHARED
    assert {*NAMED, *SWEEP_QUANTITIES, "seeds"} <= explained("sweep.csv")
    assert set(COLUMNS) <= explained("whatif.csv") | SHARED
    row = ExpertTable.empty(1).rows(0.1, distviz.Sketch())[0]
    assert set(row) <= explained("experts.csv")


def test_the_command_reference_holds_every_option_and_example(tmp_path: Path) -> None:
    from typer.main import get_command

    from distviz.cli.app import app

    place = ROOT / "docs" / "extensions" / "command_pages.py"
    spec = importlib.util.spec_from_file_location("command_pages", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write_pages(tmp_path / "commands")
    for name, command in get_command(app).commands.items():
        page = (tmp_path / "commands" / f"{name}.md").read_text(encoding="utf-8")
        blocks = re.findall(r"```bash\n(.*?)\n```", page, re.DOTALL)
        assert blocks == [example.line for example in command.examples]
        entries = re.findall(r"^`(.*)`\n: (.*)$", page, re.MULTILINE)
        listed = {word for entry, _ in entries for word in re.findall(r"--[\w-]+", entry)}
        params = [param for param in command.params if param.param_type_name == "option"]
        assert listed == {
            word for param in params for word in [*param.opts, *param.secondary_opts]
            if word.startswith("--")
        } | {"--help"}  # fmt: skip
        assert all(text for _, text in entries)


def test_the_python_reference_holds_every_public_name() -> None:
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\.\. auto\w+:: distviz\.(?:errors\.)?(\w+)", text, re.MULTILINE))
    listed |= set(re.findall(r"\b\w+Error\b", text))
    assert set(distviz.__all__) <= listed
