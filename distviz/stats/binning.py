"""Bins of histograms, on a linear or symmetric logarithmic scale; edges between the grid's values.

Data of 16 bits, and data that were rounded more than once, occupy a grid that is not uniform. A bin
then holds now more, now fewer of its values, and bars of equal width show a comb that is not in the
data. Here the edges lie in the middle between two occupied values, and a bar's height is divided by
its width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distviz.errors import RequestError
from distviz.stats.arguments import check_width, checks_types
from distviz.stats.sketch import Sketch, UnchangedSketch

Floats = NDArray[np.float64]

MASS = (0.0025, 0.9975)
"""The quantiles that fine bins span."""
_SAME_GRID = 4.0
"""A gap up to this many bins wide belongs to the grid; values beyond a wider one stand apart."""
_PER_BIN = 2.0
"""Occupied values that a bin has at least, where there are enough of them."""
_FEWEST = 64
"""Bins that are enough to show a shape."""
_AVERAGED = 7
"""Where values of the grid are missing, an edge lies at the mean of the two values beside it and so
many on either side: where every tenth is missing, each of the others stands for 1.1 cells."""
_CHANGE = 0.2
"""Relative change of a gap that rounding alone does not make."""
_MARGIN = 0.1
"""Fraction of a gap that an edge stays away from its ends."""
_MOST_WEIGHT = 0.02
"""Fraction of all values up to which one value counts for the typical gap, so a spike does not."""
_ALIKE = 4.0
"""Ratio of typical gaps up to which two grids are alike; those of bf16 and fp16 differ by 8."""
_GRID_SHARE = 0.75
"""Fraction of the values whose gap is at most the typical one."""


@dataclass(frozen=True)
class ValueScale:
    """The scale of an axis of values.

    Attributes
    ----------
    constant
        None: linear. Else symmetric logarithmic, ``sign(x) * log(1 + abs(x) / constant)``: nearly
        linear below ``constant``, logarithmic above it.
    """

    constant: float | None = None

    def __post_init__(self) -> None:
        if self.constant is not None:
            check_width(self.constant, "constant")

    def forward(self, values: Floats | Sequence[float] | float) -> Floats:
        """Return the places of values on the axis."""
        x = np.asarray(values, dtype=np.float64)
        if self.constant is None:
            return x
        return np.asarray(np.sign(x) * np.log1p(np.abs(x) / self.constant))

    def inverse(self, places: Floats | Sequence[float] | float) -> Floats:
        """Return the values at places of the axis."""
        u = np.asarray(places, dtype=np.float64)
        if self.constant is None:
            return u
        return np.asarray(np.sign(u) * np.expm1(np.abs(u)) * self.constant)


LINEAR = ValueScale()


@checks_types
def mass_ends(sketches: Sequence[Sketch]) -> tuple[float, float]:
    """Return where most values of several sketches lie: the outermost of the ``MASS`` quantiles.

    Zero is inside. Where the quantiles are zero, the ends are the extremes; without any value that
    is not zero, -1 and 1.
    """
    filled = [sketch for sketch in sketches if sketch.count]
    for ends in ([sketch.quantile(MASS) for sketch in filled], [_extremes(s) for s in filled]):
        low, high = (float(f(ends)) if ends else 0.0 for f in (np.min, np.max))
        if low or high:
            return min(low, 0.0), max(high, 0.0)
    return -1.0, 1.0


def _extremes(sketch: Sketch) -> tuple[float, float]:
    """Return the extremes of the values and of the cells that they are counted in."""
    values, _ = sketch.pairs()
    return min(sketch.min, float(values[0])), max(sketch.max, float(values[-1]))


@checks_types
def bin_edges(
    sketches: Sequence[Sketch],
    bins: int = 256,
    window: tuple[float, float] | None = None,
    scale: ValueScale = LINEAR,
) -> Floats:
    """Return histogram edges for several sketches: fine in a window, doubling outside it.

    Parameters
    ----------
    sketches
        Every value of theirs is inside the edges.
    bins
        The most fine bins. One of them is centred on zero.
    window
        The ends of the fine bins, edges themselves; None: all that `mass_ends` spans.
    scale
        On which the fine bins are equally wide, apart from this: where the values lie on a grid
        that is not much finer than the bins, each edge is moved to the middle between two of them,
        and no bin is narrower than the grid. Counts per bin must be divided by the width.

    Returns
    -------
    numpy.ndarray
        float64, ascending.

    Raises
    ------
    RequestError
        If there is no bin, or the window is no range.
    """
    if bins < 1:
        raise RequestError(f"bins is {bins}, it must be at least 1")
    if window is not None and not (-math.inf < window[0] < window[1] < math.inf):
        raise RequestError(f"window is {window}, the first end must be below the second")
    filled = [UnchangedSketch(sketch) for sketch in sketches if sketch.count]
    if not filled:
        return np.array([-0.5, 0.5] if window is None else window)
    places = scale.forward(mass_ends(filled) if window is None else window)
    grid, gap = _coarsest_grid(filled, places, scale)
    width = nominal_width(places, bins, gap)
    fine = _nominal(places, width, is_fixed=window is not None)
    inner = _between(fine[1:-1], grid, width, scale)
    ends = places if window is not None else fine[[0, -1]]
    inner = inner[(inner > ends[0] + width / 2) & (inner < ends[1] - width / 2)]
    edges = scale.inverse(np.concatenate([ends[:1], inner, ends[1:]]))
    if window is not None:
        edges[[0, -1]] = window
    low, high = zip(*map(_extremes, filled), strict=True)
    left = _outward(edges[0], min(low), edges[0] - edges[1])
    right = _outward(edges[-1], max(high), edges[-1] - edges[-2])
    return np.concatenate([left[::-1], edges, right])


def nominal_width(places: Floats, bins: int, gap: float) -> float:
    """Return the width of fine bins between two places of an axis.

    It is a power of two, or the multiple of the typical gap above it: at least `_PER_BIN` gaps, or
    one where that would leave few bins.
    """
    span = float(places[1] - places[0])
    width = 2.0 ** max(math.ceil(math.log2(span / (bins - 1))), -149)
    if gap <= 0:
        return width
    per_bin = _PER_BIN if span >= _FEWEST * _PER_BIN * gap else 1.0
    return max(math.ceil(width / gap), per_bin) * gap


def _nominal(places: Floats, width: float, *, is_fixed: bool) -> Floats:
    """Return edges of equal width around zero that reach both places."""
    first = math.floor(places[0] / width + 0.5) - 0.5
    last = math.ceil(places[1] / width - 0.5) + 0.5
    if is_fixed:
        first, last = first - 1, last + 1
    return np.arange(first, last + 0.5) * width


def _coarsest_grid(
    sketches: Sequence[Sketch], places: Floats, scale: ValueScale
) -> tuple[Floats, float]:
    """Return the values of the sketch with the coarsest grid on the scale, and its typical gap.

    Bins that suit the coarsest grid suit the finer ones, too. Of grids that are alike, such as
    before and after ARM, the first counts: ARM moves values to numbers that the activation function
    never returns. Sketches of a part of the values do not count.
    """
    found: list[tuple[float, int, Floats]] = []
    for sketch in sketches:
        values, counts = sketch.pairs()
        on_axis = scale.forward(values)
        inside = (on_axis >= places[0]) & (on_axis <= places[1])
        distinct, first = np.unique(values[inside], return_index=True)
        if distinct.size < 3:
            continue
        weights = np.add.reduceat(counts[inside], first)
        weights = np.minimum(weights, _MOST_WEIGHT * weights.sum())
        found.append((_typical_gap(scale.forward(distinct), weights), sketch.count, distinct))
    if not found:
        return np.empty(0), 0.0
    most = max(count for _, count, _ in found)
    whole = [(gap, grid) for gap, count, grid in found if 2 * count >= most]
    widest = max(gap for gap, _ in whole)
    return next(grid for gap, grid in whole if _ALIKE * gap >= widest), widest


def _typical_gap(places: Floats, weights: Floats) -> float:
    gaps = np.gradient(places)
    order = np.argsort(gaps)
    running = np.cumsum(weights[order])
    return float(gaps[order][np.searchsorted(running, _GRID_SHARE * running[-1])])


def _between(edges: Floats, grid: Floats, width: float, scale: ValueScale) -> Floats:
    """Move edges to their place between two values of the grid; those in wide gaps stay."""
    if grid.size < 2:
        return edges
    places = scale.forward(grid)
    after = np.clip(np.searchsorted(places, edges), 1, grid.size - 1)
    low, high = places[after - 1], places[after]
    is_grid = (low <= edges) & (edges <= high) & (high - low <= _SAME_GRID * width)
    reach = np.minimum(np.minimum(after - 1, grid.size - 1 - after), _AVERAGED)
    first, last = after - 1 - reach, after + reach
    mean = _sums(places, first, last + 1) / (2 * reach + 2)
    margin = _MARGIN * (high - low)
    mean = np.clip(mean, low + margin, high - margin)
    moved = np.where(_is_irregular(grid, first, last), mean, (low + high) / 2)
    return np.unique(np.where(is_grid, moved, edges))


def _is_irregular(grid: Floats, first: NDArray[np.int64], last: NDArray[np.int64]) -> Any:
    """Return whether gaps between two indexes of the grid both grow and shrink: values missing."""
    gaps = np.diff(grid)
    change = np.zeros(gaps.size)
    change[1:] = np.diff(gaps) / gaps[1:]
    grows, shrinks = (_sums(sign * change > _CHANGE, first + 1, last) for sign in (1, -1))
    return (grows > 0) & (shrinks > 0)


def _sums(numbers: NDArray[Any], first: NDArray[np.int64], last: NDArray[np.int64]) -> Any:
    """Return the sums of ``numbers[first:last]`` for many slices."""
    running = np.concatenate([[0.0], np.cumsum(numbers)])
    return running[np.maximum(first, last)] - running[first]


def _outward(start: float, end: float, step: float) -> Floats:
    """Return edges beyond ``start`` in doubling steps, up to ``end``."""
    edges: list[float] = []
    place = start
    while (end - place) * step > 0:
        step *= 2
        place += step
        edges.append(place)
    return np.array(edges)
