"""Two models value by value: the relative error of each layer, and the channels that hold it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from distviz.errors import RequestError
from distviz.plots import layout, style
from distviz.plots.heatmaps import COST, MOST_LINES, ROW, draw_heatmap, sequential_scale, whole
from distviz.plots.scales import layers_on_x, log_ticks
from distviz.results import (
    Comparison,
    alignment,
    error_rows,
    error_series,
    layer_axis,
    number,
    side_names,
    worst_channels,
)
from distviz.stats import checks_types

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from distviz.results import ErrorRow

_COLORS = (
    "#0072b2", "#d55e00", "#009e73", "#b8860b", "#cc79a7", "#56a0c8", "#6a7178", "#7f3b08",
)  # fmt: skip
_MARKERS = "osD^vPX*"
_OWN: dict[str, Any] = {"linestyle": (0, (3, 2)), "linewidth": 0.9, "marker": ".", "markersize": 3}
_SPREAD = 0.4
"""Layers over which the marks of one layer are spread."""
_BESIDE = 0.13
"""Part of the axis between its end and what has no place on it."""
_LABEL = 0.25
"""Part of the width that the name of a line may take beside a map."""
_TITLES = {
    "relative_error": "relative error, ‖b − a‖ / ‖a‖",
    "local_relative_error": "own error of the layer, with A's input",
}
_CHANNELS = 8

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Axis:
    """A logarithmic axis with a row below it for zeros, and one above it for infinite values."""

    low: float
    high: float

    @classmethod
    def of(cls, values: Floats) -> _Axis:
        positive = values[np.isfinite(values) & (values > 0)]
        if not positive.size:
            return cls(0.1, 1.0)
        low, high = float(positive.min()), float(positive.max())
        spare = max(10.0, high / low) ** 0.06
        return cls(low / spare, high * spare)

    def place(self, value: float) -> float:
        """Return where zero or infinity is drawn."""
        step: float = (self.high / self.low) ** _BESIDE
        return self.low / step if value == 0 else self.high * step

    def apply(self, ax: Axes, *, has_zeros: bool, has_infinite: bool) -> None:
        """Set scale, limits and ticks."""
        names = {tick: number(tick, 1) for tick in log_ticks(self.low, self.high)}
        limits, beyond = [self.low, self.high], (self.high / self.low) ** (1.6 * _BESIDE)
        if has_zeros:
            names[self.place(0.0)], limits[0] = "0", self.low / beyond
        if has_infinite:
            names[self.place(math.inf)], limits[1] = "∞", self.high * beyond
        for edge in {self.low, self.high} - set(limits):
            ax.axhline(edge, color=style.ZERO, linewidth=0.7, linestyle=(0, (1, 2)), zorder=0.5)
        ax.set_yscale("log")
        ax.set_ylim(*limits)
        ax.yaxis.set_major_locator(FixedLocator(sorted(names)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: names.get(value, "")))
        ax.yaxis.set_minor_locator(NullLocator())


@checks_types
def elementwise(comparison: Comparison, *, width: str | None = None) -> Figure:
    """Draw the relative error of each layer and site, and the channels with most of the error.

    Errors have a logarithmic axis, with a row of its own for exact zeros; bars are 95 % intervals
    (of the SQNR, which is the same number in decibels); the band is what rounding explains. The
    error that a layer makes itself is dashed. ``width`` is ``"single"`` or ``"double"``, the
    columns of a paper, or None, for a screen.

    Raises
    ------
    RequestError
        If the models were not compared value by value.
    """
    note = comparison.manifest.get("elementwise")
    if not note or not comparison.elementwise:
        raise RequestError(
            "the models were not compared value by value", "compare them with --elementwise"
        )
    rows = error_rows(comparison.elementwise["elementwise"], note["dtypes"])
    series = error_series(rows)
    site, shares = worst_channels(comparison.elementwise["elementwise_channels"], _CHANNELS)
    columns = [name for name in _TITLES if rows and name in rows[0]]
    with style.styled(width) as page:
        inches = page.or_width(8.0)
        row = ROW * (0.9 if page.is_narrow else 1.0)
        if has_lines := len(series) * len(columns) <= MOST_LINES:
            heights = [1.8 if page.is_narrow else 2.4]
        else:
            heights = [row * len(series) for _ in columns]
        heights += [row * len(shares)] * bool(len(shares))
        figure, axes = layout.stacked(inches, heights)
        if has_lines:
            _draw_lines(axes[0], series)
        else:
            for ax, column in zip(axes, columns, strict=False):
                _draw_map(ax, series, column)
        if len(shares):
            _draw_channels(axes[-1], site, shares, 1.0 if has_lines else 1.0 - 2 * _LABEL)
        for ax in axes[:-1]:
            ax.set_xlabel("layer", labelpad=1)
        axes[-1].set_xlabel(layer_axis(comparison, "_a"))
        layout.arrange(figure, _heading(comparison, str(note["verdict"]), inches), heights)
        return figure


def _heading(comparison: Comparison, verdict: str, width: float) -> layout.Heading:
    """Return both names, how layers are paired, and the verdict (a paper states it in its text)."""
    captions = [layout.Line(f"value by value · {alignment(comparison)}")]
    if not style.page_format().is_paper:
        captions.append(layout.Line(verdict, "panel", style.INK, "bold", gid="verdict"))
    return layout.side_heading(side_names(comparison), captions, width)


def _column(rows: list[ErrorRow], name: str) -> Floats:
    return np.array([row.get(name, math.nan) for row in rows], dtype=np.float64)


def _draw_lines(ax: Axes, series: dict[str, list[ErrorRow]]) -> None:
    """Draw a line per site, its own error and its intervals, and what rounding explains."""
    every = [row for rows in series.values() for row in rows]
    errors = np.concatenate([_column(every, name) for name in _TITLES])
    axis = _Axis.of(np.concatenate([errors, _ends(every).ravel(), _column(every, "level")]))
    axis.apply(ax, has_zeros=bool((errors == 0).any()), has_infinite=bool(np.isinf(errors).any()))
    handles: dict[str, Artist] = {}
    for index, (name, rows) in enumerate(series.items()):
        color = _COLORS[index % len(_COLORS)]
        layers = _column(rows, "layer") + _SPREAD * ((index + 0.5) / len(series) - 0.5)
        look: dict[str, Any] = {"color": color, "marker": _MARKERS[index % len(_MARKERS)]}
        look["linewidth"] = 1.3
        look["markersize"] = 4.2 * style.page_format().marks
        _draw_line(ax, layers, _column(rows, "relative_error"), axis, f"error-{name}", look)
        handles[name] = Line2D([], [], **look)
        ends, own = _ends(rows), _column(rows, "local_relative_error")
        if np.isfinite(ends).any():
            ax.vlines(layers, *ends.T, color=color, linewidth=1.2, gid=f"interval-{name}")
        if not np.isnan(own).all():
            _draw_line(ax, layers, own, axis, f"own-{name}", _OWN | {"color": color})
    if not np.isnan(_column(every, "local_relative_error")).all():
        handles["own error, with A's input"] = Line2D([], [], color=style.INK, **_OWN)
    if np.isfinite(_ends(every)).any():
        bar: dict[str, Any] = {"marker": "|", "markersize": 8, "markeredgewidth": 1.2}
        rough = ", approximate" * any(row["approximate"] for row in every)
        handles[f"95 % interval{rough}"] = Line2D([], [], color=style.INK, linestyle="none", **bar)
    handles["rounding explains"] = _draw_level(ax, every, axis)
    layers_on_x(ax, np.unique([row["layer"] for row in every]))
    is_equal = bool(every) and not np.nan_to_num(errors, nan=0.0).any()
    layout.panel_title(ax, _TITLES["relative_error"] + ": 0 everywhere" * is_equal)
    layout.legend_above(ax, list(handles.values()), list(handles))


def _draw_level(ax: Axes, rows: list[ErrorRow], axis: _Axis) -> Artist:
    """Draw what rounding explains as a band up to both sides of the panel."""
    levels = {row["layer"]: row["level"] for row in rows}
    layers = sorted(levels)
    ends = [layers[0], *layers, layers[-1]]
    at = np.array(ends) + np.array([-0.5, *[0.0] * len(layers), 0.5])
    level = [levels[layer] for layer in ends]
    band: dict[str, Any] = {"color": style.BAND, "alpha": 0.6, "linewidth": 0}
    ax.fill_between(at, axis.low, level, zorder=0.4, gid="rounding", **band)
    return Patch(**band)


def _ends(rows: list[ErrorRow]) -> Floats:
    """Return the intervals as relative errors, float64 (layers, 2); NaN where there are none."""
    ends = np.column_stack([_column(rows, "sqnr_high"), _column(rows, "sqnr_low")])
    found: Floats = 10.0 ** (-ends / 20)
    return found


def _draw_line(
    ax: Axes, layers: Floats, values: Floats, axis: _Axis, gid: str, look: dict[str, Any]
) -> None:
    """Draw a line through the numbers; zeros and infinities are marks in rows of their own."""
    is_number = np.isfinite(values) & (values > 0)
    ax.plot(layers, np.where(is_number, values, np.nan), gid=gid, clip_on=False, **look)
    for value, name in ((0.0, "zero"), (math.inf, "infinite")):
        here = values == value
        if here.any():
            ax.plot(
                layers[here], np.full(here.sum(), axis.place(value)), gid=f"{name}-{gid}",
                **look | {"linestyle": "none", "markerfacecolor": "none"}, clip_on=False,
            )  # fmt: skip


def _draw_map(ax: Axes, series: dict[str, list[ErrorRow]], column: str) -> None:
    """Draw a row per site, the first one above; exact zeros are written into their cells."""
    layers = np.unique([row["layer"] for rows in series.values() for row in rows])
    errors = np.full((len(series), len(layers)), np.nan)
    for at, rows in enumerate(reversed(series.values())):
        places = np.searchsorted(layers, _column(rows, "layer"))
        errors[at, places] = _column(rows, column)
    positive = errors[np.isfinite(errors) & (errors > 0)]
    low, high = (positive.min(), positive.max()) if positive.size else (0.1, 1.0)
    scale = LogNorm(low, high if high > low else 2 * low)
    zeros = [lambda value: "" if value else "0"]
    longest = _LABEL * style.figure_of(ax).get_figwidth()
    names = [style.shortened(name, longest, style.size("tick")) for name in reversed(series)]
    mesh = draw_heatmap(ax, errors, names, layers, scale, COST, zeros, gid=column)
    layout.color_scale(ax, mesh)
    layers_on_x(ax, layers)
    ax.grid(visible=False)
    layout.panel_title(ax, _TITLES[column] + " (log)")


def _draw_channels(ax: Axes, site: str, shares: pd.DataFrame, width: float) -> None:
    """Draw a row per channel, that of the largest share above."""
    layers = shares.columns.to_numpy(dtype=np.int64)
    values = 100 * shares.to_numpy(dtype=np.float64)[::-1]
    names = [str(channel) for channel in shares.index[::-1]]
    writing = [lambda share: f"{share:.1f}", lambda share: whole(share) if share >= 0.5 else "<1"]
    scale = sequential_scale(values)
    draw_heatmap(ax, values, names, layers, scale, COST, writing, width, gid="channels")
    layers_on_x(ax, layers)
    ax.grid(visible=False)
    ax.set_ylabel("channel")
    grey = "; grey: not among the 50 largest" if np.isnan(values).any() else ""
    layout.panel_title(ax, f"share of the error at {site} by channel, %{grey}")
