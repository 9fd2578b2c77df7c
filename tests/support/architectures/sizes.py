"""Sizes of what a model is called with, and where its configuration says others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

BATCH, LENGTH = 2, 7


def field(config: Any, *names: str, default: Any = None) -> Any:
    """Return the first of these fields that the configuration, or a part of it, has a value for."""
    for one in _parts(config):
        for name in names:
            value = getattr(one, name, None)
            if value is not None and not hasattr(value, "to_dict"):
                return value
    return default


def fields(config: Any, *names: str) -> list[Any]:
    """Return every value that the configuration and its parts have for these fields, in order."""
    found = []
    for one in _parts(config):
        for name in names:
            value = getattr(one, name, None)
            if value is not None and value not in found:
                found.append(value)
    return found


def _parts(config: Any) -> Iterator[Any]:
    yield config
    for value in vars(config).values():
        if hasattr(value, "to_dict"):
            yield from _parts(value)


def randn(*shape: int) -> torch.Tensor:
    """Return the same noise for the same shape."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))
