"""The largest values of a distribution: how much of it is theirs, and what is left without them.

One massive value can hold nearly all energy, the sum of x^2. Ratios of energies, such as the SQNR,
then tell about this value alone; without the largest values they tell about all others.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

ONE_IN = 10_000
"""The largest values are one in so many, rounded up: 0.01 %."""

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


def shares_left(counts: Counts) -> Floats:
    """Return the share of the values of each magnitude that are not among the largest 0.01 %.

    ``counts``, above 0, are those of ascending magnitudes. A magnitude of which only some values
    are among the largest has a share between 0 and 1.
    """
    larger = np.cumsum(counts[::-1])[::-1] - counts
    most = -(-int(counts.sum()) // ONE_IN)
    left: Floats = 1 - np.clip(most - larger, 0, counts) / counts
    return left


def energy_shares(magnitudes: Floats, counts: Counts) -> tuple[float, float]:
    """Return the shares of sum(x^2) of the largest 0.01 % and of the largest value alone.

    ``magnitudes`` are ascending, with ``counts`` above 0. NaN if every value is zero.
    """
    energy = counts * magnitudes**2
    whole = float(energy.sum())
    if not whole:
        return math.nan, math.nan
    gone = 1 - shares_left(counts)
    return float((energy * gone).sum()) / whole, float(magnitudes[-1] ** 2) / whole
