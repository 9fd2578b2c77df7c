"""``--force`` replaces only what distviz wrote, and follows no link."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support import synthetic_fillers
from support.synthetic_allocations import allocation_of
from support.synthetic_comparisons import make
from support.synthetic_runs import silu_run
from support.synthetic_sweeps import sweep_of
from support.synthetic_trainings import training

from distviz.errors import RequestError
from distviz.plots import FigureSpecs
from distviz.reports import export as exports
from distviz.reports import report_folders, write_folder
from distviz.results.loading import _KINDS
from distviz.results.output_folder import (
    _FILES,
    MANIFESTS,
    advice_for,
    check_output,
    check_replaceable,
    result_at,
)
from distviz.studies import evaluate_whatif
from distviz.studies.comparison import compare_runs
from distviz.studies.whatif import parse_whatif


@pytest.fixture
def result(tmp_path: Path) -> Path:
    folder = tmp_path / "result"
    (folder / "figures").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"schema_version": 1}))
    (folder / "figures" / "overview.png").write_bytes(b"drawn")
    return folder


def test_all_kinds_of_results_are_known() -> None:
    assert set(MANIFESTS) == {kind.FILE for kind in _KINDS}


def test_every_table_of_a_result_is_known() -> None:
    tables = {name for kind in _KINDS for name in {**kind.TABLES, **kind.OPTIONAL}}
    assert tables <= _FILES


@pytest.mark.parametrize(
    "kind", ["run", "comparison", "filler", "sweep", "allocation", "whatif", "training"]
)
def test_what_distviz_writes_is_replaced(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the names of its files: figures are empty ones here."""

    def touch(specs: FigureSpecs, place: Path, formats: Sequence[str], *_: Any) -> None:
        for name in specs:
            for form in formats:
                (place / f"{name}.{form}").touch()

    monkeypatch.setattr(exports, "_draw", touch)
    first, second = make(1).run, make(2).run
    results = {
        "run": lambda: silu_run().run,
        "comparison": lambda: compare_runs(first, second),
        "filler": synthetic_fillers.study,
        "sweep": sweep_of,
        "allocation": allocation_of,
        "training": lambda: training().training,
        "whatif": lambda: evaluate_whatif(first, parse_whatif(phases="before"), "a"),
    }
    out = write_folder(results[kind](), tmp_path / "out", figures=("svg",))
    report_folders([out])
    assert list((out / "figures").glob("*.svg"))
    check_output(out, force=True)
    with pytest.raises(RequestError, match="exists"):
        check_output(out, force=False)


@pytest.mark.parametrize("name", ["notes.txt", "figures/notes.csv", "a/run.json.bak", "mine/x"])
def test_other_files_are_named(name: str, result: Path) -> None:
    (result / name).parent.mkdir(exist_ok=True)
    (result / name).write_text("mine")
    with pytest.raises(RequestError, match=f"{name} was not written by distviz"):
        check_output(result, force=True)


@pytest.mark.parametrize("text", ["", "{}", "[2]", "schema_version", "[" * 100_000, "\udcff"])
def test_a_manifest_has_a_schema_version(text: str, result: Path) -> None:
    (result / "run.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(RequestError, match="distviz did not write"):
        check_output(result, force=True)


@pytest.mark.parametrize("name", [".", "..", "", "q/..", "/", "a/../.."])
def test_a_folder_needs_a_name(name: str) -> None:
    with pytest.raises(RequestError, match="ends in no name"):
        check_output(Path(name), force=True)


@pytest.mark.parametrize("target", ["result", "nowhere", "link"])
@pytest.mark.parametrize("force", [True, False])
def test_a_link_is_not_followed(target: str, force: bool, result: Path) -> None:
    link = result.parent / "link"
    link.symlink_to(target)  # a result, nothing, itself
    with pytest.raises(RequestError, match="is a link"):
        check_output(link, force=force)


def test_links_inside_are_not_of_distviz(result: Path) -> None:
    outside = result.parent / "outside"
    outside.mkdir()
    (result / "a").symlink_to(outside)
    with pytest.raises(RequestError, match="a was not written by distviz"):
        check_output(result, force=True)
    (result / "a").unlink()
    (result / "stats.csv").symlink_to(outside / "stats.csv")
    with pytest.raises(RequestError, match=r"stats\.csv was not written by distviz"):
        check_output(result, force=True)


def test_new_and_empty_folders_are_written(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new", "new/below"):
        check_output(tmp_path / name, force=False)


@pytest.mark.parametrize("name", ["out", "new/out"])
def test_a_place_that_cannot_be_written_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RequestError, match=r"file is a file, so .*out cannot be created"):
        check_output(tmp_path / "file" / name, force=False)
    with pytest.raises(RequestError, match="cannot write to /proc") as caught:  # for root as well
        check_output(Path("/proc") / name, force=False)
    assert caught.value.hint == "give another --out"
    check_output(tmp_path / name, force=False)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(RequestError, match=r"cannot write to .*closed: Permission denied"):
        check_output(tmp_path / "closed" / "out", force=False)


def test_only_regular_files_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    check_replaceable(tmp_path / "file")
    (tmp_path / "link").symlink_to("file")
    for path in (tmp_path / "link", tmp_path, Path(os.devnull)):
        with pytest.raises(RequestError, match="is not replaced"):
            check_replaceable(path)


def test_advice_fits_what_was_given(result: Path, demo_folder: Path) -> None:
    assert result_at(result) == result_at(result / "run.json") == result
    assert result_at(result / "figures") is result_at(demo_folder) is None
    assert advice_for(result / "run.json") == f"give its folder: {result}"
    assert advice_for(demo_folder).endswith(f"is a model; measure it: distviz run {demo_folder}")
    named = result.parent / "a b.gguf"
    assert advice_for(named) == "give the folder of a result of distviz"  # there is no such file
    named.touch()
    assert advice_for(named).endswith(f"measure it: distviz run '{named}'")
    assert advice_for(result / "nowhere", "run") == "give the folder of a run"
