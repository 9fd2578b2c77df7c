"""How plain data comes by its display without knowing who shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

__all__ = ["showable", "when_defined"]

Kind = TypeVar("Kind", bound=type)
_attach: list[Callable[[type], None]] = []


def when_defined(attach: Callable[[type], None]) -> None:
    """Call a function with every showable class, as soon as it is defined."""
    _attach.append(attach)


def showable(kind: Kind) -> Kind:
    """Mark a class that is given a display, whatever way it is imported; a decorator."""
    for attach in _attach:
        attach(kind)
    return kind
