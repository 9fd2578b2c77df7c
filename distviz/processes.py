"""The processes that share a measurement; alone until a launcher says otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["World"]


@dataclass
class World:
    """Which process this is, and of how many; the base is the only one there is."""

    rank: int = 0
    size: int = 1

    def exchange(self, name: str, value: Any) -> list[Any]:
        """Return what every process gave under this name, by rank; plain data, small."""
        del name
        return [value]
