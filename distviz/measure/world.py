"""The processes that share a measurement; without a launcher, this process alone.

``torchrun`` and ``accelerate launch`` set each process's rank in the environment; `distributed`
holds what the processes then exchange.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from distviz.errors import RequestError
from distviz.output import print_error
from distviz.progress import Progress

_SHOWN = 3
_MAX_SIZE = 65_535
_LAUNCHER = "start the processes with torchrun, or unset RANK and WORLD_SIZE"


@dataclass
class World:
    """The rank of this process and the number of processes; the base is a single process.

    Attributes
    ----------
    rank, size
        Rank of this process, from 0, and the number of processes.
    local_rank
        Rank among the processes of the same machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def exchange(self, name: str, value: Any) -> list[Any]:
        """Return the value of every process, by rank; small plain data."""
        del name
        return [value]

    def broadcast(self, data: bytes) -> Iterator[bytes]:
        """Yield the bytes of every process, by rank; each process has to consume all."""
        yield data

    def progress(self, bar: Progress) -> Progress:
        """Return the progress to report to: the bar of the process that prints."""
        return bar

    def fail(self, message: str, hint: str, code: int) -> None:
        """Report why this process ends; once among all processes."""
        del code
        print_error(message, hint)

    def finish(self) -> None:
        """Wait until the result is written."""


_world = World()


def current() -> World:
    """Return the world of this process."""
    return _world


def enter(world: World) -> None:
    """Set the world of this process."""
    global _world  # noqa: PLW0603
    _world = world


def agree(world: World, name: str, facts: dict[str, str]) -> None:
    """Check that all processes have the same facts.

    Raises
    ------
    RequestError
        If a process differs from the first; names the rank and the facts.
    """
    by_rank = world.exchange(name, facts)
    first = by_rank[0]
    for rank, other in enumerate(by_rank):
        names = [n for n in {**first, **other} if first.get(n) != other.get(n)][:_SHOWN]
        if names:
            shown = ", ".join(f"{n} {other.get(n)} (rank 0: {first.get(n)})" for n in names)
            raise RequestError(
                f"the processes differ: rank {rank} has {shown}",
                "start all with the same command, files and versions",
            )


def has_launcher() -> bool:
    """Whether torchrun or accelerate watches the processes, and ends all when one fails."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def launched_size() -> int:
    """Return the number of processes that a launcher started; 1 without a launcher.

    Raises
    ------
    RequestError
        If the variables of the launcher do not fit together.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return 1
    size = _number("WORLD_SIZE", 1, _MAX_SIZE)
    _number("RANK", 0, size - 1)
    if size > 1:
        if not os.environ.get("MASTER_ADDR"):
            raise RequestError(f"WORLD_SIZE is {size}, and MASTER_ADDR is not set", _LAUNCHER)
        _number("MASTER_PORT", 1, 65_535)
        if "LOCAL_RANK" in os.environ:
            _number("LOCAL_RANK", 0, size - 1)
    return size


def _number(name: str, low: int, high: int) -> int:
    text = os.environ.get(name, "")
    number = int(text) if re.fullmatch("[0-9]{1,6}", text) else -1
    if not low <= number <= high:
        raise RequestError(
            f"the environment has {name}='{text}', it must be a number from {low} to {high}",
            _LAUNCHER,
        )
    return number
