"""The functions of Python and the commands: the same tables to the byte, the same refusals."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.commands import Done
from support.texts import TEXTS

import distviz
from distviz.errors import RequestError

ROWS = [{"text": text} for text in TEXTS[:3]]
PROMPTS = [{"system": "Be brief.", "question": "2 + 2?"}, {"system": "", "question": "3 - 1?"}]
SMALL = {"max_length": 32, "device": "cpu", "figures": []}
TYPED = ("--max-length", "32", "--device", "cpu", "--no-figures")
CHANGING = {"seconds", "created", "out", "figures", "checksum", "checksums"}
"""Entries of manifests that may differ: times, and what names the folder or a figure."""


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    return path


def files_of(folder: Path) -> Iterator[Path]:
    return (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())


def stated(path: Path) -> Any:
    def without(data: Any) -> Any:
        if isinstance(data, dict):
            return {name: without(one) for name, one in data.items() if name not in CHANGING}
        return [without(one) for one in data] if isinstance(data, list) else data

    return without(json.loads(path.read_text("utf-8")))


def assert_same(first: Path, second: Path) -> None:
    names = list(files_of(first))
    assert names == list(files_of(second))
    assert any(name.suffix == ".csv" for name in names)
    for name in names:
        if name.suffix == ".json":
            assert stated(first / name) == stated(second / name), name
        else:
            assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_run(call: Callable[..., Done], text: Path) -> None:
    flags = ("--layers", "0,1", "--sites", "act,down", "--p1", "90", "--p-max", "20%")
    assert call("run", "--text", text, *flags, "--out", "typed", *TYPED).code == 0
    found = distviz.run(
        text=[text], layers=[0, 1], sites=["act", "down"], p1=90, p_max=0.2, out="given", **SMALL
    )
    assert_same(Path("typed"), Path("given"))
    assert found.sketches == distviz.Run.load("given").sketches


@pytest.mark.extended
def test_compare(call: Callable[..., Done], text: Path, demo_folder: Path) -> None:
    flags = ("--sites", "act", "--b-dtype", "fp32", "--b-c", "0.3", "--b-arm-layers", "0,1")
    sides = ("demo", demo_folder)
    assert call("compare", *sides, "--text", text, *flags, "--out", "typed", *TYPED).code == 0
    found = distviz.compare(
        *sides, text=[text], sites="act", b_dtype="fp32", b_c=0.3, b_arm_layers=[0, 1],
        out=Path("given"), **SMALL,
    )  # fmt: skip
    assert_same(Path("typed"), Path("given"))
    assert found.manifest["phase_b"] == "after"


def test_sweep(call: Callable[..., Done], text: Path) -> None:
    flags = ("--c", "0.05,1", "--p1", "80,0.5%", "--arm-layers", "0", "--arm-layers", "0,1")
    flags += ("--seeds", "2")
    assert call("sweep", "--text", text, *flags, "--out", "typed", *TYPED).code == 0
    found = distviz.sweep(
        text=[text], c=[0.05, 1], p1=[80, 0.5], arm_layers=["0", "0,1"], seeds=2, out="given",
        **SMALL,
    )  # fmt: skip
    assert_same(Path("typed"), Path("given"))
    assert isinstance(found, distviz.results.Sweep)


@pytest.mark.extended
def test_allocation(call: Callable[..., Done], text: Path) -> None:
    flags = ("--allocate", "50%", "--at", "act")
    assert call("sweep", "--text", text, *flags, "--out", "typed", *TYPED).code == 0
    found = distviz.sweep(text=[text], allocate="50%", at="act", out="given", **SMALL)
    assert_same(Path("typed"), Path("given"))
    assert isinstance(found, distviz.results.Allocation)


def test_filler(call: Callable[..., Done], prompts: Path) -> None:
    typed = ("--text", prompts, "--counts", "2,5", "--filler", "/", "--device", "cpu")
    assert call("filler", "demo", *typed, "--no-figures", "--out", "typed").code == 0
    distviz.filler(
        "demo", text=[prompts], counts=[2, 5], filler="/", device="cpu", figures=[], out="given"
    )
    assert_same(Path("typed"), Path("given"))


def test_whatif_report_and_export(call: Callable[..., Done], demo_run: distviz.Run) -> None:
    demo_run.save("run")
    flags = ("--sparsity", "50,90", "--formats", "int8", "--layers", "0,1", "--no-figures")
    assert call("whatif", "run", *flags, "--out", "typed").code == 0
    asked: dict[str, Any] = {"sparsity": [50, 90], "formats": ["int8"], "layers": [0, 1]}
    found = distviz.whatif("run", **asked, figures=[], out="given")
    assert_same(Path("typed"), Path("given"))
    assert distviz.whatif(demo_run, **asked).table.equals(found.table)
    assert call("report", "run", "--out", "typed.html").code == 0
    assert distviz.report("run", out="given.html") == Path("given.html")
    assert Path("typed.html").read_bytes() == Path("given.html").read_bytes()
    assert call("export", "run", "--tables", "json", "--out", "typed-tables").code == 0
    written = distviz.export("run", tables="json", out="given-tables")
    names = [one.name for one in files_of(Path("typed-tables"))]
    assert sorted(one.name for one in written) == sorted(names)
    for name in names:
        given, typed = (Path(folder, name) for folder in ("given-tables", "typed-tables"))
        assert given.read_bytes() == typed.read_bytes(), name


def test_inspect_and_generate(call: Callable[..., Done]) -> None:
    done = call("inspect", "demo", "--layer", "1", "--json")
    assert json.loads(done.out) == json.loads(
        json.dumps(distviz.inspect("demo", layer=1).as_dict())
    )
    done = call("generate", "demo", "--prompt", "Anna had", "--max-new-tokens", "5", "--json")
    found = distviz.generate("demo", prompt="Anna had", max_new_tokens=5)
    assert json.loads(done.out) == json.loads(json.dumps(found.summary()))


# Refusals ---------------------------------------------------------------------------------------


def test_an_existing_folder_is_not_replaced(text: Path, call: Callable[..., Done]) -> None:
    distviz.run(text=[text], arm_layers="none", out="mine", **SMALL)
    before = Path("mine/run.json").read_bytes()
    with pytest.raises(RequestError, match=r"^mine exists\ngive another out, or force=True to"):
        distviz.run(text=[text], arm_layers="none", out="mine", **SMALL)
    with pytest.raises(RequestError, match=r"^mine exists"):
        distviz.whatif("mine", out="mine")
    assert Path("mine/run.json").read_bytes() == before
    distviz.run(text=[text], arm_layers="none", out="mine", force=True, **SMALL)
    distviz.run(text=[text], arm_layers="none", out="mine", resume=True, **SMALL)


def test_nothing_is_written_without_out(text: Path, call: Callable[..., Done]) -> None:
    own = {"text": [text], "max_length": 32, "device": "cpu"}
    distviz.run(**own, arm_layers="none")
    distviz.sweep(**own, c=0.1)
    distviz.compare("demo", "demo", **own, layers=0)
    assert list(Path.cwd().rglob("*")) == []
    for given in ({"force": True}, {"figures": "svg"}, {"report": True}, {"x_axis": "linear"}):
        (name,) = given
        with pytest.raises(RequestError, match=f"^{name}.* has no effect without out"):
            distviz.run(**own, **given)


def test_documents_of_python(call: Callable[..., Done], text: Path) -> None:
    """Texts in memory are those of the file, in every function."""
    documents = [row["text"] for row in ROWS]
    own = {"max_length": 32, "device": "cpu"}
    swept = [distviz.sweep(text=one, c=[0.1, 1], **own) for one in (documents, [text])]
    assert swept[0].table.equals(swept[1].table)
    assert swept[0].recommendation.command.endswith("--text -")
    sides = [
        distviz.compare("demo", "demo", text=one, layers=0, **own) for one in (documents, [text])
    ]
    assert sides[0].table.equals(sides[1].table)
    studies = [
        distviz.filler("demo", text=one, counts=2, device="cpu")
        for one in (PROMPTS, [_written(PROMPTS)])
    ]
    assert (
        studies[0]
        .changes(2, "log_variance_ratio")
        .equals(studies[1].changes(2, "log_variance_ratio"))
    )


def _written(rows: list[dict[str, str]]) -> Path:
    path = Path("rows.jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
