"""Where a folder is written before it is complete, and what a killed process leaves of it.

The process that writes holds a lock on the staging folder. One that nobody locks belongs to a
process that was killed: the next command that writes there removes it, and puts back the folder
that it was replacing.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: nothing is locked, and nothing that is left is removed
    fcntl = None  # type: ignore[assignment]

_PREFIX = ".distviz-"
_NAME = re.compile(rf"{re.escape(_PREFIX)}[a-z0-9_]{{8}}")
_NEW, _OLD = "new", "old"


@dataclass
class StagingFolder:
    """A hidden folder with what is not complete yet.

    Attributes
    ----------
    path
        The folder itself.
    lock
        An open file descriptor with the lock; None where folders cannot be locked.
    """

    path: Path
    lock: int | None

    @classmethod
    def create(cls, parent: Path) -> StagingFolder:
        """Create and lock a staging folder in ``parent``.

        Raises
        ------
        OSError
            If ``parent`` cannot be written.
        """
        while True:
            path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
            lock = _lock(path, waits=True)
            if path.exists():  # before it was locked, another process could remove it
                (path / _NEW).mkdir()
                return cls(path, lock)
            _unlock(lock)

    @property
    def new(self) -> Path:
        """The folder to write."""
        return self.path / _NEW

    def replace(self, out: Path) -> None:
        """Move the new folder to ``out``; what was there is removed, or restored on an error."""
        if not out.exists():
            self.new.rename(out)
            return
        old = self.path / _OLD / out.name
        old.parent.mkdir()
        out.rename(old)
        try:
            self.new.rename(out)
        except BaseException:
            old.rename(out)
            old.parent.rmdir()
            raise
        shutil.rmtree(old.parent, ignore_errors=True)

    def merge(self, out: Path) -> None:
        """Move the files of the new folder into ``out``; its other files stay."""
        for file in sorted(path for path in self.new.rglob("*") if not path.is_dir()):
            place = out / file.relative_to(self.new)
            place.parent.mkdir(parents=True, exist_ok=True)
            file.replace(place)

    def remove(self) -> None:
        """Remove the staging folder, unless it holds a folder that could not be restored."""
        shutil.rmtree(self.new, ignore_errors=True)
        with suppress(OSError):
            self.path.rmdir()
        _unlock(self.lock)
        self.lock = None


def remove_abandoned(parent: Path) -> None:
    """Remove the staging folders of killed processes, and restore what they were replacing."""
    if fcntl is None:
        return
    with suppress(OSError):  # it cannot be read
        for path in [path for path in parent.iterdir() if _NAME.fullmatch(path.name)]:
            _remove_if_abandoned(path)


def _remove_if_abandoned(path: Path) -> None:
    lock = _lock(path)
    if lock is None:
        return
    with suppress(OSError):
        if {entry.name for entry in path.iterdir()} <= {_NEW, _OLD}:
            for old in (path / _OLD).glob("*"):
                if not os.path.lexists(path.parent / old.name):
                    old.rename(path.parent / old.name)
            shutil.rmtree(path)
    _unlock(lock)


def _lock(path: Path, *, waits: bool = False) -> int | None:
    """Lock a folder until the descriptor is closed; None if that is not possible."""
    if fcntl is None:
        return None
    lock = None
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
    except OSError:
        _unlock(lock)
        return None
    return lock


def _unlock(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)
