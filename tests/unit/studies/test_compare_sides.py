"""The sides of a comparison: folders, copies, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.synthetic_comparisons import Made

from distviz.errors import RequestError
from distviz.results.comparison import Comparison
from distviz.results.run import Run
from distviz.studies import comparison as comparing


@pytest.fixture
def folder(comparison: Comparison, tmp_path: Path) -> Path:
    return comparison.save(tmp_path / "compared")


def test_runs_from_folders_are_copied(first: Made, second: Made, tmp_path: Path) -> None:
    sides = [made.run.save(tmp_path / name) for made, name in ((first, "one"), (second, "two"))]
    found = comparing.compare(*sides)
    out = found.save(tmp_path / "out")
    for side, name in zip(sides, "ab", strict=True):
        for path in side.iterdir():
            assert (out / name / path.name).read_bytes() == path.read_bytes()
    # A folder that is no longer that run is not copied.
    (sides[0] / "run.json").write_text("{}")
    again = found.save(tmp_path / "again")
    assert Run.load(again / "a").manifest == first.run.manifest


@pytest.mark.parametrize(
    ("side", "message"),
    [
        ("compared", r"compared is a comparison, not a run\ngive .*compared/a or"),
        (".", "is neither a run nor a checkpoint"),
        ("nosuch/place/x", "MODEL '.*' does not exist"),
    ],
)
def test_sides_that_are_no_runs(folder: Path, first: Made, side: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        comparing.compare(first.run, folder.parent / side)
    assert caught.value.exit_code == 2


def test_a_phase_that_a_run_lacks_is_refused_before_anything_is_measured(first: Made) -> None:
    with pytest.raises(RequestError, match="the run holds no phase after"):
        comparing.compare(first.run, "demo", phase_a="after")
    with pytest.raises(RequestError, match="the run holds no phase before at site gate"):
        comparing.compare(first.run, "demo", sites="gate")
    with pytest.raises(RequestError, match="unknown site 'gat'"):
        comparing.compare(first.run, "demo", sites="gat")
