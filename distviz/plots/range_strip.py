"""The strip below a histogram: the whole range of the values on a symmetric logarithmic scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import to_rgba
from numpy.typing import NDArray

from distviz.plots import style
from distviz.plots.scales import value_scale
from distviz.results import number
from distviz.stats import statistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from distviz.plots.site_axes import SiteAxes
    from distviz.stats import Sketch

_BINS = 160
_FAINTEST = 0.25
"""Opacity of a bin that has one value."""
_ROW, _BELOW_ROWS = 0.115, 0.42
_NOTE = "whole range; shaded: the axis above"
_BELOW_LABEL = 0.47
"""Inches from the foot of a panel to the strip."""


@dataclass(frozen=True)
class StripRow:
    """One distribution on a strip.

    Attributes
    ----------
    counts
        int64 (160,), in bins of equal drawn width between the ends of the strip.
    low, high
        The smallest and the largest finite value.
    """

    counts: NDArray[np.int64]
    low: float
    high: float


@dataclass(frozen=True)
class Strip:
    """The whole range of a place's distributions.

    Attributes
    ----------
    axes
        The ends of the strip and its scale, the same for all layers of a site.
    rows
        One for each distribution.
    """

    axes: SiteAxes
    rows: tuple[StripRow, ...]

    @property
    def edges(self) -> NDArray[np.float64]:
        """The edges of the bins, float64 (161,)."""
        return _edges(self.axes)


def _edges(axes: SiteAxes) -> NDArray[np.float64]:
    left, right = axes.scale.forward(axes.window)
    edges = axes.scale.inverse(np.linspace(left, right, _BINS + 1))
    edges[[0, -1]] = axes.window
    return edges


def strip_height(strip: Strip | None) -> float:
    """Return the inches that a strip needs below the label of the panel's axis; 0 without one."""
    return _ROW * len(strip.rows) + _BELOW_ROWS if strip else 0.0


def strip_of(axes: SiteAxes, sketches: Sequence[Sketch]) -> Strip | None:
    """Return the strip of a place; None where its own axis shows the whole range."""
    if axes.strip is None:
        return None
    edges = _edges(axes.strip)
    rows = [StripRow(statistics.histogram(one, edges), one.min, one.max) for one in sketches]
    return Strip(axes.strip, tuple(rows))


def draw_strip(
    above: Axes, strip: Strip, colors: Sequence[str], window: tuple[float, float]
) -> None:
    """Draw a strip below a panel that has its final place.

    Opacity stands for the logarithm of the counts; the extremes of each distribution are written
    beside it, and the part of the range that the panel shows is shaded.
    """
    figure, box = style.figure_of(above), above.get_position()
    height = figure.get_figheight()
    deep = _ROW * len(strip.rows) / height
    top = box.y0 - _BELOW_LABEL / height
    across = figure.get_figwidth()
    left = max(box.x0, *(_text_width(row.low) / across for row in strip.rows))
    right = min(box.x1, *(1 - _text_width(row.high) / across for row in strip.rows))
    ax = figure.add_axes((left, top - deep, right - left, deep), gid="strip")
    value_scale(ax, strip.axes)
    ax.set_ylim(len(strip.rows), 0)
    ax.yaxis.set_visible(False)
    ax.spines["left"].set_visible(False)
    ax.tick_params(labelsize=style.size("note"), length=2, pad=1.5)
    ax.set_xlabel(_NOTE, fontsize=style.size("note"), color=style.MUTED, labelpad=1.5)
    ax.axvspan(*window, color=style.BAND, linewidth=0, zorder=0.4, gid="window")
    starts, widths = strip.edges[:-1], np.diff(strip.edges)
    most = max((int(row.counts.max()) for row in strip.rows), default=1)
    for place, (row, color) in enumerate(zip(strip.rows, colors, strict=True)):
        found = np.flatnonzero(row.counts)
        part = np.log1p(row.counts[found]) / np.log1p(max(most, 1))
        opacity = _FAINTEST + (1 - _FAINTEST) * part
        ax.broken_barh(
            list(zip(starts[found], widths[found], strict=True)), (place + 0.1, 0.8),
            facecolors=[to_rgba(color, float(one)) for one in opacity], linewidth=0, gid="range",
        )  # fmt: skip
        if found.size:
            _write_extremes(ax, place, row, color)


def _text_width(value: float) -> float:
    """Return the inches that an extreme takes beside the strip."""
    return style.text_width(number(value), style.label_size()) + 0.08


def _write_extremes(ax: Axes, place: int, row: StripRow, color: str) -> None:
    ends = ((row.low, -0.006, "right"), (row.high, 1.006, "left"))
    for value, beside, side in ends:
        span = [place + 0.05, place + 0.95]
        ax.plot([value, value], span, color=color, linewidth=1.2, gid="extreme")
        ax.text(
            beside, place + 0.5, number(value), ha=side, va="center_baseline", color=color,
            fontsize=style.label_size(), transform=ax.get_yaxis_transform(),
            gid="extreme",
        )  # fmt: skip
