"""Both sides of a comparison on one scale: the histograms, and the difference B - A below."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from distviz.plots import histograms, style
from distviz.plots.compared_data import ComparedBins, compared_bins
from distviz.plots.layout import SIDE_COLORS, Heading, Line, side_heading
from distviz.plots.range_strip import draw_strip, strip_height
from distviz.plots.scales import signed
from distviz.plots.site_axes import AxisChoice, axes_of
from distviz.results import Comparison, Pair, layer_name, number, percent, side_names
from distviz.stats import checks_types

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_FILL = {"A": style.LIGHT["before"], "B": style.LIGHT["after"]}
_COMMON = "#d5d9dd"
_LINEAR_POINTS = 0.01
"""Where the upper panel is logarithmic, differences above are logarithmic, too, in points."""
_RULED = ("n", "KS")


@checks_types
def compared(
    comparison: Comparison,
    pair: Pair,
    *,
    log: bool | str = "auto",
    x_axis: str = "auto",
    centred: bool = False,
    whole: Comparison | None = None,
    width: str | None = None,
) -> Figure:
    """Draw one pair of layers of a comparison.

    Parameters
    ----------
    comparison
        The comparison.
    pair
        One of its pairs.
    log
        Whether the fractions have a logarithmic scale; ``"auto"``: only if much of what lies
        beside the tallest bar of a side would otherwise be too low to be read, in many layers.
    x_axis, centred
        As of ``AxisChoice``.
    whole
        The comparison whose layers have the same axes at this site; None: ``comparison``.
    width
        ``"single"`` or ``"double"``: the columns of a paper; None: for a screen.
    """
    choice = AxisChoice.of(log, x_axis, centred=centred)
    data = compared_bins(comparison, pair, axes=axes_of(whole or comparison, pair.a, choice))
    return draw_compared(data, side_names(comparison), _caption(comparison, pair), width=width)


def _caption(comparison: Comparison, pair: Pair) -> str:
    """Return the third line: layers, site, module."""
    first = layer_name(comparison.a, pair.a.layer, pair.a.stack)
    second = layer_name(comparison.b, pair.b.layer, pair.b.stack)
    words = [first if first == second else f"{first} of A, {second} of B", pair.a.site]
    words.append(histograms.site_description(pair.a.site))
    if pair.a.module:
        words.append(pair.a.module)
    return " · ".join(words)


def draw_compared(
    data: ComparedBins, names: tuple[str, str], caption: str = "", *, width: str | None = None
) -> Figure:
    """Draw what `compared_bins` computed: the histograms, the difference, and the numbers."""
    with style.styled(width) as page:
        heading = side_heading(names, [Line(caption)], page.or_width(8.0))
        figure, axes = histograms.unplaced(2)
        above, below = axes
        handles = _draw_bars(above, data)
        _draw_difference(below, data)
        for ax in axes:
            histograms.frame(ax, data.axes, data.eps)
        above.tick_params(labelbottom=False)
        below.set_xlabel(histograms.value_label(data.pair.a.site))
        figure.align_ylabels()
        if page.is_narrow:
            tails = [data.tails(side) for side in (data.a, data.b)]
            rows = [*_rows(data), *histograms.beyond_rows(tails)]
            if any(share for ends in tails for share, _ in ends):
                outside = [percent(side.energy_outside) for side in (data.a, data.b)]
                rows.append(("Σx² outside", outside))
            histograms.place_above_numbers(
                figure, axes, heading, [1.5, 0.9], left=0.8, gap=0.12, handles=handles,
                heads=list(SIDE_COLORS.items()),
                rows=[*rows, ("in other bins", [percent(data.moved)])], ruled=_RULED,
                strip=strip_height(data.strip),
            )  # fmt: skip
        else:
            _place_wide(figure, axes, heading, data, handles)
        if data.strip:
            draw_strip(below, data.strip, list(SIDE_COLORS.values()), data.window)
        is_empty = not data.a.count and not data.b.count
        histograms.label_band(above, data.eps, of=" of A", is_empty=is_empty)
        return figure


def _place_wide(
    figure: Figure, axes: list[Axes], heading: Heading, data: ComparedBins, handles: list[Artist]
) -> None:
    """Place the panels with the numbers in a column beside them."""
    page = style.page_format()
    shrunk = 0.85 if page.is_paper else 1.0
    histograms.place(
        figure, axes, heading, [2.49 * shrunk, 1.42 * shrunk], left=1.0,
        right=page.column + 0.24, above=0.34, gap=0.2,
        below=0.5 + strip_height(data.strip),
    )  # fmt: skip
    above, below = axes
    above.legend(handles=handles, loc="upper right", handlelength=1.1, handleheight=0.9)
    top = (1 - above.get_position().y1) * figure.get_figheight()
    histograms.number_table(
        figure, list(SIDE_COLORS.items()), _rows(data), left=heading.width - page.column,
        right=heading.width - 0.12, top=top, ruled=_RULED,
    )  # fmt: skip
    texts = [
        text
        for title, side in (("A: ", data.a), ("B: ", data.b))
        for text in histograms.outside_texts(data.tails(side), side.energy_outside, title)
    ]
    histograms.write_beside(above, texts, gid="beyond")
    histograms.write_beside(below, _explanation(below, above, data), top=True, gid="difference")


def _draw_bars(ax: Axes, data: ComparedBins) -> list[Artist]:
    """Draw both outlines, the common part in grey, the excess of a side in its tint.

    Returns the handles of the legend.
    """
    floor = data.floor
    histograms.count_scale(ax, data.peak or 1.0, floor, log=data.log)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    ax.set_ylabel("share of values per bin" + " (log)" * data.log)
    a, b = (np.maximum(data.heights(side.shares), floor) for side in (data.a, data.b))
    common = np.minimum(a, b)
    look: dict[str, Any] = {"edges": data.drawn_edges, "fill": True, "linewidth": 0}
    histograms.steps(ax, common, baseline=floor, color=_COMMON, gid="common", **look)
    handles: list[Artist] = []
    for side, shares in (("A", a), ("B", b)):
        color = SIDE_COLORS[side]
        histograms.steps(ax, shares, baseline=common, color=_FILL[side], gid=f"only-{side}", **look)
        histograms.steps(
            ax, shares, data.drawn_edges, baseline=floor, linewidth=0.9, color=color, zorder=1.5,
            gid=f"outline-{side}",
        )  # fmt: skip
        tint: dict[str, Any] = {"facecolor": _FILL[side], "edgecolor": color}
        handles.append(Rectangle((0, 0), 1, 1, label=f"more in {side}", **tint))
    return [*handles, Rectangle((0, 0), 1, 1, facecolor=_COMMON, linewidth=0, label="in both")]


def _draw_difference(ax: Axes, data: ComparedBins) -> None:
    """Draw the excess of B upwards in its colour, the excess of A downwards."""
    points = 100 * data.heights(data.difference)
    for side, part in (("A", np.minimum(points, 0)), ("B", np.maximum(points, 0))):
        histograms.steps(
            ax,
            part,
            data.drawn_edges,
            fill=True,
            linewidth=0,
            color=SIDE_COLORS[side],
            gid=f"more-{side}",
        )
    reach = float(np.abs(points).max())
    if data.log and reach:
        ax.set_yscale("symlog", linthresh=_LINEAR_POINTS, linscale=1.0)
        ax.yaxis.set_major_locator(FixedLocator(_decades(reach)))
    ax.set_ylim(*(_limits(points, log=data.log) if reach else (-1.0, 1.0)))
    ax.axhline(0, color=style.MUTED, linewidth=0.7)
    if not data.log:
        ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.yaxis.set_major_formatter(FuncFormatter(signed))
    ax.set_ylabel("B − A, points" + " (log)" * (data.log and reach > 0))
    if not reach:
        ax.set_yticks([0])
        ax.text(
            0.5, 0.6, "equal in every bin", ha="center", color=style.MUTED, transform=ax.transAxes
        )


def _decades(reach: float) -> list[float]:
    """Return every other power of ten up to ``reach`` on both sides, and zero."""
    powers = range(math.floor(math.log10(reach)), -3, -1)
    marks = [10.0**power for power in powers][::2]
    return [*(-mark for mark in marks), 0.0, *marks]


def _limits(points: NDArray[np.float64], *, log: bool) -> tuple[float, float]:
    low, high = min(float(points.min()), 0.0), max(float(points.max()), 0.0)
    if log:
        return low * 1.8 - _LINEAR_POINTS, high * 1.8 + _LINEAR_POINTS
    spare = 0.12 * (high - low)
    return low - spare, high + spare


def _explanation(ax: Axes, above: Axes, data: ComparedBins) -> list[str]:
    """Explain the lower panel."""
    words = ["up: B has more", "down: A has more", ""]
    words += [f"{percent(data.moved)} of the values", "lie in other bins"]
    enlarged = _per_share(ax, 100.0) / _per_share(above, 1.0)
    if not data.log and data.moved and enlarged >= 2:
        words += ["", f"drawn {number(enlarged, 2)} × as high", "as above"]
    return words


def _per_share(ax: Axes, unit: float) -> float:
    """Return the height of a share of 1, as a fraction of the figure."""
    low, high = ax.get_ylim()
    return float(ax.get_position().height / (high - low) * unit)


def _rows(data: ComparedBins) -> list[histograms.Row]:
    sides = (data.a, data.b)
    counts = [style.short_count(float(f"{side.count:.3g}")) for side in sides]
    if data.a.count == data.b.count:
        counts = [f"{data.a.count:,}"]
    return [
        ("n", counts),
        ("near zero", [percent(side.near_zero) for side in sides]),
        ("std", [number(side.std) for side in sides]),
        ("Gini", [number(side.gini) for side in sides]),
        ("KS", [number(data.ks)]),
        ("W1 / std A", [number(data.wasserstein_normalized)]),
        ("JS divergence", [f"{number(data.js_divergence)} bit"]),
    ]
