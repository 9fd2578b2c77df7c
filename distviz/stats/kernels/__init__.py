"""The loops over activations: Numba on the CPU, torch on any other device, the same answers.

Every function takes a tensor of shape (rows, channels) and the indices of the rows that count.
Importing this package imports torch and Numba, so only the measuring side does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distviz.stats.kernels import cpu, numba_loops, torch_ops
from distviz.stats.kernels.numba_loops import (
    add_table,
    distance_of_rank,
    select_distance,
    summarise,
)
from distviz.stats.kernels.rng import row_keys, uniforms
from distviz.stats.kernels.types import ChannelSums, Cut, Moments, Observation, Tally

__all__ = [
    "ChannelSums",
    "Cut",
    "Moments",
    "Observation",
    "Tally",
    "add_table",
    "apply",
    "count",
    "distance_of_rank",
    "find_cut",
    "find_moved",
    "force_torch",
    "gather",
    "is_compiled",
    "observe",
    "row_keys",
    "select_distance",
    "sorts_there",
    "summarise",
    "uniforms",
]

_CPU_TYPES = (torch.float32, torch.bfloat16, torch.float16)
_forced = False


@contextmanager
def force_torch() -> Iterator[None]:
    """Send CPU tensors down the torch path too (for tests)."""
    global _forced  # noqa: PLW0603
    before, _forced = _forced, True
    try:
        yield
    finally:
        _forced = before


def is_compiled() -> bool:
    """Whether the compiled loops are cached on disk, so that a first call is quick."""
    folder = getattr(getattr(numba_loops.count_16, "_cache", None), "cache_path", None)
    return folder is not None and any(Path(folder).glob("numba_loops.observe*.nbi"))


def sorts_there(values: torch.Tensor) -> bool:
    """Whether a few values are sorted where they are; else they are handed to NumPy."""
    is_elsewhere = values.device.type != "cpu" or _forced
    return is_elsewhere and torch_ops.has_float64(values.device.type)


def _path(values: torch.Tensor) -> Any:
    is_compiled = values.device.type == "cpu" and values.dtype in _CPU_TYPES and not _forced
    return cpu if is_compiled else torch_ops


def observe(
    values: torch.Tensor, slots: NDArray[np.int64], n_slots: int, *, channels: bool = True
) -> Observation:
    """Count a tensor by slot.

    Parameters
    ----------
    values
        (rows, channels), any floating-point type.
    slots
        int64 (rows,): which table a row goes to, -1 for none.
    n_slots
        Number of tables.
    channels
        Whether each channel's statistics are wanted too.
    """
    found: Observation = _path(values).observe(values.detach(), slots, n_slots, channels)
    return found


def count(values: torch.Tensor, rows: NDArray[np.int64]) -> Tally:
    """Count the upper 16 bits (float32) or all bits (16-bit types) of the rows."""
    tally: Tally = _path(values).count(values, rows)
    return tally


def gather(
    values: torch.Tensor, rows: NDArray[np.int64], cells: NDArray[np.int64], tally: Tally
) -> NDArray[np.float32]:
    """Return the float32 values in some cells (upper 16 bits, ascending), cell by cell."""
    found: NDArray[np.float32] = _path(values).gather(values, rows, cells, tally)
    return found


def find_cut(values: torch.Tensor, rows: NDArray[np.int64], magnitude: float, ties: int) -> Cut:
    """Return the cut that takes the first ``ties`` values equal to the magnitude."""
    cut: Cut = _path(values).find_cut(values, rows, magnitude, ties)
    return cut


def find_moved(
    values: torch.Tensor, rows: NDArray[np.int64], cut: Cut, moved: torch.Tensor
) -> None:
    """Mark in ``moved`` (uint8, shape of values) what the cut selects among the rows."""
    _path(values).find_moved(values, rows, cut, moved)


def apply(
    values: torch.Tensor,
    out: torch.Tensor,
    rows: NDArray[np.int64],
    keys: NDArray[np.uint32],
    cut: Cut,
    bounds: tuple[float, float],
    *,
    adds: bool = False,
) -> None:
    """Write redistributed rows to ``out`` (may be ``values``).

    A selected value becomes u * upper (or u * lower where it is negative), added to itself if
    ``adds``; the product is taken in float32 and rounded to the type of ``values`` once.
    """
    path = _path(values)
    if path is cpu and values.dtype == torch.float16:
        path = torch_ops
    path.apply(values, out, rows, keys, cut, bounds, adds)
