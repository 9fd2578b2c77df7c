"""What the kernels take and give, whichever device they run on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distviz.stats.moments import Moments


@dataclass(frozen=True)
class Tally:
    """How often each pattern of the upper 16 bits occurs in one sequence.

    Attributes
    ----------
    table
        int64 (65536,).
    parts
        The tables of the pieces in which the rows were counted, in order; they add up to it.
    lowest
        The smallest finite value if it is negative, else 0 (float32 sequences only).
    """

    table: NDArray[np.int64]
    parts: list[NDArray[np.integer]]
    lowest: float


@dataclass(frozen=True)
class ChannelSums:
    """Per-channel statistics of finite values; two of them add.

    Attributes
    ----------
    count
        int64 (channels,): finite values.
    mean, m2
        float64 (channels,): mean and sum of squared deviations from it (0 where count is 0).
    low, high
        float64 (channels,): exact extremes (+inf and -inf where count is 0).
    """

    count: NDArray[np.int64]
    mean: NDArray[np.float64]
    m2: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @classmethod
    def from_values(cls, values: NDArray[np.float64]) -> ChannelSums:
        """Measure (rows, channels) directly; values that are not finite are left out."""
        finite = np.isfinite(values)
        count = finite.sum(axis=0)
        kept = np.where(finite, values, 0.0)
        mean = kept.sum(axis=0) / np.maximum(count, 1)
        m2 = (np.where(finite, values - mean, 0.0) ** 2).sum(axis=0)
        low = np.where(finite, values, np.inf).min(axis=0, initial=np.inf)
        high = np.where(finite, values, -np.inf).max(axis=0, initial=-np.inf)
        return cls(count, mean, m2, low, high)

    def pooled(self) -> Moments:
        """Return the moments of all channels together."""
        total = int(self.count.sum())
        if not total:
            return Moments()
        mean = float((self.mean * self.count).sum()) / total
        spread = self.m2 + self.count * (self.mean - mean) ** 2
        return Moments.of(total, mean, float(spread[self.count > 0].sum()))

    def __add__(self, other: ChannelSums) -> ChannelSums:
        """Merge by the pairwise update of Chan, Golub & LeVeque (1979)."""
        count = self.count + other.count
        safe = np.maximum(count, 1)
        delta = other.mean - self.mean
        mean = (self.mean * self.count + other.mean * other.count) / safe
        m2 = self.m2 + other.m2 + delta**2 * self.count * other.count / safe
        low, high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        return ChannelSums(count, mean, m2, low, high)


@dataclass(frozen=True)
class Observation:
    """One tensor, counted once.

    Attributes
    ----------
    grid
        The grid of the tables.
    tables
        (slots, 65536) unsigned or signed integers: how often each 16-bit code occurs among the
        rows of a slot, codes of infinities and NaN included.
    zeros
        int64 (slots,): values exactly zero, before any rounding.
    low, high
        float64 (slots,): exact extremes of the finite values (+inf and -inf if there are none).
    moments
        Of the values of each slot, before any rounding.
    is_rounded
        Whether the values were wider than the grid.
    channels
        Statistics of each channel over all counted rows, or None if not asked for.
    """

    grid: str
    tables: NDArray[np.integer]
    zeros: NDArray[np.int64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    moments: list[Moments]
    is_rounded: bool
    channels: ChannelSums | None


@dataclass(frozen=True)
class Cut:
    """Which values of a sequence move: those of smaller magnitude, and the first ties.

    Attributes
    ----------
    magnitude
        The k-th smallest magnitude.
    row, column
        Values *equal* to the magnitude move where they stand before this place, counted in the
        sequence's own rows; ``row`` = number of rows means all of them.
    """

    magnitude: float
    row: int
    column: int


@dataclass(frozen=True)
class PairSums:
    """Sums over pairs of finite values of two tensors (rows, channels); d is second - first.

    Attributes
    ----------
    sums
        float64 (rows, 5): of d^2, first^2, second^2, first * second and abs(d).
    counts
        int64 (rows,): pairs.
    errors, squares
        float64 (channels,): sums of d^2 and of first^2.
    most
        The largest abs(d) above the limit that was given, the limit if there is none.
    row, channel
        Where it is, the first of equals; -1 if there is none.
    """

    sums: NDArray[np.float64]
    counts: NDArray[np.int64]
    errors: NDArray[np.float64]
    squares: NDArray[np.float64]
    most: float
    row: int
    channel: int
