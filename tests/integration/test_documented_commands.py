"""Every command line of README, documentation and help does what it is shown for: it ends well.

The lines are collected, so a new one is a new test. What a line names (``model``, ``runs/mine``,
``prompts.jsonl``) must be in `home`; a name that is not fails like any user's typing error. Models
and texts are tiny: the embedded texts too are replaced by shorter ones.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
from support.documented_commands import ROOT, Line, command_lines, mentions
from support.packages import need
from support.synthetic_trainings import training
from support.tiny_models import save_tiny

import distviz
from distviz.cli import app as cli
from distviz.reports import export as exports

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.commands import Done

    from distviz.plots import FigureSpecs

LINES = command_lines()
LAUNCHERS = {
    "torchrun": "torch.distributed.run",
    "accelerate": "accelerate.commands.launch",
}
ELSEWHERE = {
    "python": "installation, scripts of the repository",
    "python3.11": "the environment of vLLM's tests",
    ".": "installation, run by CI from README",
    "pip": "installation, run by CI from README",
    "make": "the environment, the demo, the tests: run by CI",
    "pytest": "the tests themselves, run by CI from README",
}
"""What is no command line of distviz, and why it is not run here."""
TEXTS = [
    "Anna had 12 apples and 3 pears, so she gave 12 - 3 = 9 of them away.",
    "If it rains, then we stay at home because the road is wet.",
    "One morning in January, Maria found a warm telescope behind the market.",
]

# PEFT asks transformers for a property under its old name.
pytestmark = [
    pytest.mark.extended,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]


def _program(line: Line) -> str:
    return line.words[0]


def _named(program: set[str]) -> list[Any]:
    return [pytest.param(line, id=line.text) for line in LINES if _program(line) in program]


# What the lines name ------------------------------------------------------------------------


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, demo_folder: Path) -> Path:
    """A folder with everything that the lines name; not to be changed."""
    place = tmp_path_factory.mktemp("documented")
    (place / "path" / "to").mkdir(parents=True)
    for name, kind in (
        ("model", "llama"),
        ("path/to/model", "llama"),
        ("base", "llama"),
        ("other-model", "qwen3"),
        ("some-moe", "mixtral"),
    ):
        save_tiny(kind, place / name, demo_folder)
    _save_adapter(place / "adapter", place / "base")
    _write_texts(place, demo_folder)
    silu = (
        '[layer]\nactivation = "silu"\nhidden_size = 32\nintermediate_size = 48\n'
        "heads = 4\nkv_heads = 2\ndocuments = 8\ntokens = 16\n"
    )
    (place / "silu.toml").write_text(silu)
    (place / "gelu.toml").write_text(silu.replace('"silu"', '"gelu"'))
    (place / "sample_configs").symlink_to(ROOT / "sample_configs")
    _measure(place)
    return place


def _save_adapter(folder: Path, base: Path) -> None:
    peft: Any = need("peft")
    from transformers import AutoModelForCausalLM

    lora = peft.LoraConfig(r=2, target_modules=["up_proj"], task_type="CAUSAL_LM")
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora).save_pretrained(folder)


def _write_texts(place: Path, demo: Path) -> None:
    # Nine documents: intervals are withheld below eight.
    texts = [{"text": f"{text} {number}"} for number in range(3) for text in TEXTS]
    prompts = [{"system": "Be brief. ", "question": f"What is {n} + 4?"} for n in range(9)]
    embedded = place / "package" / "demo"
    embedded.mkdir(parents=True)
    for folder in (demo.parent, demo):
        for path in folder.iterdir():
            if path != demo:
                (place / "package" / path.relative_to(demo.parent)).symlink_to(path)
    for path, rows in (
        (place / "long.jsonl", texts),
        (place / "prompts.jsonl", prompts),
        (embedded / "documents.jsonl", texts),
        (embedded / "prompts.jsonl", prompts),
    ):
        path.unlink(missing_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _measure(place: Path) -> None:
    """Make what the names of results stand for."""
    with contextlib.chdir(place):
        text = [Path("long.jsonl")]
        distviz.run("model", text=text, device="cpu").save("runs/mine")
        distviz.run(text=text, device="cpu").save("runs/demo")
        distviz.run(text=text, device="cpu", sites="linear", arm_layers="none").save("runs/linear")
        training().training.save("runs/train")
        rows = "".join(f"{layer},0.1\n" for layer in range(99))
        Path("runs/half").mkdir()
        Path("runs/half/allocation.csv").write_text(f"layer,threshold\n{rows}")


@pytest.fixture
def sandbox(home: Path, tmp_path: Path) -> Any:
    """A copy of `home` that a line may write into; large things are links."""
    place = tmp_path / "sandbox"
    place.mkdir()
    for path in home.iterdir():
        if path.name not in ("runs", "package"):
            (place / path.name).symlink_to(path)
    shutil.copytree(home / "runs", place / "runs")
    yield place
    shutil.rmtree(place)


@pytest.fixture
def short_texts(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short texts in the place of the embedded ones."""
    given = resources.files

    def files(package: str) -> Any:
        return home / "package" if package == "distviz" else given(package)

    monkeypatch.setattr(resources, "files", files)


