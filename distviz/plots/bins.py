"""What the signature figure shows, as plain data: counts on shared bins and the main numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distviz import statistics
from distviz.errors import RequestError
from distviz.sites import Key

if TYPE_CHECKING:
    from distviz.runs import Run
    from distviz.sketch import Sketch

__all__ = ["PairedBins", "Panel", "paired_bins"]

Counts = NDArray[np.int64]
_HIDDEN = 0.02
"""A bar below this part of the tallest can hardly be seen on a linear scale."""


@dataclass(frozen=True)
class Panel:
    """One distribution.

    Attributes
    ----------
    phase
        ``"before"``, ``"arriving"`` or ``"after"``.
    counts
        int64 (bins,), every value in a bin.
    moved
        int64 (bins,), the part of ``counts`` that ARM takes away (or brings); None where it
        does not act.
    count, near_zero, std, gini, low, high, nonfinite
        Number of finite values, share of abs(x) < eps, population standard deviation, Gini
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
        The bins ``first`` to ``last - 1`` are drawn: equally wide, centred on zero.
    eps
        Half width of the near-zero band.
    panels
        One or two, in the order drawn.
    untouched
        Counts of the phase ``before`` where the first panel shows ``arriving``; else None.
    moved
        Number of values that ARM moved; None where it does not act.
    """

    key: Key
    edges: NDArray[np.float64]
    first: int
    last: int
    eps: float
    panels: tuple[Panel, ...]
    untouched: Counts | None = None
    moved: int | None = None

    @property
    def window(self) -> tuple[float, float]:
        """Left and right end of what is drawn."""
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

    @property
    def wants_log(self) -> bool:
        """Whether most of what lies beside the tallest bar would be too low to be seen."""
        bars = self.inside(self.panels[0].counts)
        others = np.delete(bars, bars.argmax())
        return bool(others[others < _HIDDEN * self.peak].sum() > others.sum() / 2)


def paired_bins(
    run: Run, layer: int, site: str = "act", *, module: str | None = None
) -> PairedBins:
    """Count one place of a run on shared bins.

    Raises
    ------
    RequestError
        If the run holds no such layer, site or module; the message says what it holds.
    """
    keys = {key.phase: key for key in _place(run, layer, site, module)}
    sketches = {phase: run.merged[key] for phase, key in keys.items()}
    leads = "arriving" if "arriving" in keys else "before"
    key = next(iter(keys.values()))
    edges, eps = run.edges(key), run.bands[key]
    partners = {leads: "leaving", "after": "landing"}
    panels = [
        _panel(phase, sketches[phase], sketches.get(partner), edges, eps)
        for phase, partner in partners.items()
        if phase in sketches
    ]
    untouched = None
    if leads == "arriving" and "before" in sketches:
        untouched = statistics.histogram(sketches["before"], edges)
    widths = np.diff(edges)
    drawn = np.flatnonzero(widths == widths.min())
    return PairedBins(
        key=key._replace(phase=panels[0].phase),
        edges=edges,
        first=int(drawn[0]),
        last=int(drawn[-1]) + 1,
        eps=eps,
        panels=tuple(panels),
        untouched=untouched,
        moved=sketches["leaving"].count if "leaving" in sketches else None,
    )


def _place(run: Run, layer: int, site: str, module: str | None) -> list[Key]:
    """Return the keys of one place, all phases."""
    key = run.find(layer, site, next(key.phase for key in run.keys))
    places = [keys for keys in run.places().values() if (keys[0].layer, keys[0].site) == key[:3:2]]
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
