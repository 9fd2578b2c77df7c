"""Statistics of a sketch, and distances between two.

Everything is computed in float64 from the (value, count) pairs, so on bf16 and fp16 data it equals
the same formula on the full data. Definitions: docs/maths.md.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from distviz.errors import RequestError
from distviz.stats import float_grid
from distviz.stats.arguments import check_width, checks_types, to_array
from distviz.stats.magnitudes import HasMagnitudes
from distviz.stats.sketch import Sketch, UnchangedSketch, interpolate_quantiles

DEFAULT_C = 0.13
PERCENTILES = {
    "p0_1": 0.1,
    "p1": 1.0,
    "p5": 5.0,
    "p25": 25.0,
    "p50": 50.0,
    "p75": 75.0,
    "p95": 95.0,
    "p99": 99.0,
    "p99_9": 99.9,
}
MAD_TO_SIGMA = 1.4826
"""Standard deviation over MAD of a normal distribution, as ARM defines it."""
SMALLEST_MAD = 1e-12
"""What ARM takes for a smaller MAD."""
_CELL, _WIDEST = 16, 128
"""bf16 values in a coarse cell; in a gap that is filled: those from a power of two to the next."""
_NEGLIGIBLE = 2.0**-10
"""Fraction of the mean of abs(x) below which coarse cells are merged: formats underflow apart."""


@checks_types
def moments(sketch: Sketch) -> dict[str, float]:
    """Return mean, population std, skewness and excess kurtosis.

    Skewness and kurtosis are NaN if std is 0; mean and std are those of `Sketch`.
    """
    values, counts = sketch.pairs()
    names = ("mean", "std", "skewness", "kurtosis")
    if not counts.size:
        return dict.fromkeys(names, math.nan)
    total = int(counts.sum())
    unrounded = sketch.moments.m3_m4 if sketch.is_rounded else None
    if unrounded is not None:
        second, third, fourth = (part / total for part in (sketch.moments.m2, *unrounded))
    else:
        centered = values - math.fsum(values * counts) / total
        second, third, fourth = (math.fsum(centered**power * counts) / total for power in (2, 3, 4))
    is_constant = sketch.min == sketch.max or second == 0
    skewness = math.nan if is_constant else third / second**1.5
    kurtosis = math.nan if is_constant else fourth / second**2 - 3.0
    return dict(zip(names, (sketch.mean(), sketch.std(), skewness, kurtosis), strict=True))


def median_magnitude(sketch: Sketch) -> float:
    """Return the lower median of abs(x); NaN if the sketch is empty, or eps is NaN."""
    values, counts = sketch.magnitude_pairs()
    return _lower_median(values, counts) if counts.size else math.nan


@checks_types
def center_and_mad(sketch: Sketch) -> tuple[float, float]:
    """Return the lower median m of abs(x), and that of abs(abs(x) - m) (ARM, section 3.3)."""
    values, counts = sketch.magnitude_pairs()
    if not counts.size:
        return math.nan, math.nan
    center = _lower_median(values, counts)
    distances = np.abs(values - center)
    order = np.argsort(distances, kind="stable")
    return center, _lower_median(distances[order], counts[order])


def _lower_median(values: NDArray[np.float64], counts: NDArray[np.int64]) -> float:
    running = np.cumsum(counts)
    return float(values[np.searchsorted(running, (running[-1] - 1) // 2, side="right")])


@checks_types
def near_zero_eps(sketch: Sketch, c: float = DEFAULT_C) -> float:
    """Return the half width of the near-zero band, 1.4826 * MAD * c; the MAD has no lower limit."""
    check_width(c)
    return MAD_TO_SIGMA * center_and_mad(sketch)[1] * c


@checks_types
def near_zero(sketch: HasMagnitudes, eps: float) -> float:
    """Return the share of abs(x) < eps; NaN if the sketch is empty or eps is NaN."""
    if math.isnan(eps):
        return math.nan
    values, counts = sketch.magnitude_pairs()
    if not counts.size:
        return math.nan
    return float(counts[: np.searchsorted(values, eps, side="left")].sum() / counts.sum())


@checks_types
def l1(sketch: Sketch) -> float:
    """Return the sum of abs(x)."""
    if sketch.is_rounded and sketch.moments.l1 is not None:
        return sketch.moments.l1
    values, counts = sketch.magnitude_pairs()
    return math.fsum(values * counts)


@checks_types
def l2(sketch: Sketch) -> float:
    """Return the square root of the sum of squares."""
    if sketch.is_rounded and sketch.moments.l1 is not None:
        return sketch.moments.l2
    values, counts = sketch.magnitude_pairs()
    return math.sqrt(math.fsum(values**2 * counts))


@checks_types
def gini(sketch: Sketch) -> float:
    """Return the Gini coefficient of abs(x); NaN if there are no values or only zeros.

    2 * sum(i * a(i)) / (n * sum(a)) - (n + 1) / n with a ascending, i from 1; ties share a rank.
    """
    values, counts = sketch.magnitude_pairs()
    total = math.fsum(values * counts)
    if not counts.size or total == 0:
        return math.nan
    n = int(counts.sum())
    before = np.cumsum(counts) - counts
    mean_ranks = before + 0.5 * (counts + 1)
    return 2.0 * math.fsum(mean_ranks / n * (values * counts)) / total - (n + 1) / n


@checks_types
def entropy_bits(sketch: Sketch) -> float:
    """Return the Shannon entropy in bits of the values rounded to bf16; -0 and +0 are equal."""
    _, counts = _merge_zeros(*_on_bf16(sketch))
    if not counts.size:
        return math.nan
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) + 0.0


@checks_types
def describe(sketch: Sketch, eps: float | None = None, c: float = DEFAULT_C) -> dict[str, float]:
    """Return every column of ``stats.csv`` from ``count`` to ``entropy_bits``.

    ``eps`` is that of the phase ``before``; None computes it from the sketch with ``c``.
    """
    sketch = UnchangedSketch(sketch)
    values, counts = sketch.pairs()
    shares = np.array(list(PERCENTILES.values())) / 100
    quantiles = sketch.clip(interpolate_quantiles(values, counts, shares))
    mad = center_and_mad(sketch)[1]
    band = MAD_TO_SIGMA * mad * c if eps is None else eps
    return {
        "count": sketch.count,
        "nan": sketch.nan,
        "inf": sketch.inf,
        "zeros": sketch.zeros,
        "min": sketch.min,
        "max": sketch.max,
        **moments(sketch),
        **dict(zip(PERCENTILES, quantiles.tolist(), strict=True)),
        "mad": mad,
        "eps": band,
        "near_zero": near_zero(sketch, band),
        "l1": l1(sketch),
        "l2": l2(sketch),
        "gini": gini(sketch),
        "entropy_bits": entropy_bits(sketch),
    }


@checks_types
def histogram(sketch: Sketch, edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """Count into bins [left, right), the last one closed, like numpy.histogram.

    ``edges`` is ascending, shape (bins + 1,); values outside are not counted.

    Raises
    ------
    RequestError
        If the edges do not ascend, or are not numbers.
    """
    edges = to_array(edges, "edges")
    if edges.ndim != 1 or edges.size < 2 or not bool((edges[1:] > edges[:-1]).all()):
        raise RequestError("edges do not ascend", "give two or more numbers, each above the last")
    values, counts = sketch.pairs()
    running = np.concatenate([[0], np.cumsum(counts)])
    ends = np.searchsorted(values, edges, side="left")
    ends[-1] = np.searchsorted(values, edges[-1], side="right")
    return np.asarray(np.diff(running[ends]), dtype=np.int64)


def _merge_zeros(
    values: NDArray[np.float64], counts: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Merge -0.0 and 0.0 in ascending values."""
    distinct, first = np.unique(values, return_index=True)
    return distinct, np.add.reduceat(counts, first) if counts.size else counts


