"""What the kernels take and give, whichever device they run on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distviz.stats.moments import Moments


@dataclass(frozen=True)
class ChannelSums:
    """Per-channel statistics of finite values; two of them add.

    Attributes
    ----------
    count, zeros, positive
        int64 (channels,): finite values, how many are exactly 0, and how many are above 0.
    mean, m2
        float64 (channels,): mean and sum of squared deviations from it (0 where count is 0).
    low, high
        float64 (channels,): exact extremes (+inf and -inf where count is 0).
    higher
        float64 (3, channels): sums of the third and fourth powers of the deviations, and of abs(x);
        None if not asked for.
    top
        int64 (channels,): rows whose largest abs(x) is in this channel; None if not asked for.
    """

    count: NDArray[np.int64]
    zeros: NDArray[np.int64]
    positive: NDArray[np.int64]
    mean: NDArray[np.float64]
    m2: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    higher: NDArray[np.float64] | None = None
    top: NDArray[np.int64] | None = None

    @classmethod
    def of_powers(
        cls,
        signs: NDArray[np.integer],
        shift: NDArray[np.floating],
        powers: NDArray[np.float64],
        ends: NDArray[np.floating],
    ) -> ChannelSums:
        """Return the statistics by the sums of powers of deviations from a shift.

        Parameters
        ----------
        signs
            (3, channels): finite values, zeros, positive values.
        shift
            (channels,): close to the mean.
        powers
            float64 (2 or 5, channels): of the first and second powers of ``x - shift``, then of the
            third, the fourth and of ``abs(x)``.
        ends
            (2, channels): smallest and largest value.
        """
        count, zeros, positive = signs.astype(np.int64)
        delta, m2, higher = central_sums(count, powers)
        low, high = ends.astype(np.float64)
        return cls(count, zeros, positive, shift + delta, m2, low, high, higher)

    @classmethod
    def from_values(cls, values: NDArray[np.float64]) -> ChannelSums:
        """Measure (rows, channels) directly; values that are not finite are left out."""
        finite = np.isfinite(values)
        kept = np.where(finite, values, 0.0)
        signs = np.stack([finite, (values == 0), finite & (values > 0)]).sum(axis=1)
        mean = kept.sum(axis=0) / np.maximum(signs[0], 1)
        deviations = np.where(finite, values - mean, 0.0)
        powers = [(deviations**power).sum(axis=0) for power in (1, 2, 3, 4)]
        low = np.where(finite, values, np.inf).min(axis=0, initial=np.inf)
        high = np.where(finite, values, -np.inf).max(axis=0, initial=-np.inf)
        sums = np.stack([*powers, np.abs(kept).sum(axis=0)])
        return cls.of_powers(signs, mean, sums, np.stack([low, high]))

    def pooled(self) -> Pooled:
        """Return what all channels have together."""
        total, zeros = int(self.count.sum()), int(self.zeros.sum())
        low, high = self.low.min(initial=np.inf), self.high.max(initial=-np.inf)
        if not total:
            return Pooled(zeros, low, high, Moments())
        mean = float((self.mean * self.count).sum()) / total
        sums = self._about(mean).sum(axis=1).tolist()
        return Pooled(zeros, low, high, Moments.of(total, mean, sums[0], sums[1:] or None))

    def _about(self, center: float | NDArray[np.float64]) -> NDArray[np.float64]:
        """Return m2 and `higher` of each channel about another center."""
        return _moved(self.count, self.mean - center, self.m2, self.higher)

    def __add__(self, other: ChannelSums) -> ChannelSums:
        """Merge by the updates of Chan, Golub & LeVeque (1979) and Pébay (2008)."""
        count = self.count + other.count
        mean = (self.mean * self.count + other.mean * other.count) / np.maximum(count, 1)
        mine, theirs = self._about(mean), other._about(mean)
        shared = min(len(mine), len(theirs))
        sums = mine[:shared] + theirs[:shared]
        tops = None if self.top is None or other.top is None else self.top + other.top
        return ChannelSums(
            count,
            self.zeros + other.zeros,
            self.positive + other.positive,
            mean,
            sums[0],
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            sums[1:] if shared > 1 else None,
            tops,
        )


class Pooled(NamedTuple):
    """What all channels have together: zeros, the extremes, and the moments of finite values."""

    zeros: int
    low: float
    high: float
    moments: Moments


@dataclass(frozen=True)
class PowerSums:
    """Sums over parts of the rows of one tensor, whose values are finite.

    Attributes
    ----------
    counts
        int64 (parts,): rows.
    shift
        (channels,): close to the means.
    powers
        float64 (parts, 2 or 5, channels): as `ChannelSums.of_powers` takes them.
    ends
        float32 (parts, 2, channels): smallest and largest value.
    signs
        uint32 (parts, 2, channels): zeros and positive values.
    together
        float64 (parts, 8): of all channels, see `numba_loops.pool_channels`.
    """

    counts: NDArray[np.int64]
    shift: NDArray[np.floating]
    powers: NDArray[np.float64]
    ends: NDArray[np.float32]
    signs: NDArray[np.uint32]
    together: NDArray[np.float64]

    @classmethod
    def empty(cls, counts: list[int], shift: NDArray[np.floating], n_powers: int) -> PowerSums:
        """Return the sums before anything is added."""
        parts, width = len(counts), shift.size
        ends = np.empty((parts, 2, width), np.float32)
        ends[:, 0], ends[:, 1] = np.inf, -np.inf
        powers, signs = np.zeros((parts, n_powers, width)), np.zeros((parts, 2, width), np.uint32)
        return cls(np.array(counts, np.int64), shift, powers, ends, signs, np.zeros((parts, 8)))

    def only(self, chosen: NDArray[np.bool_]) -> PowerSums:
        """Return the sums of some parts."""
        if chosen.all():
            return self
        names = ("powers", "ends", "signs", "together")
        kept = (getattr(self, name)[chosen] for name in names)
        return PowerSums(self.counts[chosen], self.shift, *kept)

    def channels(self, *, details: bool) -> ChannelSums:
        """Return the statistics of each channel over all parts; ``details`` are the higher ones."""
        rows = np.full((1, self.shift.size), self.counts.sum())
        signs = np.concatenate([rows, self.signs.sum(axis=0, dtype=np.int64)])
        low = self.ends[:, 0].min(axis=0, initial=np.inf)
        high = self.ends[:, 1].max(axis=0, initial=-np.inf)
        powers = self.powers[:, : None if details else 2].sum(axis=0)
        return ChannelSums.of_powers(signs, self.shift, powers, np.stack([low, high]))

    def pooled(self) -> list[Pooled]:
        """Return what all channels of each part have together."""
        totals = (self.counts * self.shift.size).tolist()
        has_higher = self.powers.shape[1] > 2
        return [
            Pooled(int(zeros), low, high, Moments.of(n, mean, m2, higher if has_higher else None))
            for n, (zeros, low, high, mean, m2, *higher) in zip(
                totals, self.together.tolist(), strict=True
            )
        ]


def _moved(
    count: NDArray[np.integer],
    delta: NDArray[np.float64],
    m2: NDArray[np.float64],
    higher: NDArray[np.float64] | None,
) -> NDArray[np.float64]:
    """Return m2 and `ChannelSums.higher` about centers that are ``delta`` below the means."""
    square = delta * delta
    moved = count * square
    second = m2 + moved
    if higher is None:
        return second[None]
    m3, m4, absolute = higher
    third = m3 + delta * (3 * m2 + moved)
    fourth = m4 + 4 * delta * m3 + square * (6 * m2 + moved)
    return np.stack([second, third, fourth, absolute])


def central_sums(
    count: NDArray[np.integer], powers: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64] | None]:
    """Return the mean of deviations, and their sums of powers about it.

    Parameters
    ----------
    count
        (groups,): number of values.
    powers
        float64 (2 or 5, groups): as `ChannelSums.of_powers` takes them.

    Returns
    -------
    tuple
        float64 (groups,), the mean; (groups,), m2; and (3, groups), the `ChannelSums.higher`, or
        None.
    """
    total, squares = powers[:2]
    number = np.maximum(count, 1)
    delta = total / number
    m2 = np.maximum(squares - delta * total, 0.0)
    if len(powers) == 2:
        return delta, m2, None
    cubes, quarts, absolute = powers[2:]
    shifted = delta * total
    with np.errstate(invalid="ignore", over="ignore"):  # float64 may overflow
        m3 = cubes - delta * (3 * squares - 2 * shifted)
        m4 = quarts - delta * (4 * cubes - delta * (6 * squares - 3 * shifted))
        return delta, m2, np.stack([m3, np.maximum(m4, m2 * m2 / number), absolute])


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


class Request(NamedTuple):
    """What a redistribution asks of its plan.

    Attributes
    ----------
    c
        Width of the near-zero band: eps = 1.4826 * MAD * c.
    percentile
        Share of the values below the upper bound, 0 to 1.
    least, most
        Limits of the fraction of values that move.
    of_magnitude
        Whether the percentile is taken of the magnitudes.
    """

    c: float
    percentile: float
    least: float
    most: float
    of_magnitude: bool


class Decision(NamedTuple):
    """The plan of a sequence on the CPU.

    Attributes
    ----------
    plan
        n, center, mad, eps, near, fraction, k, upper, lower, magnitude, ties and ties_in_all of
        `distviz.arm.Plan`; n is 0 if no value is finite.
    cut
        What moves: bit patterns of smaller magnitudes than the first of the three numbers, and
        those equal to it that stand before a row of the sequence (its position) and column.
    """

    plan: tuple[Any, ...]
    cut: tuple[int, int, int]

    def numbers(self) -> tuple[Any, ...]:
        """Return the plan as Python numbers."""
        return self.plan

    @property
    def bounds(self) -> tuple[float, float]:
        """Lower and upper bound of the new values."""
        return self.plan[8], self.plan[7]

    def widened(self) -> Decision:
        """Return the decision for the same values in float32."""
        pattern = int(np.float32(self.plan[9]).view(np.uint32))
        return Decision(self.plan, (pattern, *self.cut[1:]))


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


@dataclass(frozen=True)
class QuantizationSums:
    """What rows of a tensor lose in several formats.

    Attributes
    ----------
    sums
        float64 (1 + formats, n): of each counted row, one window after the other, the sum of the
        squares of finite values, then the sums of squared errors.
    count
        Number of finite values.
    losses
        int64 (formats, 2): values that become zero, and clipped values.
    maxima
        int64 (formats, 32768): how often each bf16 code occurs among the largest magnitudes of the
        units of a format, rounded to nearest.
    """

    sums: NDArray[np.float64]
    count: int
    losses: NDArray[np.int64]
    maxima: NDArray[np.int64]
