"""How often each magnitude of a 16-bit grid occurs: what a near-zero share needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from distviz.stats import float_grid
from distviz.stats.sketch import Sketch


@runtime_checkable
class HasMagnitudes(Protocol):
    """A distribution of which the magnitudes are known."""

    def magnitude_pairs(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the magnitudes that occurred, ascending, and their counts."""


@dataclass(frozen=True)
class Magnitudes:
    """The magnitudes that occurred, ascending, and how often: float64 and int64 (n,)."""

    values: NDArray[np.float64]
    counts: NDArray[np.int64]

    @classmethod
    def of_table(cls, grid: str, table: NDArray[np.integer]) -> Magnitudes:
        """Return the finite magnitudes of counts by code without the sign, (32768,)."""
        occupied = np.flatnonzero(table[: float_grid.first_nonfinite(grid)])
        counts = table[occupied].astype(np.int64)
        return cls(float_grid.magnitudes(grid)[occupied], counts)

    @property
    def count(self) -> int:
        """Finite values."""
        return int(self.counts.sum())

    def magnitude_pairs(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return values and counts."""
        return self.values, self.counts


def magnitude_table(sketch: Sketch) -> NDArray[np.int64]:
    """Return the counts of finite values by code without the sign, int64 (32768,)."""
    return np.asarray(sketch.table[: float_grid.SIGN] + sketch.table[float_grid.SIGN :])
