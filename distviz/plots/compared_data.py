"""Data of the figure of two sides: shares on shared bins, numbers, distances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distviz.plots.before_after_data import DrawnBins, Tails, log_floor
from distviz.plots.range_strip import Strip, strip_of
from distviz.plots.site_axes import SiteAxes, axes_of
from distviz.stats import bin_edges, statistics

if TYPE_CHECKING:
    from distviz.results import Comparison, Pair
    from distviz.stats import Sketch

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ComparedSide:
    """One of the two distributions.

    Attributes
    ----------
    shares
        float64 (bins,), fractions of its finite values; every value is in a bin.
    count, near_zero, std, gini, low, high
        Number of finite values, fraction with abs(x) < eps of A, population standard deviation,
        Gini coefficient of abs(x), extremes.
    energy_outside
        Fraction of the sum of squares that lies outside the axis.
    """

    shares: Floats
    count: int
    near_zero: float
    std: float
    gini: float
    low: float
    high: float
    energy_outside: float


@dataclass(frozen=True)
class ComparedBins(DrawnBins):
    """A pair of distributions on one set of bins.

    Attributes
    ----------
    pair
        The layers that are compared.
    eps
        Half width of the near-zero band, that of A.
    a, b
        Both sides.
    strip
        The whole range of both sides; None where the axis shows it.
    ks, wasserstein_normalized, js_divergence
        The distances, as in ``compare.csv``.
    """

    pair: Pair
    eps: float
    a: ComparedSide
    b: ComparedSide
    ks: float
    wasserstein_normalized: float
    js_divergence: float
    strip: Strip | None = None

    def beyond(self, side: ComparedSide) -> tuple[float, float]:
        """Return the fractions of a side left and right of the window."""
        left, right = self.outside(side.shares)
        return float(left), float(right)

    def tails(self, side: ComparedSide) -> Tails:
        """Return what lies outside the window."""
        left, right = self.beyond(side)
        return (left, side.low), (right, side.high)

    @property
    def difference(self) -> Floats:
        """B - A for each bin; positive where B has more."""
        return self.b.shares - self.a.shares

    @property
    def moved(self) -> float:
        """Fraction of the values in other bins: half the sum of abs(difference)."""
        return float(np.abs(self.difference).sum()) / 2

    @property
    def peak(self) -> float:
        """The tallest bar of both sides."""
        return max(float(self.heights(side.shares).max()) for side in (self.a, self.b))

    @property
    def floor(self) -> float:
        """Where bars begin: on a logarithmic scale less than one value."""
        usual = 0.7 / max(self.a.count, self.b.count, 1)
        return log_floor(
            usual, [self.heights(one.shares) for one in (self.a, self.b)], log=self.log
        )


def compared_bins(
    comparison: Comparison, pair: Pair, *, axes: SiteAxes | None = None
) -> ComparedBins:
    """Count a pair of a comparison on shared bins; arguments as of `paired_bins`."""
    sketches = comparison.sketches(pair)
    axes = axes_of(comparison, pair.a) if axes is None else axes
    edges = bin_edges(sketches, window=axes.window, scale=axes.scale)
    eps = comparison.a.bands[pair.a]
    a, b = (_side(sketch, edges, eps, axes.window) for sketch in sketches)
    row = comparison.table.iloc[comparison.pairs.index(pair)]
    names = ("ks", "wasserstein_normalized", "js_divergence")
    distances = {name: float(row[name]) for name in names}
    strip = strip_of(axes, sketches)
    return ComparedBins(axes, edges, pair, eps, a, b, strip=strip, **distances)


def _side(sketch: Sketch, edges: Floats, eps: float, window: tuple[float, float]) -> ComparedSide:
    counts = statistics.histogram(sketch, edges)
    return ComparedSide(
        shares=counts / max(int(counts.sum()), 1),
        count=sketch.count,
        near_zero=statistics.near_zero(sketch, eps),
        std=sketch.std(),
        gini=statistics.gini(sketch),
        low=sketch.min,
        high=sketch.max,
        energy_outside=statistics.energy_outside(sketch, *window),
    )
