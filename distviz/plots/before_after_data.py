"""Data of the figure of a layer: counts on shared bins, and the main numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distviz.errors import RequestError
from distviz.sites import SiteKey
from distviz.stats import statistics

if TYPE_CHECKING:
    from distviz.results import Run
    from distviz.stats import Sketch

Counts = NDArray[np.int64]
_LOW = 0.02
"""Bars below this fraction of the tallest are hard to read on a linear scale."""
_INVISIBLE = 0.008
"""Bars below this fraction of the tallest are one or two pixels high on a linear scale."""
_MOST_LOW, _MOST_LEFT_OUT = 0.1, 0.01
"""Fractions of the values: in low bars before a log scale is used; outside the window."""


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


@dataclass(frozen=True)
class PairedBins:
    """The panels of a place, on one set of bins.

    Attributes
    ----------
    key
        The place; its phase is that of the first panel.
    edges
        float64 (bins + 1,), shared by the panels; doubling outside the window.
    first, last
        The bins ``first`` to ``last - 1`` are drawn: equally wide, centred on zero. On a linear
        scale they exclude bars that are too low to be seen.
    log
        Whether the counts have a logarithmic scale.
    eps
        Half width of the near-zero band.
    panels
        One or two, in the order drawn.
    untouched
        Counts of the phase ``before`` where the first panel shows ``arm_input``; else None.
    moved
        Number of values that ARM moved; None where it does not act.
    """

    key: SiteKey
    edges: NDArray[np.float64]
    first: int
    last: int
    log: bool
    eps: float
    panels: tuple[Panel, ...]
    untouched: Counts | None = None
    moved: int | None = None

    @property
    def window(self) -> tuple[float, float]:
        """Left and right end of the drawn bins."""
        return float(self.edges[self.first]), float(self.edges[self.last])

    @property
    def width(self) -> float:
        """Width of a drawn bin."""
        return float(self.edges[self.first + 1] - self.edges[self.first])

    def inside(self, counts: Counts) -> Counts:
        """Return the counts of the drawn bins."""
        return counts[self.first : self.last]

    def beyond(self, panel: Panel) -> tuple[int, int]:
        """Return how many values lie left and right of the window."""
        return int(panel.counts[: self.first].sum()), int(panel.counts[self.last :].sum())

    @property
    def peak(self) -> int:
        """The tallest bar of all panels."""
        return max(int(self.inside(panel.counts).max()) for panel in self.panels)


def paired_bins(
    run: Run,
    layer: int,
    site: str = "act",
    *,
    module: str | None = None,
    log: bool | str = "auto",
) -> PairedBins:
    """Count one place of a run on shared bins; arguments as of `paired`.

    Raises
    ------
    RequestError
        If the run has no such layer, site or module; the message lists what it has.
    """
    keys = {key.phase: key for key in _place(run, layer, site, module)}
    sketches = {phase: run.merged[key] for phase, key in keys.items()}
    first_phase = "arm_input" if "arm_input" in keys else "before"
    key = next(iter(keys.values()))
    edges, eps = run.edges(key), run.bands[key]
    partners = {first_phase: "moved_before", "after": "moved_after"}
    panels = tuple(
        _panel(phase, sketches[phase], sketches.get(partner), edges, eps)
        for phase, partner in partners.items()
        if phase in sketches
    )
    untouched = None
    if first_phase == "arm_input" and "before" in sketches:
        untouched = statistics.histogram(sketches["before"], edges)
    drawn = fine_bins(edges)
    bars = [panel.counts[drawn] for panel in panels]
    is_log = wants_log(bars) if log == "auto" else bool(log)
    if not is_log:
        moved = [p.moved[drawn] for p in panels if p.moved is not None and p.phase == "after"]
        drawn = visible(drawn, bars, moved)
    return PairedBins(
        key=key._replace(phase=panels[0].phase),
        edges=edges,
        first=drawn.start,
        last=drawn.stop,
        log=is_log,
        eps=eps,
        panels=panels,
        untouched=untouched,
        moved=sketches["moved_before"].count if "moved_before" in sketches else None,
    )


def fine_bins(edges: NDArray[np.float64]) -> slice:
    """Return the bins around zero, those of equal width."""
    widths = np.diff(edges)
    fine = np.flatnonzero(widths == widths.min())
    return slice(int(fine[0]), int(fine[-1]) + 1)


def wants_log(bars: Sequence[NDArray[Any]]) -> bool:
    """Return whether many values beside the tallest bar would be in bars too low to be read.

    The first of the distributions decides; the others count for the height of the scale.
    """
    others = np.delete(bars[0], bars[0].argmax())
    low = others[others < _LOW * max(one.max() for one in bars)]
    return bool(low.sum() > _MOST_LOW * others.sum())


def visible(
    drawn: slice, bars: Sequence[NDArray[Any]], moved: Sequence[NDArray[Any]] = ()
) -> slice:
    """Narrow the drawn bins, evenly on both sides, to those that can be seen."""
    least = _INVISIBLE * max(one.max() for one in bars)
    seen = np.zeros(drawn.stop - drawn.start, bool)
    for one in bars:
        seen |= (one > least) | _all_but(one, _MOST_LEFT_OUT)
    for one in moved:
        seen |= _all_but(one, _MOST_LEFT_OUT)
    places = np.flatnonzero(seen)
    if not places.size:
        return drawn
    spare = int(min(places[0], seen.size - 1 - places[-1]))
    spare = max(min(spare, seen.size // 2 - 4), 0)
    return slice(drawn.start + spare, drawn.stop - spare)


def _all_but(counts: NDArray[Any], share: float) -> NDArray[np.bool_]:
    """Mark the bins that contain all counts except a fraction, half of it on either side."""
    running = np.cumsum(counts)
    total = running[-1]
    inside = (running > share / 2 * total) & (running - counts < (1 - share / 2) * total)
    return np.asarray(inside, dtype=np.bool_)


def _place(run: Run, layer: int, site: str, module: str | None) -> list[SiteKey]:
    """Return the keys of one place, all phases."""
    places = [
        keys for keys in run.places().values() if (keys[0].layer, keys[0].site) == (layer, site)
    ]
    if not places:
        run.find(layer, site)
    if module is None:
        return places[0]
    for keys in places:
        if keys[0].module == module:
            return keys
    known = [keys[0].module for keys in places]
    raise RequestError(
        f"layer {layer} has no module '{module}' observed at site {site}",
        f"it has {', '.join(known[:4])}{' and more' * (len(known) > 4)}",
    )


def _panel(
    phase: str, sketch: Sketch, moved: Sketch | None, edges: NDArray[np.float64], eps: float
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
    )
