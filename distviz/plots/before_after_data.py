"""Data of the figure of a layer: counts on shared bins, and the main numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distviz.errors import RequestError
from distviz.plots.range_strip import Strip, strip_of
from distviz.plots.site_axes import SiteAxes, axes_of
from distviz.sites import SiteKey
from distviz.stats import bin_edges, statistics

if TYPE_CHECKING:
    from distviz.results import Run
    from distviz.stats import Sketch

Counts = NDArray[np.int64]
Tails = tuple[tuple[float, float], tuple[float, float]]
"""Fraction of the values left of the window and their minimum; right of it and their maximum."""
_LOG_FLOOR = 0.7
"""Where bars begin on a logarithmic scale: less than one value in a bin of the usual width."""


@dataclass(frozen=True)
class Panel:
    """One distribution.

    Attributes
    ----------
    phase
        ``"before"``, ``"arm_input"`` or ``"after"``.
    counts
        int64 (bins,), every value in a bin.
    moved
        int64 (bins,), the part of ``counts`` that ARM moves away (or adds); None where it
        does not act.
    count, near_zero, std, gini, low, high, nonfinite
        Number of finite values, fraction with abs(x) < eps, population standard deviation, Gini
        coefficient of abs(x), extremes, and number of NaN and infinite values.
    energy_outside
        Fraction of the sum of squares that lies outside the axis.
    """

    phase: str
    counts: Counts
    moved: Counts | None
    count: int
    near_zero: float
    std: float
    gini: float
    low: float
    high: float
    nonfinite: int
    energy_outside: float = 0.0


@dataclass(frozen=True)
class DrawnBins:
    """Bins of which some are drawn on an axis of values.

    Attributes
    ----------
    axes
        The axes that they are drawn on; the ends of the axis of values are edges.
    edges
        float64 (bins + 1,), shared by all distributions; doubling outside the axis.
    """

    axes: SiteAxes
    edges: NDArray[np.float64]

    @property
    def window(self) -> tuple[float, float]:
        """Left and right end of the axis."""
        return self.axes.window

    @property
    def log(self) -> bool:
        """Whether the counts have a logarithmic scale."""
        return self.axes.log

    @property
    def drawn(self) -> slice:
        """The bins on the axis."""
        first, last = np.searchsorted(self.edges, self.window)
        return slice(int(first), int(last))

    @property
    def drawn_edges(self) -> NDArray[np.float64]:
        """The edges of the bins on the axis."""
        return self.edges[self.drawn.start : self.drawn.stop + 1]

    @property
    def middles(self) -> NDArray[np.float64]:
        """The middles of the drawn bins."""
        return (self.drawn_edges[:-1] + self.drawn_edges[1:]) / 2

    @cached_property
    def relative_widths(self) -> NDArray[np.float64]:
        """Widths of the drawn bins on the axis, divided by the usual one."""
        widths = np.diff(self.axes.scale.forward(self.drawn_edges))
        return np.asarray(widths / np.median(widths))

    def inside(self, counts: NDArray[Any]) -> NDArray[Any]:
        """Return the counts of the drawn bins."""
        return counts[self.drawn]

    def heights(self, counts: NDArray[Any]) -> NDArray[np.float64]:
        """Return the heights of the drawn bars: counts per bin of the usual width."""
        return np.asarray(self.inside(counts) / self.relative_widths)

    def outside(self, counts: NDArray[Any]) -> tuple[Any, Any]:
        """Return the sums of the counts left and right of the axis."""
        return counts[: self.drawn.start].sum(), counts[self.drawn.stop :].sum()


@dataclass(frozen=True)
class PairedBins(DrawnBins):
    """The panels of a place, on one set of bins.

    Attributes
    ----------
    key
        The place; its phase is that of the first panel.
    eps
        Half width of the near-zero band.
    panels
        One or two, in the order drawn.
    untouched
        Counts of the phase ``before`` where the first panel shows ``arm_input``; else None.
    moved
        Number of values that ARM moved; None where it does not act.
    strip
        The whole range, a row for each panel; None where the axis shows it.
    """

    key: SiteKey
    eps: float
    panels: tuple[Panel, ...]
    untouched: Counts | None = None
    moved: int | None = None
    strip: Strip | None = None

    def beyond(self, panel: Panel) -> tuple[int, int]:
        """Return how many values lie left and right of the axis."""
        left, right = self.outside(panel.counts)
        return int(left), int(right)

    def tails(self, panel: Panel) -> Tails:
        """Return what lies outside the window."""
        left, right = (count / max(panel.count, 1) for count in self.beyond(panel))
        return (left, panel.low), (right, panel.high)

    @property
    def peak(self) -> float:
        """The tallest bar of all panels."""
        return max(float(self.heights(panel.counts).max()) for panel in self.panels)

    @property
    def floor(self) -> float:
        """Where bars begin: below the lowest bar on a logarithmic scale."""
        return log_floor(_LOG_FLOOR, [self.heights(p.counts) for p in self.panels], log=self.log)


def log_floor(usual: float, bars: Sequence[NDArray[Any]], *, log: bool) -> float:
    """Return where bars begin: zero, or on a logarithmic scale below the lowest of them."""
    if not log:
        return 0.0
    lowest = [float(one[one > 0].min()) for one in bars if one.any()]
    return min(usual, 0.7 * min(lowest, default=1.0))


def paired_bins(
    run: Run,
    layer: int,
    site: str = "act",
    *,
    module: str | None = None,
    axes: SiteAxes | None = None,
) -> PairedBins:
    """Count one place of a run on shared bins.

    Parameters
    ----------
    run, layer, site, module
        As of `paired`.
    axes
        Of `axes_of`; None: those of all layers of the site.

    Raises
    ------
    RequestError
        If the run has no such layer, site or module; the message lists what it has.
    """
    keys = {key.phase: key for key in run.places()[find_place(run, layer, site, module)]}
    sketches = {phase: run.merged[key] for phase, key in keys.items()}
    first_phase = "arm_input" if "arm_input" in keys else "before"
    key = next(iter(keys.values()))
    axes = axes_of(run, key) if axes is None else axes
    edges = bin_edges(list(sketches.values()), window=axes.window, scale=axes.scale)
    eps = run.bands[key]
    partners = {first_phase: "moved_before", "after": "moved_after"}
    panels = tuple(
        _panel(phase, sketches[phase], sketches.get(partner), edges, eps, axes.window)
        for phase, partner in partners.items()
        if phase in sketches
    )
    untouched = None
    if first_phase == "arm_input" and "before" in sketches:
        untouched = statistics.histogram(sketches["before"], edges)
    return PairedBins(
        axes=axes,
        edges=edges,
        key=key._replace(phase=panels[0].phase),
        eps=eps,
        panels=panels,
        untouched=untouched,
        moved=sketches["moved_before"].count if "moved_before" in sketches else None,
        strip=strip_of(axes, [sketches[panel.phase] for panel in panels]),
    )


def find_place(run: Run, layer: int, site: str, module: str | None) -> SiteKey:
    """Return the first key of one place; errors as of `paired_bins`."""
    places = [key for key in run.places() if (key.layer, key.site) == (layer, site)]
    if not places:
        run.find(layer, site)
    if module is None:
        return places[0]
    for key in places:
        if key.module == module:
            return key
    known = [key.module for key in places]
    raise RequestError(
        f"layer {layer} has no module '{module}' observed at site {site}",
        f"it has {', '.join(known[:4])}{' and more' * (len(known) > 4)}",
    )


def _panel(
    phase: str,
    sketch: Sketch,
    moved: Sketch | None,
    edges: NDArray[np.float64],
    eps: float,
    window: tuple[float, float],
) -> Panel:
    return Panel(
        phase=phase,
        counts=statistics.histogram(sketch, edges),
        moved=None if moved is None else statistics.histogram(moved, edges),
        count=sketch.count,
        near_zero=statistics.near_zero(sketch, eps),
        std=sketch.std(),
        gini=statistics.gini(sketch),
        low=sketch.min,
        high=sketch.max,
        nonfinite=sketch.nan + sketch.inf,
        energy_outside=statistics.energy_outside(sketch, *window),
    )
