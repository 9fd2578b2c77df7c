"""The scale and zero point of a number format with the least squared error: the true minimum.

For a fixed assignment k of values x to levels, the noise ``|x - s k|^2`` is a parabola in the
scale s with its minimum at ``s* = <x, k> / <k, k>``; at any other scale the noise is at most
``min + (s - s*)^2 |k|^2 <= min + (s / s* - 1)^2 |x|^2``. This allows branch and bound: an interval
of scales whose middle has more than the least known noise plus that slack cannot contain the
minimum; the others are divided further. The remaining intervals are swept: at each scale where a
value changes its level, ``<x, k>`` and ``<k, k>`` change by a known step, and the least noise is
``|x|^2 - max <x, k>^2 / <k, k>``.

Guarantee: no scale and zero point has less noise, within 1e-12 of sum(x^2), the rounding of
float64. Scales above twice that of the full range are not tried, because half of such a scale has
all its levels; nor scales whose clipping alone costs more than the full range.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distviz.stats.number_formats import NumberFormat, Quantizer

_ROUNDING = 1e-12
_CELLS = 64
_SPLIT = 4
_SLACK = 0.03
"""Division ends when the slack is this share of the least known noise ..."""
_MOST_CELLS = 256
"""... or when this many intervals remain."""
_MOST_STEPS = 2_000_000
"""Steps times zero points that are swept at once, 16 MB per array."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Magnitudes:
    """Magnitudes above 0, ascending, and their counts; float64."""

    values: Floats
    counts: Floats

    @cached_property
    def sums(self) -> tuple[Floats, Floats, Floats]:
        """Sums of count, count * value and count * value^2 over the first i values, from i = 0."""
        parts = (self.counts, self.counts * self.values, self.counts * self.values**2)
        n, x, xx = (np.concatenate([[0.0], np.cumsum(part)]) for part in parts)
        return n, x, xx


@dataclass(frozen=True)
class Spread:
    """The input of the search: values of both signs, and a format.

    Attributes
    ----------
    format
        The format.
    folded
        The magnitudes of all values.
    signed
        Those of the positive and of the negative values.
    """

    format: NumberFormat
    folded: Magnitudes
    signed: tuple[Magnitudes, Magnitudes]

    @property
    def energy(self) -> float:
        """Sum of x^2."""
        return float(self.folded.sums[2][-1])

    def zero_points(self) -> Integers:
        """Return all zero points of the format: only 0 if it is symmetric."""
        return np.arange(self.format.levels.size if self.format.is_asymmetric else 1)

    def sides(self, zero_points: Integers) -> list[tuple[Magnitudes, Integers]]:
        """Return each side, and the index of its highest level at each zero point."""
        top = self.format.levels.size - 1
        if not self.format.is_asymmetric:
            return [(self.folded, np.full(zero_points.shape, top))]
        above, below = self.signed
        return [(above, top - zero_points), (below, zero_points)]

    def noise(self, scales: Floats, zero_points: Integers) -> Floats:
        """Return the squared error (scales, zero points), from sums over the cell of each level."""
        whole = np.zeros((scales.size, zero_points.size))
        for side, tops in self.sides(zero_points):
            levels = self.format.levels[: tops.max() + 1]
            ends = np.zeros((scales.size, levels.size + 1), np.int64)
            ends[:, -1] = side.values.size
            middles = scales[:, None] * ((levels[1:] + levels[:-1]) / 2)
            ends[:, 1:-1] = np.searchsorted(side.values, middles)
            sums = [part[ends] for part in side.sums]
            kept = scales[:, None] * levels
            own = _noise(kept, *(np.diff(part, axis=1) for part in sums))
            beyond = _noise(kept, *(part[:, -1:] - part[:, :-1] for part in sums))
            whole += (np.cumsum(own, axis=1) - own + beyond)[:, tops]
        return np.maximum(whole, 0)


def _noise(kept: Floats, n: Floats, x: Floats, xx: Floats) -> Floats:
    """Return the error of n values with sum x and sum of squares xx that get the same number."""
    return xx - kept * (2 * x - kept * n)


def least_error(spread: Spread, whole: Quantizer, known: float) -> Quantizer:
    """Return the quantizer of least squared error.

    Parameters
    ----------
    spread
        The values, not all zero.
    whole
        The quantizer of the full range.
    known
        Its squared error, above 0.
    """
    windows = _windows(spread, whole, known)
    _, scale, zero_point = max(_sweep(spread, *window) for window in windows)
    return Quantizer(spread.format, scale, zero_point)