def _shares(
    first: tuple[NDArray[np.float64], NDArray[np.int64]],
    second: tuple[NDArray[np.float64], NDArray[np.int64]],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the values of two samples, and the share of each sample at every value."""
    values = np.unique(np.concatenate([first[0], second[0]]))
    shares = []
    for of_sample, counts in (first, second):
        merged_values, merged = _merge_zeros(of_sample, counts)
        share = np.zeros(values.size)
        share[np.searchsorted(values, merged_values)] = merged / counts.sum()
        shares.append(share)
    return values, shares[0], shares[1]


def energy_outside(sketch: Sketch, left: float, right: float) -> float:
    """Return the fraction of the sum of squares of values below ``left`` or above ``right``."""
    values, counts = sketch.pairs()
    energy = values**2 * counts
    total = energy.sum()
    return float(energy[(values < left) | (values > right)].sum() / total) if total else 0.0


@checks_types
def ks(a: Sketch, b: Sketch) -> float:
    """Return the Kolmogorov-Smirnov distance, the largest difference of the two CDFs."""
    if not a.count or not b.count:
        return math.nan
    _, cdf_a, cdf_b = _cdfs(a, b)
    return float(np.abs(cdf_a - cdf_b).max())


def _cdfs(
    a: Sketch, b: Sketch
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the values of two sketches and both empirical CDFs there."""
    pairs = [_merge_zeros(*sketch.pairs()) for sketch in (a, b)]
    values = np.unique(np.concatenate([pairs[0][0], pairs[1][0]]))
    cdfs = []
    for of_sample, counts in pairs:
        running = np.concatenate([[0], np.cumsum(counts)])
        cdfs.append(running[np.searchsorted(of_sample, values, side="right")] / running[-1])
    return values, cdfs[0], cdfs[1]


@checks_types
def wasserstein(a: Sketch, b: Sketch) -> float:
    """Return the Wasserstein-1 distance: the area between the two CDFs, in units of x."""
    if not a.count or not b.count:
        return math.nan
    values, cdf_a, cdf_b = _cdfs(a, b)
    return math.fsum(np.abs(cdf_a - cdf_b)[:-1] * np.diff(values))


@checks_types
def js_divergence(a: Sketch, b: Sketch) -> float:
    """Return the Jensen-Shannon divergence in bits (0 to 1) of both sides rounded to bf16.

    Sides of different number formats are compared in cells of 16 neighbouring bf16 values, see
    docs/maths.md: an activation function of bf16 leaves out values that fp32 takes, and single
    values would tell the formats apart.
    """
    if not a.count or not b.count:
        return math.nan
    first, second = _on_bf16(a), _on_bf16(b)
    if (a.grid, a.is_rounded) == (b.grid, b.is_rounded):
        _, p, q = _shares(first, second)
    else:
        least = min(l1(a) / a.count, l1(b) / b.count) * _NEGLIGIBLE
        p, q = _coarse_shares(*first, least), _coarse_shares(*second, least)
    middle = (p + q) / 2
    terms = [part[part > 0] * np.log2(part[part > 0] / middle[part > 0]) for part in (p, q)]
    return 0.5 * math.fsum(np.concatenate(terms)) + 0.0


def _coarse_shares(
    values: NDArray[np.float64], counts: NDArray[np.int64], least: float
) -> NDArray[np.float64]:
    """Return the shares in cells of 16 neighbouring bf16 values, all cells in ascending order.

    The values that a sample leaves out belong to the nearest one that it takes, whose count is
    divided evenly among them; not in gaps of more than a factor of two. Cells with an edge below
    ``least`` are merged.
    """
    codes = float_grid.to_bf16_codes(np.abs(values)).astype(np.float64)
    places, merged = _merge_zeros(np.where(values < 0, -codes, codes), counts)
    gaps = np.diff(places)
    half = np.where(gaps <= _WIDEST, gaps / 2, 0.5)
    ends = [places - np.append(0.5, half), places + np.append(half, 0.5)]
    running = np.append(0, np.cumsum(merged)) / merged.sum()
    top = np.arange(_CELL, float_grid.first_nonfinite("bf16") + 1, _CELL) - 0.5
    top = top[top >= float_grid.to_bf16_codes(np.array(least))]
    edges = np.concatenate([-top[::-1], top])
    filled = np.interp(edges, np.ravel(ends, "F"), np.ravel([running[:-1], running[1:]], "F"))
    return np.asarray(np.diff(filled), dtype=np.float64)


def _on_bf16(sketch: Sketch) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    values, counts = sketch.pairs()
    if sketch.grid == "fp16":
        codes = float_grid.to_bf16_codes(values)
        rounded = float_grid.values("bf16")[codes]
        distinct, where = np.unique(rounded, return_inverse=True)
        merged = np.zeros(distinct.size, np.int64)
        np.add.at(merged, where, counts)
        return distinct, merged
    return values, counts
