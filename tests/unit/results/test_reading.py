"""Files of a folder: what is no regular file or no JSON is refused, what changed is named."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.synthetic_comparisons import make
from support.synthetic_runs import silu_run, with_tables

from distviz.errors import RequestError
from distviz.results.loading import load
from distviz.results.reading import Folder, read_file
from distviz.results.run import Run
from distviz.studies.comparison import compare_runs
from distviz.studies.whatif import evaluate_whatif, parse_whatif


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return with_tables(silu_run().run).save(tmp_path / "run")


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


KINDS = {"directory": Path.mkdir, "fifo": _fifo, "loop": _loop, "device": _device}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["run.json", "counts.parquet", "plans.csv", "stats.csv"])
def test_only_regular_files_are_read(kind: str, name: str, folder: Path) -> None:
    (folder / name).unlink()
    KINDS[kind](folder / name)
    if name == "stats.csv":
        assert "stats.csv changed" in load(folder).file_warnings[0]
    else:
        with pytest.raises(RequestError, match=r"regular file|no run|cannot be read|not a res"):
            load(folder)


def test_a_link_to_a_file_is_read(folder: Path) -> None:
    shutil.move(folder / "plans.csv", folder.parent / "plans.csv")
    (folder / "plans.csv").symlink_to(folder.parent / "plans.csv")
    assert not Run.load(folder).file_warnings
    with pytest.raises(RequestError, match="is missing"):
        read_file(folder / "nothing.csv")


def _edit(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize("name", ["stats.csv", "plans.csv", "histograms.csv"])
def test_a_table_changed_by_hand_is_named_everywhere(name: str, folder: Path) -> None:
    assert not Run.load(folder).file_warnings
    path = folder / name
    path.write_bytes(path.read_bytes().replace(b"0", b"1", 1) + b"")
    run = Run.load(folder)
    (warning,) = run.file_warnings
    assert f"{name} changed after distviz wrote the folder" in warning
    assert run.summary()["warnings"] == [warning]
    assert run.select(layers=[0]).file_warnings == (warning,)
    assert evaluate_whatif(run, parse_whatif(sparsity="50")).manifest["warnings"] == [warning]
    again = Run.load(run.save(folder.parent / "again"))
    assert not again.file_warnings
    assert again.manifest["warnings"] == [warning]


def test_a_changed_manifest_is_named(folder: Path) -> None:
    _edit(folder / "run.json", dtype="float64")
    assert "run.json changed" in Run.load(folder).file_warnings[0]


@pytest.mark.parametrize("field", ["checksum", "checksums"])
def test_one_of_the_checksums_alone_is_a_change(field: str, folder: Path) -> None:
    content = json.loads((folder / "run.json").read_text())
    del content[field]
    (folder / "run.json").write_text(json.dumps(content))
    assert "run.json changed" in Run.load(folder).file_warnings[0]


def test_a_folder_without_checksums_is_read(folder: Path) -> None:
    content = json.loads((folder / "run.json").read_text())
    del content["checksum"], content["checksums"]
    (folder / "run.json").write_text(json.dumps(content))
    (folder / "stats.csv").unlink()
    assert not Run.load(folder).file_warnings
    assert Run.load(folder).manifest == content


def test_another_format_of_the_manifest_is_no_change(folder: Path) -> None:
    _edit(folder / "run.json")
    found = Run.load(folder)
    assert not found.file_warnings
    assert not {"checksum", "checksums"} & set(found.manifest)


def test_checksums_name_no_file_outside(folder: Path) -> None:
    _edit(folder / "run.json", checksums={"../../secret": "0"})
    with pytest.raises(RequestError, match=r"run\.json is damaged: .* in checksums"):
        Run.load(folder)


def test_a_swapped_run_of_a_comparison_is_named(tmp_path: Path) -> None:
    first, second = make(1).run, make(2).run
    folder = compare_runs(first, second).save(tmp_path / "c")
    shutil.rmtree(folder / "a")
    second.save(folder / "a")
    (warning,) = load(folder).file_warnings
    assert "a/run.json changed" in warning


def test_several_files_are_in_one_warning(folder: Path) -> None:
    for name in ("stats.csv", "histograms.csv", "classes.csv", "plans.csv"):
        (folder / name).write_bytes((folder / name).read_bytes() + b"\n")
    (warning,) = Folder(folder, "run.json", "run").changes()
    assert "classes.csv, histograms.csv, plans.csv and 1 more changed" in warning