def _windows(
    spread: Spread, whole: Quantizer, known: float
) -> Iterator[tuple[float, float, Integers]]:
    """Yield (lowest scale, highest scale, zero points) that may contain the minimum."""
    energy = spread.energy
    low, high = (math.log(end) for end in _span(spread, whole, known))
    step = (high - low) / _CELLS
    middles = low + step * (np.arange(_CELLS) + 0.5)
    zero_points = spread.zero_points()
    while True:
        noise = spread.noise(np.exp(middles), zero_points)
        known = min(known, float(noise.min()))
        slack = math.expm1(step / 2) ** 2 * energy
        is_left = noise <= known + slack + _ROUNDING * energy
        rows = np.flatnonzero(is_left.any(axis=1))
        if slack < max(_SLACK * known, _ROUNDING * energy) or rows.size > _MOST_CELLS:
            break
        columns = np.flatnonzero(is_left.any(axis=0))
        zero_points = zero_points[columns[0] : columns[-1] + 1]
        parts = (np.arange(_SPLIT) + 0.5) / _SPLIT - 0.5
        middles = (middles[rows, None] + step * parts).ravel()
        step /= _SPLIT
    gaps = np.flatnonzero(np.diff(middles[rows]) > 1.5 * step) + 1
    for group in np.split(rows, gaps):
        ends = middles[group[0]] - step / 2, middles[group[-1]] + step / 2
        yield math.exp(ends[0]), math.exp(ends[1]), zero_points[is_left[group].any(axis=0)]


def _span(spread: Spread, whole: Quantizer, known: float) -> tuple[float, float]:
    """Return the scales between which the minimum lies."""
    top = whole.format.levels[-1]
    # Minus two steps, because both ends of a range round outward to a multiple of the scale.
    widest = 2 * whole.scale * (top / (top - 2) if whole.format.is_asymmetric else 1.0)
    values = spread.folded.values
    n, x, xx = (sums[-1] - sums[:-1] for sums in spread.folded.sums)
    is_cheap = _noise(values, n, x, xx) <= known
    # Clipping costs ``known`` between this value and the one before: the root of a parabola.
    start = int(np.argmax(is_cheap))
    n, x, xx = n[start], x[start], xx[start]
    clip = (x - math.sqrt(max(x * x - n * (xx - known), 0.0))) / n
    return min(max(clip / top, widest * 2.0**-60), widest / 2) * (1 - 1e-6), widest


class _Turns(NamedTuple):
    """The growth of <x, k> and <k, k> of a side as the scale falls, at several zero points.

    Attributes
    ----------
    start_xk, start_kk
        Both at the highest scale, (zero points,).
    scales
        Where a value moves to the next level, (steps,), unordered.
    xk, kk
        The growth of both there, (steps, zero points).
    """

    start_xk: Floats
    start_kk: Floats
    scales: Floats
    xk: Floats
    kk: Floats


def _turns(
    side: Magnitudes, levels: Floats, tops: Integers, first: Integers, last: Integers
) -> _Turns:
    """Move each value from its ``first`` level to its ``last``, at most to the highest."""
    squares = levels**2
    number = last - first
    which = np.repeat(np.arange(number.size), number)
    level = np.arange(which.size) - np.repeat(np.cumsum(number) - number - first, number)
    values, counts = side.values[which], side.counts[which]
    is_open = level[:, None] < tops
    return _Turns(
        start_xk=_held(levels, first, side.counts * side.values, tops),
        start_kk=_held(squares, first, side.counts, tops),
        scales=values * 2 / (levels[level] + levels[level + 1]),
        xk=is_open * (counts * values * (levels[level + 1] - levels[level]))[:, None],
        kk=is_open * (counts * (squares[level + 1] - squares[level]))[:, None],
    )


def _held(levels: Floats, chosen: Integers, weights: Floats, tops: Integers) -> Floats:
    """Sum level times weight over all values, with levels up to each of ``tops``."""
    at_level = np.bincount(chosen, weights, levels.size).astype(np.float64)
    own = levels * at_level
    beyond = levels * np.cumsum(at_level[::-1])[::-1]
    total: Floats = (np.cumsum(own) - own + beyond)[tops]
    return total


def _sweep(
    spread: Spread, low: float, high: float, zero_points: Integers
) -> tuple[float, float, int]:
    """Return the largest <x, k>^2 / <k, k> for scales from ``high`` down to ``low``.

    Also return its scale (the smallest of equal ones) and zero point.
    """
    prepared = []
    for side, tops in spread.sides(zero_points):
        levels = spread.format.levels[: tops.max() + 1]
        middles = (levels[1:] + levels[:-1]) / 2
        first, last = (np.searchsorted(middles, side.values / scale) for scale in (high, low))
        prepared.append((side, levels, tops, first, last))
    steps = sum(int((last - first).sum()) for *_, first, last in prepared)
    if steps * zero_points.size > _MOST_STEPS and zero_points.size > 1:
        return max(_sweep(spread, low, high, part) for part in np.array_split(zero_points, 2))
    turns = [_turns(*arguments) for arguments in prepared]
    order = np.argsort(-np.concatenate([turn.scales for turn in turns]))
    xk = _running([turn.start_xk for turn in turns], [turn.xk for turn in turns], order)
    kk = _running([turn.start_kk for turn in turns], [turn.kk for turn in turns], order)
    explained = np.divide(xk**2, kk, out=np.zeros_like(kk), where=kk > 0)
    best = np.unravel_index(int(np.argmax(explained)), explained.shape)
    scale = float(xk[best] / kk[best]) if kk[best] else high
    return float(explained[best]), scale, int(zero_points[best[1]])


def _running(starts: list[Floats], steps: list[Floats], order: Integers) -> Floats:
    """Return the sum of all sides after each step (steps + 1, zero points), last step first."""
    ordered = np.concatenate(steps)[order]
    sums: Floats = np.cumsum(np.vstack([np.sum(starts, axis=0), ordered]), axis=0)[::-1]
    return sums
