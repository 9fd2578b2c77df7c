"""Data of the figure of two sides: shares on shared bins, numbers, distances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distviz.plots.before_after_data import fine_bins, visible, wants_log
from distviz.stats import statistics

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
    """

    shares: Floats
    count: int
    near_zero: float
    std: float
    gini: float
    low: float
    high: float


@dataclass(frozen=True)
class ComparedBins:
    """A pair of distributions on one set of bins.

    Attributes
    ----------
    pair
        The layers that are compared.
    edges
        float64 (bins + 1,), shared; doubling outside the window.
    first, last
        The bins ``first`` to ``last - 1`` are drawn: equally wide, centred on zero.
    log
        Whether the shares have a logarithmic scale.
    eps
        Half width of the near-zero band, that of A.
    a, b
        Both sides.
    ks, wasserstein_normalized, js_divergence
        The distances, as in ``compare.csv``.
    """

    pair: Pair
    edges: Floats
    first: int
    last: int
    log: bool
    eps: float
    a: ComparedSide
    b: ComparedSide
    ks: float
    wasserstein_normalized: float
    js_divergence: float

    @property
    def window(self) -> tuple[float, float]:
        """Left and right end of the drawn bins."""
        return float(self.edges[self.first]), float(self.edges[self.last])

    @property
    def drawn_edges(self) -> Floats:
        """The edges of the bins that are drawn."""
        return self.edges[self.first : self.last + 1]

    def inside(self, shares: Floats) -> Floats:
        """Return the shares of the drawn bins."""
        return shares[self.first : self.last]

    def beyond(self, side: ComparedSide) -> tuple[float, float]:
        """Return the fractions of a side left and right of the window."""
        return float(side.shares[: self.first].sum()), float(side.shares[self.last :].sum())

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
        return float(max(self.inside(self.a.shares).max(), self.inside(self.b.shares).max()))

    @property
    def floor(self) -> float:
        """Where bars begin on a logarithmic scale: less than one value."""
        return 0.7 / max(self.a.count, self.b.count, 1)


def compared_bins(comparison: Comparison, pair: Pair, *, log: bool | str = "auto") -> ComparedBins:
    """Count a pair of a comparison on shared bins; arguments as of `compared`."""
    sketches = comparison.sketches(pair)
    edges = statistics.bin_edges(sketches)
    eps = comparison.a.bands[pair.a]
    a, b = (_side(sketch, edges, eps) for sketch in sketches)
    drawn = fine_bins(edges)
    bars = [side.shares[drawn] for side in (a, b)]
    is_log = (wants_log(bars) or wants_log(bars[::-1])) if log == "auto" else bool(log)
    if not is_log:
        drawn = visible(drawn, bars)
    row = comparison.table.iloc[comparison.pairs.index(pair)]
    names = ("ks", "wasserstein_normalized", "js_divergence")
    distances = {name: float(row[name]) for name in names}
    return ComparedBins(
        pair, edges, drawn.start, drawn.stop, log=is_log, eps=eps, a=a, b=b, **distances
    )


def _side(sketch: Sketch, edges: Floats, eps: float) -> ComparedSide:
    counts = statistics.histogram(sketch, edges)
    return ComparedSide(
        shares=counts / max(int(counts.sum()), 1),
        count=sketch.count,
        near_zero=statistics.near_zero(sketch, eps),
        std=sketch.std(),
        gini=statistics.gini(sketch),
        low=sketch.min,
        high=sketch.max,
    )
