"""Checkpoints of an unfinished measurement, beside its result, from which it can resume.

A state is whole or absent, and a digest over all of it reveals damage. Every process writes its own
file. A state lists the batches that it contains, so any number of processes can resume.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec

from distviz.errors import RequestError
from distviz.measure.world import World, current
from distviz.progress import Progress
from distviz.results import read_file, replacing
from distviz.stats import decode, encode

_MAGIC = b"distviz state 7\n"
_SUFFIX = ".state"
_MAX_TIME_SHARE = 0.02
_SHOWN = 3
_DIGEST = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")


class _State(msgspec.Struct):
    """The tree of a state."""

    request: dict[str, Any]
    batches: list[Annotated[int, msgspec.Meta(ge=0)]]
    content: Any


def write_state(path: Path, tree: dict[str, Any]) -> None:
    """Write a tree completely, or leave the file as it was.

    Raises
    ------
    OSError
        If the disk is full or the folder cannot be written.
    """
    data = encode(tree)
    with replacing(path, is_durable=True) as temporary, temporary.open("wb") as file:
        file.writelines([_MAGIC, _digest(data), data])


def read_state(path: Path) -> tuple[dict[str, Any], str]:
    """Read what `write_state` wrote; return it with its digest.

    Raises
    ------
    ValueError
        If it is damaged; the message says how.
    """
    try:
        data = memoryview(read_file(path))
    except RequestError as error:
        raise ValueError(error.message) from error
    start = len(_MAGIC) + len(_digest(b""))
    if bytes(data[: len(_MAGIC)]) != _MAGIC:
        raise ValueError("it does not begin like a state of this version")
    digest = bytes(data[len(_MAGIC) : start])
    if digest != _digest(data[start:]):
        raise ValueError("its content does not agree with its checksum")
    tree = decode(data[start:])
    msgspec.convert(tree, _State)
    return tree, digest.decode().strip()


def _digest(data: bytes | memoryview) -> bytes:
    return hashlib.sha256(data).hexdigest().encode() + b"\n"


@dataclass
class CheckpointFolder:
    """Where a measurement saves its state, and how often.

    Parameters
    ----------
    folder
        Made when the first state is written.
    every
        Minimum seconds between two states; more where writing would take over 2 % of the time. 0
        saves after every batch.
    resumes
        Whether to resume from the states in the folder.
    is_part
        Whether other measurements of the same command follow, so that the finished state is saved,
        too; see `part`.

    Attributes
    ----------
    share
        Fraction of the work that the last state contains; 0 while unknown.
    """

    folder: Path
    every: float
    resumes: bool
    world: World = field(default_factory=current)
    is_part: bool = False
    share: float = 0.0
    _request: dict[str, Any] = field(default_factory=dict)
    _due: float = 0.0
    _is_broken: bool = False

    def exists(self) -> bool:
        """Whether there is a state to resume."""
        return bool(self._inside(f"rank-*{_SUFFIX}"))

    def _inside(self, pattern: str) -> list[Path]:
        """Return matching paths in the folder; none while another process removes it."""
        with suppress(FileNotFoundError):
            return sorted(self.folder.rglob(pattern))
        return []

    def part(self, name: str) -> CheckpointFolder:
        """Return the folder, inside this one, for one of the measurements of a command."""
        return CheckpointFolder(
            self.folder / name, self.every, self.resumes, self.world, is_part=True
        )

    def begin(
        self,
        request: dict[str, Any],
        progress: Progress,
        check: Callable[[Any], None] = lambda _: None,
    ) -> tuple[list[Any], set[int]]:
        """Find the states to resume: those that were written for this request.

        ``check`` is called with the content of each state and raises ValueError if files that it
        names are damaged.

        Returns
        -------
        The contents, as given to `save`, of the states that this process resumes; and the numbers
        of the batches in all states, whichever process resumes them.

        Raises
        ------
        RequestError
            If a state belongs to another request; the message names what differs.
        """
        self._request = request
        self._due = time.monotonic() + self.every
        if not self.resumes:
            return [], set()
        found = {
            path.name: self._entry(path, check)
            for path in sorted(self.folder.glob(f"rank-*{_SUFFIX}"))
        }
        entries = {name: entry | {"content": None} for name, entry in found.items()}
        by_rank = self.world.exchange("states", entries)
        chosen, notes = _choose(by_rank)
        done = {number for entry in chosen for number in entry["batches"]}
        if not (chosen or self.is_part):
            notes.append(f"no checkpoint in {self.folder}; starting from the beginning")
        for note in notes if self.world.rank == 0 else []:
            progress.note(note)
        names = [e["name"] for e in chosen if _rank_of(e, by_rank) == self.world.rank]
        return [found[name]["content"] for name in names], done

    def _entry(self, path: Path, check: Callable[[Any], None] = lambda _: None) -> dict[str, Any]:
        """Return what the processes have to know of a state, and its content."""
        try:
            tree, digest = read_state(path)
            self._refuse_other(path, tree["request"])
            check(tree["content"])
        except ValueError as error:
            return {"name": path.name, "damage": str(error)}
        return {"name": path.name, "digest": digest, "damage": None} | {
            "batches": tree["batches"],
            "content": tree["content"],
        }

    def _refuse_other(self, path: Path, request: dict[str, Any]) -> None:
        names = [n for n in {**request, **self._request} if request.get(n) != self._request.get(n)]
        if not names:
            return
        both = [(n, _short(request.get(n)), _short(self._request.get(n))) for n in names[:_SHOWN]]
        shown = [f"{name} {before}, now {now}" for name, before, now in both]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise RequestError(
            f"{path} belongs to another measurement: {'; '.join(shown)}{more}",
            f"give the same command, or another --out, or --force without --resume to remove "
            f"{self.folder}",
        )

    def save_if_due(
        self,
        content: Any,
        batches: Sequence[int],
        share: float,
        progress: Progress,
        *,
        is_last: bool = False,
    ) -> None:
        """Write a state if it is time, or if it is the last one of a part; see `save`."""
        if self.is_due() or (is_last and self.is_part and not self._is_broken):
            self.save(content, batches, share, progress)

    def is_due(self) -> bool:
        """Whether it is time for a state."""
        return not self._is_broken and time.monotonic() >= self._due

    def save(self, content: Any, batches: Sequence[int], share: float, progress: Progress) -> bool:
        """Write a state; ``content`` returns the tree to save.

        A disk that cannot be written does not end the measurement; it is reported once.

        Returns
        -------
        Whether it was written.
        """
        started = time.monotonic()
        tree = {"request": self._request, "batches": batches, "content": content()}
        before, self.share = self.share, share  # for an interruption from here on
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_state(self.folder / f"rank-{self.world.rank}{_SUFFIX}", tree)
        except OSError as error:
            self._is_broken, self.share = True, before
            progress.note(f"{self.folder} cannot be written ({error.strerror}): no state to resume")
            return False
        now = time.monotonic()
        cost = (now - started) / _MAX_TIME_SHARE
        self._due = now + (max(self.every, cost) if self.every else 0)
        return True

    def remove(self) -> None:
        """Remove every state, those of parts included; other files stay.

        All processes of a measurement may call it at the same time.
        """
        endings = [suffix + more for suffix in (_SUFFIX, ".outputs") for more in ("", ".tmp")]
        endings.append(".rows")
        for path in [path for end in endings for path in self._inside(f"rank-*{end}")]:
            with suppress(OSError):  # a folder of that name was not written here
                path.unlink(missing_ok=True)
        inside = [path for path in self._inside("*") if path.is_dir()]
        for folder in [*reversed(inside), self.folder]:
            with suppress(OSError):  # not empty, or removed by another process
                folder.rmdir()


def _short(value: Any) -> str:
    """Return a value as text, of a digest its beginning."""
    return _DIGEST.sub(r"\1...", str(value))


def _choose(
    by_rank: Sequence[dict[str, Any]],
) -> tuple[list[dict[str, Any]], list[str]]:
    """Choose states that share no batch, the largest first; return them with notes on others."""
    entries = {e.get("digest"): e for found in by_rank for e in found.values()}
    damaged = {(e["name"], e["damage"]) for found in by_rank for e in found.values() if e["damage"]}
    notes = [
        f"the state {name} is damaged ({damage}), its part is measured again"
        for name, damage in sorted(damaged)
    ]
    sound = [entry for entry in entries.values() if not entry["damage"]]
    chosen: list[dict[str, Any]] = []
    taken: set[int] = set()
    for entry in sorted(sound, key=lambda entry: (-len(entry["batches"]), entry["name"])):
        if taken.isdisjoint(entry["batches"]) and entry["batches"]:
            chosen.append(entry)
            taken.update(entry["batches"])
    return chosen, notes


def _rank_of(entry: dict[str, Any], by_rank: Sequence[dict[str, Any]]) -> int:
    """Return the process that resumes a state: that of the file's name, if it has the file."""
    able = [
        rank
        for rank, found in enumerate(by_rank)
        if found.get(entry["name"], {}).get("digest") == entry["digest"]
    ]
    named = int(entry["name"].removesuffix(_SUFFIX).rpartition("-")[2]) % len(by_rank)
    return named if named in able else able[0]
