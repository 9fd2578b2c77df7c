"""The 65,536-cell grids: code <-> value, order by value, fold by magnitude.

A 16-bit floating-point format has 65,536 bit patterns. A *grid* names one such format; a *code*
is a bit pattern read as an unsigned integer. Codes of finite values, sorted by value, run from the
most negative number over -0.0, +0.0 to the largest; :func:`ordered_codes` lists them so.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

CELLS: Final = 65_536
SIGN: Final = 0x8000
GRIDS: Final = ("bf16", "fp16")
_FIRST_NONFINITE: Final = {"bf16": 0x7F80, "fp16": 0x7C00}


def grid_for_dtype(dtype_name: str) -> str:
    """Return the grid on which a dtype (``"float32"``, ``"torch.bfloat16"``) is counted."""
    return "fp16" if dtype_name.rpartition(".")[2] == "float16" else "bf16"


def first_nonfinite(grid: str) -> int:
    """Return the code of +inf: positive codes below it are finite."""
    return _FIRST_NONFINITE[grid]


@cache
def values(grid: str) -> NDArray[np.float64]:
    """Return the value of each code, shape (65536,), float64; NaN codes give NaN."""
    codes = np.arange(CELLS, dtype=np.uint16)
    if grid == "fp16":
        with np.errstate(invalid="ignore"):
            table = codes.view(np.float16).astype(np.float64)
    elif grid == "bf16":
        with np.errstate(invalid="ignore"):
            table = (codes.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    else:
        raise ValueError(f"unknown grid {grid!r}, allowed: {', '.join(GRIDS)}")
    table.flags.writeable = False
    return table


@cache
def ordered_codes(grid: str) -> NDArray[np.uint16]:
    """Return the codes of all finite values in ascending order of value, -0.0 before +0.0."""
    top = first_nonfinite(grid)
    positive = np.arange(top, dtype=np.uint16)
    codes = np.concatenate([positive[::-1] | np.uint16(SIGN), positive])
    codes.flags.writeable = False
    return codes


@cache
def ordered_values(grid: str) -> NDArray[np.float64]:
    """Return the values of :func:`ordered_codes`, float64, ascending."""
    table = values(grid)[ordered_codes(grid)]
    table.flags.writeable = False
    return table


@cache
def magnitudes(grid: str) -> NDArray[np.float64]:
    """Return the finite non-negative values in ascending order, float64; index = code."""
    return values(grid)[: first_nonfinite(grid)]


def to_bf16_codes(array: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Round finite numbers to the nearest bf16 (ties to even) and return their codes.

    The rounding goes by way of fp32, as a tensor's own conversion does; what would round to
    infinity stays in the last finite cell.
    """
    largest = np.finfo(np.float32).max
    bits = np.clip(array, -largest, largest).astype(np.float32).view(np.uint32).astype(np.uint64)
    codes = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    overflow = (codes & 0x7FFF) >= _FIRST_NONFINITE["bf16"]
    return np.asarray(codes - overflow, dtype=np.uint16)
