"""The folder of a filler study: written, read, cut, exported, shown; damage is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from support.synthetic_fillers import COUNTS, LAYERS, PROMPTS, SIZES, study

from distviz.errors import RequestError
from distviz.reports import export as exports
from distviz.results import loading as folders
from distviz.results.filler_study import FillerStudy

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.commands import Done

TABLES = ("attention", "filler", "positions", "tokens")
FIGURES = [
    "by_count_layer_001_act",
    *(f"{name}_{count:03d}_act" for name in ("filler", "positions") for count in COUNTS),
]


@pytest.fixture(scope="module")
def made() -> FillerStudy:
    return study()


@pytest.fixture(scope="module")
def saved(made: FillerStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exports.write_folder(made, tmp_path_factory.mktemp("studies") / "mine")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(saved, tmp_path / "mine"))


def test_what_is_written_is_read_again(made: FillerStudy, saved: Path) -> None:
    assert sorted(path.stem for path in (saved / "figures").iterdir()) == FIGURES
    read = folders.load(saved)
    assert isinstance(read, FillerStudy)
    for name, table in made.tables().items():
        pd.testing.assert_frame_equal(read.tables()[name], table, rtol=1e-12, check_dtype=False)
    assert sorted(read.runs) == [0, *COUNTS]
    assert read.manifest == made.manifest | {"verdict": made.verdict}
    assert read.verdict == made.verdict
    with pytest.raises(RequestError, match="exists"):
        made.save(saved)


def test_the_verdict_names_the_layer_that_changes(made: FillerStudy) -> None:
    first, second, basis = made.verdict.split("\n")
    assert first.startswith("4 filler tokens: no layer is shown to differ")
    assert second.startswith("16 filler tokens: layer 1 differs: ")
    assert basis.startswith(f"The unit is the document ({PROMPTS} pairs of documents)")
    assert made.most_changed(16) == [1, *(layer for layer in made.most_changed(16)[1:])]
    assert sorted(made.most_changed(16)) == list(LAYERS)


def test_a_part_holds_the_layers_asked_for(made: FillerStudy) -> None:
    part = made.select([1], None)
    for table in part.tables().values():
        assert set(table["layer"]) == {1}
    assert len(part.table) == len(COUNTS) * len(SIZES)
    assert made.n_layers == 3
    with pytest.raises(RequestError, match=r"filler study holds none.*\n?.*layers 0, 1, 2"):
        made.select(None, ["gate"])


def test_show_and_export_from_the_folder_alone(folder: Path, call: Callable[..., Done]) -> None:
    shown = call("show", folder)
    assert shown.code == 0
    assert "16 filler tokens: layer 1 differs" in shown.out
    assert shown.out.rstrip().endswith(str(folder))
    found = json.loads(call("show", folder, "--json").out)
    assert (found["kind"], found["folder"]) == ("filler", str(folder))
    assert len(found["filler"]) == len(COUNTS) * len(LAYERS) * len(SIZES)
    done = call("export", folder, "--figures", "svg,pdf", "--tables", "json", "--layers", "0-1")
    assert done.code == 0
    place = folder.parent / "mine-export"
    assert sorted(path.name for path in place.iterdir()) == sorted(
        [f"{name}.json" for name in TABLES]
        + [*(f"{n}.{k}" for n in FIGURES for k in ("svg", "pdf"))]
    )
    rows = json.loads((place / "filler.json").read_text())
    assert {row["layer"] for row in rows} == {0, 1}
    assert call("export", folder, "--sites", "gate", "--out", "x").code == 2
    assert call("export", folder, "--layers", "7", "--out", "x").code == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("filler.json", None, "is not a result of distviz"),
        ("filler.json", "{", "filler.json is damaged"),
        ("filler.json", '{"schema_version": 99}', "was written with schema version 99"),
        ("filler.json", '{"schema_version": 3}', "filler.json is damaged: its counts are None"),
        ("filler.json", '{"schema_version": 3, "counts": [0, 5]}', "filler.csv is damaged: it do"),
        ("filler.csv", None, "filler.csv is missing"),
        ("filler.csv", "", "filler.csv is damaged"),
        ("filler.csv", "layer,site\n1,act\n", "filler.csv is damaged: it has no column"),
        ("positions.csv", None, "positions.csv is missing"),
        ("positions.csv", "layer\n1\n", "positions.csv is damaged: it has no column"),
        ("tokens.parquet", None, "tokens.parquet is missing"),
        ("tokens.parquet", "PAR1", "tokens.parquet is damaged"),
        ("attention.csv", None, "attention.csv is missing"),
        ("attention.csv", "layer\n1\n", "attention.csv is damaged: it has no column"),
        ("count_004/run.json", None, "count_004 is not a run"),
        ("count_016/counts.parquet", "PAR1", "count_016/counts.parquet is damaged"),
    ],
)
def test_damage_is_named(
    folder: Path, name: str, content: str | None, message: str, call: Callable[..., Done]
) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    for command in ("show", "export"):
        done = call(command, folder)
        assert done.code == 2
        assert done.out == ""
        assert len(done.err.splitlines()) <= 2
        assert message in done.err
    assert not (folder.parent / "mine-export").exists()


def test_a_study_is_no_side_of_a_comparison(folder: Path, call: Callable[..., Done]) -> None:
    done = call("compare", folder, folder)
    assert done.code == 2
    assert "is a filler study, not a run" in done.err
    assert "count_000" in done.err
