"""Folders and files replace what was there whole, or leave it unchanged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distviz.errors import MeasurementError, RequestError
from distviz.results.storage import read_manifest, replacing, staging, write_manifest


@pytest.mark.parametrize("is_durable", [False, True])
def test_a_file_is_replaced(is_durable: bool, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")
    with replacing(path, is_durable=is_durable) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_leaves_the_file_unchanged(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise error("full")

    with pytest.raises(error, match="full"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_at_the_end(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "run"
    with staging(out) as new:
        (new / "run.json").write_text("{}")
        assert not out.exists()
    assert [path.name for path in out.iterdir()] == ["run.json"]
    assert [path.name for path in out.parent.iterdir()] == ["run"]


@pytest.mark.parametrize("error", [RequestError, KeyboardInterrupt])
def test_an_error_leaves_no_folder(error: type[BaseException], tmp_path: Path) -> None:
    def fail(out: Path, *, merges: bool) -> None:
        with staging(out, merges=merges) as new:
            (new / "run.json").touch()
            raise error("no")

    with pytest.raises(error, match="no"):
        fail(tmp_path / "very" / "deep" / "run", merges=False)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine.txt").touch()
    with pytest.raises(error, match="no"):
        fail(tmp_path, merges=True)
    assert list(tmp_path.iterdir()) == [tmp_path / "mine.txt"]


def test_space_is_not_asked_for_where_it_is_not_missing(tmp_path: Path) -> None:
    def fail() -> None:
        with staging(tmp_path / "run"):
            raise OSError(13, "Permission denied")

    with pytest.raises(MeasurementError, match="run cannot be written: Permission denied") as error:
        fail()
    assert error.value.hint == "give another --out"


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    def fail() -> None:
        with staging(tmp_path / "run"):
            raise OSError(28, "No space left on device")

    with pytest.raises(MeasurementError, match="run cannot be written: No space left on device"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    content = {"schema_version": 3, "kind": "sweep", "name": "π"}
    write_manifest(tmp_path / "sweep.json", content)
    assert read_manifest(tmp_path, "sweep.json", "sweep folder") == content
    assert "π" in (tmp_path / "sweep.json").read_text(encoding="utf-8")
    with pytest.raises(RequestError, match=r"is not a run: it has no run\.json"):
        read_manifest(tmp_path)


def test_a_folder_of_a_newer_version_needs_a_newer_distviz(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(RequestError, match="with schema version 99; this version") as caught:
        read_manifest(tmp_path)
    assert caught.value.hint == "install a newer distviz"


def test_a_folder_of_version_1_needs_a_new_measurement(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"schema_version": 1}))
    with pytest.raises(RequestError, match="with schema version 1; this version") as caught:
        read_manifest(tmp_path)
    assert caught.value.hint == "measure again"
