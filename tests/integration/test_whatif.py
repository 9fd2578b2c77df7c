"""distviz whatif: what it prints, writes and refuses, and that it needs no model and no torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.commands import HEAVY, process

from distviz.results.run import Run
from distviz.results.whatif import COLUMNS, WhatIf


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, demo_run: Run) -> Path:
    """A run folder without figures; not to be changed."""
    return demo_run.save(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture
def mine(folder: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may write beside, or break."""
    return Path(shutil.copytree(folder, tmp_path / "runs" / "mine"))


def test_a_run_is_asked_about(call: Any, mine: Path, demo_run: Run) -> None:
    done = call("whatif", mine)
    out = mine.parent / "mine-whatif"
    assert (done.code, done.err) == (0, "")
    assert done.out.rstrip().endswith(str(out))
    assert "worst" in done.out
    # Tables are as wide as their columns where nobody reads them on a screen.
    words = [line for line in done.out.splitlines()[:-1] if not line.startswith(" ")]
    assert max(map(len, words)) <= 80
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.*")) == [
        "figures/formats.png",
        "figures/zeros.png",
        "whatif.csv",
        "whatif.json",
    ]
    table = pd.read_csv(out / "whatif.csv")
    assert tuple(table) == COLUMNS
    assert set(table["phase"]) == {"before", "after"}
    assert set(table["layer"]) == {key.layer for key in demo_run.keys}
    assert sorted(set(table["level"].dropna())) == [tenth / 10 for tenth in range(1, 10)]
    assert json.loads((out / "whatif.json").read_text())["run"] == "mine"


def test_json_is_one_object(call: Any, mine: Path) -> None:
    done = call("whatif", mine, "--json", "--no-figures", "-o", "asked", "--thresholds", "0.1")
    told = json.loads(done.out)
    assert (done.code, told["kind"], told["folder"]) == (0, "whatif", "asked")
    rows = told["whatif"]
    assert list(rows[0]) == list(COLUMNS)
    assert len(rows) == len(WhatIf.load("asked").table)
    assert {row["question"] for row in rows} == {"sparsity", "threshold", "format"}
    assert not Path("asked/figures").exists()


def test_quiet_prints_the_folder_and_options_reach_the_questions(call: Any, mine: Path) -> None:
    flags = {
        "--sparsity": "50,99.5", "--thresholds": "0.25", "--formats": "int4,fp8-e5m2",
        "--ranges": "percentile,none", "--percentile": "95", "--layers": "0,2", "--sites": "act",
        "--phases": "after", "--figures": "svg,pdf", "--out": "asked",
    }  # fmt: skip
    done = call("whatif", mine, "--quiet", *[part for pair in flags.items() for part in pair])
    assert (done.code, done.out, done.err) == (0, "asked\n", "")
    found = WhatIf.load("asked")
    assert found.kinds("act") == [
        ("int4", "percentile"), ("fp8-e5m2", "none"), ("fp8-e5m2", "percentile"),
    ]  # fmt: skip
    assert (found.levels("act"), found.thresholds("act")) == ([0.5, 0.995], [0.25])
    assert found.phases("act") == ["after"]
    assert found.manifest["percentile"] == 95
    assert list(dict.fromkeys(found.table["layer"])) == [0, 2]
    assert {path.name for path in Path("asked/figures").iterdir()} == {
        "formats.svg", "formats.pdf", "zeros.svg", "zeros.pdf",
    }  # fmt: skip


def test_a_result_that_is_there_is_kept_unless_forced(call: Any, mine: Path) -> None:
    assert call("whatif", mine, "--no-figures", "--quiet").code == 0
    again = call("whatif", mine, "--no-figures", "--quiet")
    assert again.code == 2
    assert again.complaint()[0].endswith("mine-whatif exists")
    assert call("whatif", mine, "--no-figures", "--quiet", "--force").code == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--formats", "int9"], "--formats int9: unknown format 'int9'"),
        (["--layers", "99"], "--layers 99: layer 99 does not exist"),
        (["--sites", "gate"], "holds none of these layers and sites"),
        (["--phases", "sometimes"], "unknown phase 'sometimes'"),
        (["--sparsity", "150"], "--sparsity '150'"),
        (["--percentile", "-1"], "--percentile -1"),
        (["--percentile", "much"], "--percentile 'much' is not a number"),
        (["--percentile", "0.999"], "--percentile 0.999 may be 99.9% or 0.999%"),
        (["--figures", "gif"], "--figures is 'gif', unknown is 'gif'"),
    ],
)
def test_what_does_not_fit_is_two_lines_and_leaves_nothing(
    call: Any, mine: Path, options: list[str], words: str
) -> None:
    done = call("whatif", mine, *options)
    assert (done.code, done.out) == (2, "")
    assert words in done.complaint()[0]
    assert len(done.complaint()) <= 2
    assert [path.name for path in mine.parent.iterdir()] == ["mine"]


def test_other_folders_are_refused(call: Any, mine: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (mine / "inside").mkdir()
    shutil.copytree(mine, tmp_path / "both" / "a")
    cases = {
        tmp_path / "nowhere": "does not exist",
        tmp_path / "other": "is not a run: it has no run.json",
        tmp_path / "both": "is not a run, it contains 1 run",
    }
    for path, words in cases.items():
        done = call("whatif", path)
        assert (done.code, len(done.complaint()) <= 2) == (2, True)
        assert words in done.complaint()[0]
    (mine / "counts.parquet").write_bytes(b"nothing")
    damaged = call("whatif", mine)
    assert damaged.code == 2
    assert "counts.parquet is damaged" in damaged.complaint()[0]


def test_nothing_heavy_is_imported(mine: Path) -> None:
    heavy = {*HEAVY, "scipy"}
    code = (
        "import sys; from distviz import cli; "
        f"sys.argv = ['distviz', 'whatif', {str(mine)!r}, '--quiet']\n"
        "try: cli.main()\n"
        f"except SystemExit as ended: print(ended.code, {heavy!r} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True, text=True, check=False, env=os.environ,
    )  # fmt: skip
    assert (done.stderr, done.stdout.splitlines()[-1]) == ("", "0 set()")


def test_in_a_pipe_it_is_plain(mine: Path) -> None:
    done = process(
        "whatif", mine, "--no-figures", "--formats", "int8", env={"PYTHONIOENCODING": "ascii"}
    )
    assert (done.code, done.err) == (0, "")
    assert done.out.isascii()
    assert "\x1b" not in done.out
    words = [line for line in done.out.splitlines()[:-1] if not line.startswith(" ")]
    assert max(map(len, words)) <= 80


def test_the_folder_is_shown_and_exported_by_itself(call: Any, mine: Path) -> None:
    first = call("whatif", mine, "--no-figures", "-o", "asked")
    told = json.loads(call("whatif", mine, "--no-figures", "-o", "other", "--json").out)
    shutil.rmtree(mine)
    shown = call("show", "asked")
    assert (shown.code, shown.out) == (0, first.out)
    again = json.loads(call("show", "asked", "--json").out)
    assert again | {"folder": ""} == told | {"folder": ""}
    options = ["--figures", "svg", "--tables", "json", "--layers", "1"]
    done = call("export", "asked", "-o", "out", *options)
    assert done.code == 0
    assert {path.name for path in Path("out").iterdir()} == {
        "formats.svg", "zeros.svg", "whatif.json",
    }  # fmt: skip
    rows = json.loads(Path("out/whatif.json").read_text())
    assert rows == [row for row in told["whatif"] if row["layer"] == 1]
