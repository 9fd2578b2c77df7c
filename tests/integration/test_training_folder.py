"""The folder of a training by the commands: shown, reported, exported, its snapshots compared."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.commands import HEAVY
from support.synthetic_trainings import STEPS, activations, snapshot

from distviz.results import Training, TrainingWriter


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written as `Monitor` does: values and gradients, whose manifests name their step."""
    out = tmp_path_factory.mktemp("trained") / "train"
    writer = TrainingWriter(out, {"every": 10, "sites": "act", "layers": "all"})
    for step in STEPS:
        values = {layer: activations(step, layer) for layer in range(3)}
        a, b = (snapshot(values, site) for site in ("act", "gradient:act"))
        manifest = a.manifest | {"training": {"step": step}, "text": {"documents": 10}}
        tables = (
            pd.concat([x, y]) for x, y in ((a.documents, b.documents), (a.channels, b.channels))
        )
        writer.add(step, type(a)(manifest, a.sketches | b.sketches, *tables), tokens=240, passes=1)
    return out


def test_it_is_shown(call: Any, folder: Path) -> None:
    done = call("show", folder)
    assert done.code == 0
    assert "4 snapshots, steps 0 to 30" in done.out
    assert done.out.rstrip().endswith(str(folder))
    part = call("show", folder, "--layers", "1").out
    assert "\n 1  " in part
    assert "\n 0  " not in part


def test_json_has_the_verdict_and_the_drift(call: Any, folder: Path) -> None:
    told = json.loads(call("show", folder, "--json").out)
    assert (told["kind"], told["folder"]) == ("training", str(folder))
    assert [note["step"] for note in told["steps"]] == list(STEPS)
    expected = Training.load(folder)
    assert told["verdict"] == expected.verdict
    assert len(told["drift"]) == len(expected.drift) == 3 * 2 * 4


def test_a_report_and_figures_are_written(call: Any, folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert call("report", folder, "-o", page).code == 0
    assert "Distributions, by step" in page.read_text("utf-8")
    out = tmp_path / "exported"
    sites = ("--sites", "gradient:act", "--layers", "0,2")
    assert call("export", folder, "-o", out, *sites).code == 0
    assert {path.name for path in out.iterdir()} == {
        "curves.png", "steps.png", "timeline.csv", "drift.csv",
    }  # fmt: skip
    table = pd.read_csv(out / "timeline.csv")
    assert (set(table["site"]), set(table["layer"])) == ({"gradient:act"}, {0, 2})
    figures = call("export", folder, "-o", tmp_path / "two", "--figure", "steps")
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == [
        "steps.png",
        "steps_gradient-act.png",
    ], figures.err


def test_two_snapshots_are_compared_as_runs(call: Any, folder: Path, tmp_path: Path) -> None:
    sides = (folder / "step-0", folder / "step-30")
    done = call("compare", *sides, "--no-figures", "-o", tmp_path / "c")
    assert done.code == 0
    lines = done.out.split("\n")
    assert lines[0].startswith("A  synthetic (step 0) · silu")
    assert any(line.startswith("B  synthetic (step 30) · silu") for line in lines)
    assert "different texts" in done.out
    assert "different tokenizers" not in done.out
    one = call("compare", *sides, "--no-figures", "-o", tmp_path / "g", "--sites", "gradient:act")
    assert one.code == 0
    assert set(pd.read_csv(tmp_path / "g" / "compare.csv")["site"]) == {"gradient:act"}


def test_a_snapshot_says_its_step(call: Any, folder: Path) -> None:
    assert call("show", folder / "step-10").out.startswith("synthetic · step 10 · silu")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["compare", "FOLDER", "FOLDER/step-0"], "is a training, not a run"),
        (["whatif", "FOLDER"], "is not a run, it contains 4 runs"),
        (["export", "FOLDER", "--for", "teal"], "is not a run: it has no run.json"),
    ],
)
def test_commands_that_need_a_run_name_the_snapshots(
    call: Any, folder: Path, words: list[str], told: str, tmp_path: Path
) -> None:
    given: list[Any] = [word.replace("FOLDER", str(folder)) for word in words]
    done = call(*given, "-o", tmp_path / "x")
    assert done.code == 2
    assert told in done.err
    assert f"{folder}/step-0, {folder}/step-10" in done.err.replace("\n  ", " ")


def test_showing_it_never_imports_torch(folder: Path, tmp_path: Path) -> None:
    words = [["show", str(folder)], ["report", str(folder), "-o", str(tmp_path / "page.html")]]
    words.append(["export", str(folder), "-o", str(tmp_path / "out")])
    code = (
        "import sys\nfrom distviz.cli.app import app\n"
        f"for words in {words!r}:\n    app(words, standalone_mode=False)\n"
        f"print('IMPORTED', *({set(HEAVY)} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("IMPORTED")
