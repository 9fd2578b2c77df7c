"""The processes that share a measurement: this one alone until a launcher says otherwise.

``torchrun`` and ``accelerate launch`` tell each process its rank by the environment; what the
processes then say to each other is in `distributed`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TextIO

from distviz.errors import RequestError
from distviz.progress import Progress

__all__ = ["World", "agree", "current", "enter", "launched_size", "say"]


_SHOWN = 3


@dataclass
class World:
    """Which process this is, and of how many; the base is the only one there is.

    Attributes
    ----------
    rank, size
        This process, from 0, and how many there are.
    local_rank
        This process among those of its machine.
    hint
        Gives the line of what to do after a failure; may be empty.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    hint: Callable[[], str] = str

    @property
    def is_first(self) -> bool:
        """Whether it is this process that writes and prints."""
        return self.rank == 0

    def exchange(self, name: str, value: Any) -> list[Any]:
        """Return what every process gave under this name, by rank; plain data, small."""
        del name
        return [value]

    def broadcast(self, data: bytes) -> Iterator[bytes]:
        """Yield what every process gave, by rank; each has to take all."""
        yield data

    def progress(self, bar: Progress) -> Progress:
        """Return what to tell progress to: the bar of the process that prints."""
        return bar

    def fail(self, message: str, hint: str, code: int) -> None:
        """Say why this process cannot go on, once among all processes, and end the others."""
        del code
        say(message, hint)

    def finish(self) -> None:
        """Wait until the result is written."""


_world = World()


def current() -> World:
    """Return the world that this process belongs to."""
    return _world


def enter(world: World) -> None:
    """Make it the world that this process belongs to."""
    global _world  # noqa: PLW0603
    _world = world


def agree(world: World, name: str, facts: dict[str, str]) -> None:
    """Make sure that all processes have the same facts.

    Raises
    ------
    RequestError
        If one differs from the first process; which, and in what.
    """
    told = world.exchange(name, facts)
    for rank, other in enumerate(told):
        names = [n for n in {**told[0], **other} if told[0].get(n) != other.get(n)][:_SHOWN]
        if names:
            shown = ", ".join(f"{n} {other.get(n)} (rank 0: {told[0].get(n)})" for n in names)
            raise RequestError(
                f"the processes differ: rank {rank} has {shown}",
                "start all with the same command, files and versions",
            )


def launched_size() -> int:
    """Return of how many processes a launcher made this one; 1 without a launcher."""
    if "RANK" not in os.environ:
        return 1
    return int(os.environ.get("WORLD_SIZE", "1"))


def say(message: str, hint: str = "", stream: TextIO | None = None) -> None:
    """Print an error, on standard error: one line, and one more for what to do next."""
    place = stream or sys.stderr
    place.write(f"distviz: {message}\n" + (f"  {hint}\n" if hint else ""))
    place.flush()
