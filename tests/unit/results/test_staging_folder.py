"""Staging folders: who holds one, who removes it, and what is restored."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from distviz.results.staging_folder import StagingFolder, remove_abandoned

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="folders cannot be locked")


def names(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def written(place: Path) -> StagingFolder:
    """A staging folder with one file."""
    stage = StagingFolder.create(place)
    (stage.new / "run.json").write_text("new")
    return stage


def test_a_new_folder_is_moved(tmp_path: Path) -> None:
    stage = written(tmp_path)
    stage.replace(tmp_path / "out")
    stage.remove()
    stage.remove()
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["run.json"]


def test_a_folder_is_replaced_or_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").touch()
    stage = written(tmp_path)
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path == stage.new:
            raise OSError(28, "No space left on device")
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail)
        with pytest.raises(OSError, match="No space left"):
            stage.replace(out)
    assert names(out) == ["old"]
    stage.replace(out)
    stage.remove()
    assert names(tmp_path) == ["out"]
    assert names(out) == ["run.json"]


def test_other_files_stay_where_a_folder_is_merged(tmp_path: Path) -> None:
    for name in ("run.json", "mine.txt"):
        (tmp_path / name).write_text("old")
    stage = written(tmp_path)
    stage.merge(tmp_path)
    stage.remove()
    assert names(tmp_path) == ["mine.txt", "run.json"]
    assert (tmp_path / "run.json").read_text() == "new"


def test_the_mode_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        stage = written(tmp_path)
    finally:
        os.umask(before)
    stage.replace(tmp_path / "out")
    stage.remove()
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750


KILLED = """
import os, signal, sys
from pathlib import Path
from distviz.results.staging_folder import StagingFolder
place = Path(sys.argv[1])
stage = StagingFolder.create(place)
(stage.new / "run.json").touch()
rename = Path.rename
def killed(path, target):
    if path == stage.new:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(path, target)
Path.rename = killed
stage.replace(place / "out")
"""


@pytest.mark.parametrize("replaces", [False, True])
def test_what_a_killed_process_leaves_is_removed(tmp_path: Path, replaces: bool) -> None:
    if replaces:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "old").touch()
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert names(tmp_path)[0].startswith(".distviz-")
    assert not (tmp_path / "out").exists()
    remove_abandoned(tmp_path)
    assert names(tmp_path) == (["out"] if replaces else [])
    if replaces:
        assert names(tmp_path / "out") == ["old"]


def test_an_abandoned_folder_does_not_replace_a_newer_one(tmp_path: Path) -> None:
    old = tmp_path / ".distviz-abcdefgh" / "old" / "out"
    old.mkdir(parents=True)
    (old / "old").touch()
    (tmp_path / "out").mkdir()
    remove_abandoned(tmp_path)
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == []


def _of_a_running_process(place: Path) -> None:
    code = "import sys; from distviz.results.staging_folder import remove_abandoned as remove; "
    code += "from pathlib import Path; remove(Path(sys.argv[1]))"
    stage = StagingFolder.create(place)
    subprocess.run([sys.executable, "-c", code, str(place)], check=True)
    assert stage.new.exists()


def _with_other_content(place: Path) -> None:
    (place / ".distviz-abcdefgh").mkdir()
    (place / ".distviz-abcdefgh" / "mine.txt").touch()


def _of_another_name(place: Path) -> None:
    for name in (".distviz-mine", ".distviz", "distviz-abcdefgh", ".distviz-abcdefghi"):
        (place / name / "new").mkdir(parents=True)


def _a_file(place: Path) -> None:
    (place / ".distviz-abcdefgh").touch()


def _a_link(place: Path) -> None:
    (place / "elsewhere" / "new").mkdir(parents=True)
    (place / ".distviz-abcdefgh").symlink_to("elsewhere")


@pytest.mark.parametrize(
    "make",
    [_of_a_running_process, _with_other_content, _of_another_name, _a_file, _a_link],
)
def test_other_folders_stay(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    remove_abandoned(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_is_missing_or_closed_holds_nothing(tmp_path: Path) -> None:
    remove_abandoned(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    remove_abandoned(tmp_path / "file")
    assert names(tmp_path) == ["file"]