@pytest.fixture
def few_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the first figure of each kind: other tests draw those of every layer and site."""
    every = exports.figure_specs

    def first_of_each_kind(*given: Any) -> FigureSpecs:
        specs = every(*given)
        names = {spec.kind: name for name, spec in reversed(specs.items())}
        return {name: spec for name, spec in specs.items() if names[spec.kind] == name}

    monkeypatch.setattr(exports, "figure_specs", first_of_each_kind)


def _make_room(sandbox: Path, words: list[str]) -> None:
    """Take away a result of the same name: a line that writes there is shown before it is used."""
    for option, value in itertools.pairwise(words):
        if option in ("--out", "-o") and (sandbox / value).is_dir() and "--force" not in words:
            shutil.rmtree(sandbox / value)


# The lines ----------------------------------------------------------------------------------


def test_lines_are_found_and_every_program_is_known() -> None:
    assert len(LINES) > 50
    shown = {place for line in LINES for place in line.places}
    assert {"README.md", "distviz run --help", "distviz  --help"} <= shown
    for line in LINES:
        assert _program(line) in {"distviz", *LAUNCHERS, *ELSEWHERE}, (
            f"{line.places[0]}: '{line.text}' is no command line of distviz; name it in ELSEWHERE, "
            "or run it"
        )


@pytest.mark.usefixtures("short_texts", "few_figures")
@pytest.mark.parametrize("line", [case for case in _named({"distviz"}) if case.values[0].is_plain])
def test_a_documented_line(
    line: Line, sandbox: Path, call: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(sandbox)
    _make_room(sandbox, line.words)
    done = call(*line.words[1:])
    assert done.code == 0, f"{line.places}: {done.err}"
    assert done.out.strip()
    out = [value for word, value in itertools.pairwise(line.words) if word == "--out"]
    assert all((sandbox / name).exists() for name in out)


@pytest.mark.parametrize(
    "line", [case for case in _named({"distviz"}) if not case.values[0].is_plain]
)
def test_a_documented_line_of_several_commands(line: Line, sandbox: Path, tmp_path: Path) -> None:
    shim = tmp_path / "bin" / "distviz"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m distviz "$@"\n')
    shim.chmod(0o755)
    done = subprocess.run(
        ["/bin/bash", "-euo", "pipefail", "-c", line.text],
        cwd=sandbox, capture_output=True, text=True, check=False,
        env=os.environ | {"PATH": f"{shim.parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.returncode == 0, f"{line.places}: {done.stderr}"
    if line.output:
        assert done.stdout.splitlines()[-len(line.output) :] == line.output


def _launcher_words(line: Line) -> tuple[list[str], list[str]]:
    """Options of the launcher, and words of distviz; an ellipsis stands for what one adds."""
    words = [word for word in line.words if word != "…"]
    start = words.index("distviz")
    assert words[start - 1] == "-m", line.text
    return words[1 + (words[0] == "accelerate") : start - 1], words[start + 1 :]


def _is_one_machine(line: Line) -> bool:
    return "--nnodes" not in line.words and "--num_machines" not in line.words


@pytest.mark.parametrize(
    "line", [case for case in _named(set(LAUNCHERS)) if _is_one_machine(case.values[0])]
)
def test_a_documented_launch(line: Line, sandbox: Path) -> None:
    options, words = _launcher_words(line)
    for name in ("--nproc-per-node", "--num_processes"):
        if name in options:  # as many as there are cores in CI
            options[options.index(name) + 1] = "2"
    with socket.create_server(("localhost", 0)) as server:
        port = str(server.getsockname()[1])
    port_option = "--master-port" if line.words[0] == "torchrun" else "--main_process_port"
    if "--text" not in words:
        words += ["--text", "long.jsonl"]
    launcher = [sys.executable, "-m", LAUNCHERS[line.words[0]], *options, port_option, port]
    _make_room(sandbox, words)
    done = subprocess.run(
        [*launcher, "-m", "distviz", *words, "--no-figures"],
        cwd=sandbox, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, f"{line.places}: {done.stderr}"
    assert Path(sandbox / done.stdout.splitlines()[-1], "run.json").exists()


@pytest.mark.parametrize(
    "line", [case for case in _named(set(LAUNCHERS)) if not _is_one_machine(case.values[0])]
)
def test_a_documented_launch_on_several_machines(line: Line) -> None:
    """Not run, for want of a second machine: the launcher and distviz must know its words."""
    from torch.distributed.run import get_args_parser

    options, words = _launcher_words(line)
    assert line.words[0] == "torchrun"
    asked = get_args_parser().parse_args([*options, "-m", "distviz", *words])
    assert (asked.training_script, asked.module) == ("distviz", True)
    _check_words(line.places[0], words)


def test_what_running_text_mentions_exists() -> None:
    found = list(mentions())
    assert len(found) > 10
    for place, words in found:
        _check_words(place, words[1:])


def _check_words(place: str, words: list[str]) -> None:
    """Make sure that a command and its options exist; its values may be placeholders."""
    program: Any = typer.main.get_command(cli.app)
    command: Any = program
    if words and not words[0].startswith("-") and words[0] != "COMMAND":
        assert words[0] in program.commands, f"{place}: distviz {' '.join(words)}"
        command = program.commands[words[0]]
    known = {"--help", "--install-completion", "--show-completion"}
    known |= {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
    for word in words:
        if word.startswith("--"):
            assert word.split("=")[0].rstrip(",.;:") in known, f"{place}: distviz {' '.join(words)}"
