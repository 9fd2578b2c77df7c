"""The state of a measurement that is not finished: kept beside the result, to go on from.

A file is written beside its place, flushed to the disk and moved into it, so what is there is
whole; a digest over all of it tells a damaged one. Every process keeps its own file. What each
holds is the set of batches it stands for, so any number of processes can go on with them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distviz.errors import RequestError
from distviz.measure.world import World, current
from distviz.progress import Progress
from distviz.results import replacing
from distviz.stats import decode, encode

__all__ = ["CheckpointFolder", "read_state", "write_state"]

_MAGIC = b"distviz state 2\n"
_SUFFIX = ".state"
_MOST_OF_THE_TIME = 0.02
_SHOWN = 3


def write_state(path: Path, tree: dict[str, Any]) -> None:
    """Write a tree: all of it, or the file stays as it was.

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
        If it is damaged; the message says in which way.
    """
    try:
        data = memoryview(path.read_bytes())
    except OSError as error:
        raise ValueError(str(error.strerror)) from error
    start = len(_MAGIC) + len(_digest(b""))
    if bytes(data[: len(_MAGIC)]) != _MAGIC:
        raise ValueError("it does not begin as one of this version")
    digest = bytes(data[len(_MAGIC) : start])
    if digest != _digest(data[start:]):
        raise ValueError("its content does not agree with its checksum")
    return decode(data[start:]), digest.decode().strip()


def _digest(data: bytes | memoryview) -> bytes:
    return hashlib.sha256(data).hexdigest().encode() + b"\n"


@dataclass
class CheckpointFolder:
    """Where a measurement keeps what is finished, and how often.

    Parameters
    ----------
    folder
        Made when the first state is written.
    every
        Least seconds between two states; more where writing would take over 2 % of the time. 0 is
        after every batch.
    resumes
        Whether to go on from what is there.
    is_part
        Whether other measurements of the same command follow, so that this one is kept when it is
        finished, too; see `part`.

    Attributes
    ----------
    share
        Which part of the work the last state holds; 0 while that is not known.
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
        """Whether there is a state to go on from."""
        return bool(self._inside(f"rank-*{_SUFFIX}"))

    def _inside(self, pattern: str) -> list[Path]:
        """Return what the folder holds; nothing where another process is removing it just now."""
        with suppress(FileNotFoundError):
            return sorted(self.folder.rglob(pattern))
        return []

    def part(self, name: str) -> CheckpointFolder:
        """Return where one of the several measurements of a command is kept: a folder inside."""
        return CheckpointFolder(
            self.folder / name, self.every, self.resumes, self.world, is_part=True
        )

    def begin(
        self,
        request: dict[str, Any],
        told: Progress,
        check: Callable[[Any], None] = lambda _: None,
    ) -> tuple[list[Any], set[int]]:
        """Find what there is to go on from.

        Parameters
        ----------
        request
            What a state must have been written for: plain data by name.
        check
            Told what `save` was given; raises ValueError if that is damaged nevertheless.

        Returns
        -------
        What `save` was given, of the states that this process goes on from; and the numbers of
        all batches that are finished, whichever process goes on from them.

        Raises
        ------
        RequestError
            If a state belongs to another request; the message names what differs.
        """
        self._request = request
        self._due = time.monotonic() + self.every
        if not self.resumes:
            return [], set()
        mine = {
            path.name: self._look(path, check)
            for path in sorted(self.folder.glob(f"rank-*{_SUFFIX}"))
        }
        facts = {name: found | {"content": None} for name, found in mine.items()}
        seen = self.world.exchange("states", facts)
        chosen, notes = _choose(seen)
        for note in notes if self.world.rank == 0 else []:
            told.note(note)
        done = {number for entry in chosen for number in entry["batches"]}
        if not (chosen or self.is_part) and self.world.rank == 0:
            told.note(f"no checkpoint in {self.folder}; starting from the beginning")
        taken = [mine[e["name"]]["content"] for e in chosen if _taker(e, seen) == self.world.rank]
        return taken, done

    def _look(self, path: Path, check: Callable[[Any], None] = lambda _: None) -> dict[str, Any]:
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
        told = [f"{n} {request.get(n)}, now {self._request.get(n)}" for n in names[:_SHOWN]]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise RequestError(
            f"{path} belongs to another measurement: {'; '.join(told)}{more}",
            f"give the same command, or another --out, or --force without --resume to drop "
            f"{self.folder}",
        )

    def save_if_due(
        self,
        content: Any,
        batches: Sequence[int],
        share: float,
        told: Progress,
        *,
        is_last: bool = False,
    ) -> None:
        """Write a state if it is time, or the last one if it is to be kept; see `save`."""
        if self.is_due() or (is_last and self.is_part and not self._is_broken):
            self.save(content, batches, share, told)

    def is_due(self) -> bool:
        """Whether it is time for a state."""
        return not self._is_broken and time.monotonic() >= self._due

    def save(self, content: Any, batches: Sequence[int], share: float, told: Progress) -> bool:
        """Write a state; ``content`` is called for the tree to keep.

        A disk that cannot be written does not end the measurement; it is said, once.

        Returns
        -------
        Whether it was written.
        """
        started = time.monotonic()
        tree = {"request": self._request, "batches": batches, "content": content()}
        before, self.share = self.share, share  # whoever interrupts from here on finds it
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_state(self.folder / f"rank-{self.world.rank}{_SUFFIX}", tree)
        except OSError as error:
            self._is_broken, self.share = True, before
            told.note(f"{self.folder} cannot be written ({error.strerror}): no state to resume")
            return False
        now = time.monotonic()
        cost = (now - started) / _MOST_OF_THE_TIME
        self._due = now + (max(self.every, cost) if self.every else 0)
        return True

    def remove(self) -> None:
        """Drop every state, those of parts included; what distviz did not write stays.

        Every process of a measurement may call it at the same time.
        """
        endings = [suffix + more for suffix in (_SUFFIX, ".outputs") for more in ("", ".tmp")]
        for path in [path for end in endings for path in self._inside(f"rank-*{end}")]:
            path.unlink(missing_ok=True)
        inside = [path for path in self._inside("*") if path.is_dir()]
        for place in [*reversed(inside), self.folder]:
            with suppress(OSError):  # it holds something else, or another process was quicker
                place.rmdir()


def _choose(seen: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Choose states that share no batch, the largest first; and what has to be said of others."""
    entries = {entry.get("digest"): entry for facts in seen for entry in facts.values()}
    damaged = {(e["name"], e["damage"]) for facts in seen for e in facts.values() if e["damage"]}
    notes = [
        f"the state {name} is damaged ({damage}), its part is measured again"
        for name, damage in sorted(damaged)
    ]
    sound = [entry for entry in entries.values() if not entry["damage"]]
    chosen: list[dict[str, Any]] = []
    held: set[int] = set()
    for entry in sorted(sound, key=lambda entry: (-len(entry["batches"]), entry["name"])):
        if held.isdisjoint(entry["batches"]) and entry["batches"]:
            chosen.append(entry)
            held.update(entry["batches"])
    return chosen, notes


def _taker(entry: dict[str, Any], seen: Sequence[dict[str, Any]]) -> int:
    """Return the process that goes on from a state: whose name it bears, if it can see it."""
    able = [
        rank
        for rank, facts in enumerate(seen)
        if facts.get(entry["name"], {}).get("digest") == entry["digest"]
    ]
    named = int(entry["name"].removesuffix(_SUFFIX).rpartition("-")[2]) % len(seen)
    return named if named in able else able[0]
