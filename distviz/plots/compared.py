"""Two sides of a comparison on one scale: both histograms, and the difference B - A below."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

from distviz.plots import style
from distviz.plots.compared_data import ComparedBins, compared_bins
from distviz.plots.headings import COLORS, EDGE, Heading, Line, sides
from distviz.plots.layout import fit_left, legend_in_figure, panels
from distviz.plots.margin import (
    Tails,
    beyond_rows,
    beyond_words,
    number_table,
    table_height,
    write_beside,
)
from distviz.plots.page_format import PageFormat
from distviz.results import layer_name, number, percent, side_names
from distviz.sites import SITES

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from distviz.results import Comparison, Pair

__all__ = ["compared", "draw_compared"]

_FILL = {"A": style.LIGHT["before"], "B": style.LIGHT["after"]}
_COMMON = "#d5d9dd"
_HEADROOM = 1.1
_LINEAR_POINTS = 0.01
"""Where the other panel is logarithmic, differences above are logarithmic too, in points."""


def compared(
    comparison: Comparison, pair: Pair, *, log: bool | str = "auto", width: str | None = None
) -> Figure:
    """Draw one pair of layers of a comparison.

    Parameters
    ----------
    comparison
        What was compared.
    pair
        One of its pairs.
    log
        Whether the shares stand on a logarithmic scale; ``"auto"``: only if much of what stands
        beside the tallest bar of a side would otherwise be too low to be read.
    width
        ``"single"`` or ``"double"``: the columns of a paper; None: for a screen.
    """
    data = compared_bins(comparison, pair, log=log)
    return draw_compared(data, side_names(comparison), _caption(comparison, pair), width=width)


def _caption(comparison: Comparison, pair: Pair) -> str:
    """Return the third line: the layers, the site, where it is."""
    first = layer_name(comparison.a, pair.a.layer, pair.a.stack)
    second = layer_name(comparison.b, pair.b.layer, pair.b.stack)
    words = [first if first == second else f"{first} of A, {second} of B", pair.a.site]
    words.append(SITES.get(pair.a.site, "what leaves the module").split(" (")[0])
    if pair.a.module:
        words.append(pair.a.module)
    return " · ".join(words)


def draw_compared(
    data: ComparedBins, names: tuple[str, str], caption: str = "", *, width: str | None = None
) -> Figure:
    """Draw what `compared_bins` computed: the histograms, the difference, and the numbers."""
    with style.styled(width) as sheet:
        heading = sides(names, [Line(caption)], sheet.or_width(8.0))
        return (_draw_narrow if sheet.is_narrow else _draw_wide)(data, heading, sheet)


_RULED = ("n", "KS")


def _draw_wide(data: ComparedBins, heading: Heading, sheet: PageFormat) -> Figure:
    """Draw the panels with the numbers in a column beside them."""
    inches = sheet.or_width(8.0)
    shrunk = 1.0 if sheet.width is None else 0.85
    figure, axes = panels(
        heading, [2.49 * shrunk, 1.42 * shrunk], width=inches, left=1.0,
        right=sheet.column + 0.24, above=0.34, gap=0.2, below=0.5,
    )  # fmt: skip
    handles = _draw_panels(axes, data)
    fit_left(figure, axes)
    axes[0].legend(handles=handles, loc="upper right", handlelength=1.1, handleheight=0.9)
    top = (1 - axes[0].get_position().y1) * figure.get_figheight()
    number_table(
        figure, list(COLORS.items()), _rows(data), left=inches - sheet.column,
        right=inches - 0.12, top=top, ruled=_RULED,
    )  # fmt: skip
    of_sides = zip(("A: ", "B: "), _tails(data), strict=True)
    words = [word for title, tails in of_sides for word in beyond_words(tails, title)]
    write_beside(axes[0], words, gid="beyond")
    write_beside(axes[1], _explained(axes[1], axes[0], data), top=True, gid="difference")
    return figure


def _draw_narrow(data: ComparedBins, heading: Heading, sheet: PageFormat) -> Figure:
    """Draw the panels with legend and numbers below them."""
    inches = sheet.or_width(8.0)
    rows = [*_rows(data), *beyond_rows(_tails(data)), ("in other bins", [percent(data.moved)])]
    figure, axes = panels(
        heading, [1.5, 0.9], width=inches, left=0.8, right=0.1, above=0.26, gap=0.12,
        below=0.65 + table_height(rows, _RULED),
    )  # fmt: skip
    handles = _draw_panels(axes, data)
    fit_left(figure, axes)
    foot = (1 - axes[-1].get_position().y0) * figure.get_figheight()
    words = [str(handle.get_label()) for handle in handles]
    used = legend_in_figure(figure, handles, words, left=EDGE, top=foot + 0.4)
    number_table(
        figure, list(COLORS.items()), rows, left=EDGE, right=inches - EDGE,
        top=foot + 0.45 + used, ruled=_RULED,
    )  # fmt: skip
    return figure


def _draw_panels(axes: list[Axes], data: ComparedBins) -> list[Artist]:
    """Draw both panels; return what the legend tells."""
    above, below = axes
    handles = _draw_bars(above, data)
    _draw_difference(below, data)
    for ax in axes:
        _frame(ax, data)
    above.tick_params(labelbottom=False)
    site = data.pair.a.site
    below.set_xlabel("activation value" if site == "act" else f"{site} value")
    style.figure_of(above).align_ylabels()
    return handles


def _frame(ax: Axes, data: ComparedBins) -> None:
    ax.set_xlim(*data.window)
    ax.grid(axis="y", color=style.GRID, linewidth=0.6)
    ax.axvspan(-data.eps, data.eps, color=style.BAND, linewidth=0, zorder=0.4, gid="near-zero")


def _draw_bars(ax: Axes, data: ComparedBins) -> list[Artist]:
    """Outlines of both; what both have in grey, what one has more of in its tint."""
    peak = data.peak or 1.0
    floor = data.floor if data.log else 0.0
    if data.log:
        ax.set_yscale("log", nonpositive="clip")
        ax.set_ylim(floor, peak * (peak / floor) ** (_HEADROOM - 1))
        ax.yaxis.set_minor_formatter(NullFormatter())
    else:
        ax.set_ylim(0, peak * _HEADROOM)
        ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    ax.set_ylabel("share of values per bin" + " (log)" * data.log)
    a, b = (np.maximum(data.inside(side.shares), floor) for side in (data.a, data.b))
    common = np.minimum(a, b)
    look: dict[str, Any] = {"edges": data.drawn_edges, "fill": True, "linewidth": 0}
    ax.stairs(common, baseline=floor, color=_COMMON, gid="common", **look)
    for side, shares in (("A", a), ("B", b)):
        ax.stairs(shares, baseline=common, color=_FILL[side], gid=f"only-{side}", **look)
        ax.stairs(
            shares, data.drawn_edges, baseline=floor, linewidth=0.9, color=COLORS[side],
            zorder=1.5, gid=f"outline-{side}",
        )  # fmt: skip
    _label_band(ax, data)
    handles: list[Artist] = [
        Rectangle(
            (0, 0), 1, 1, facecolor=_FILL[side], edgecolor=COLORS[side], label=f"more in {side}"
        )
        for side in COLORS
    ]
    return [*handles, Rectangle((0, 0), 1, 1, facecolor=_COMMON, linewidth=0, label="in both")]


def _draw_difference(ax: Axes, data: ComparedBins) -> None:
    """What B has more of above zero in B's colour, what A has more of below in A's."""
    points = 100 * data.inside(data.difference)
    for side, part in (("A", np.minimum(points, 0)), ("B", np.maximum(points, 0))):
        ax.stairs(
            part, data.drawn_edges, fill=True, linewidth=0, color=COLORS[side], gid=f"more-{side}"
        )
    reach = float(np.abs(points).max())
    if data.log and reach:
        ax.set_yscale("symlog", linthresh=_LINEAR_POINTS, linscale=1.0)
        ax.yaxis.set_major_locator(FixedLocator(_decades(reach)))
    ax.set_ylim(*(_limits(points, log=data.log) if reach else (-1.0, 1.0)))
    ax.axhline(0, color=style.MUTED, linewidth=0.7)
    if not data.log:
        ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.yaxis.set_major_formatter(FuncFormatter(_signed))
    ax.set_ylabel("B − A, points" + " (log)" * (data.log and reach > 0))
    if not reach:
        ax.set_yticks([0])
        ax.text(
            0.5, 0.6, "equal in every bin", ha="center", color=style.MUTED, transform=ax.transAxes
        )


def _signed(value: float, _: object = None) -> str:
    return f"{value:+g}".replace("-", "−") if value else "0"


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


def _explained(ax: Axes, above: Axes, data: ComparedBins) -> list[str]:
    """Say how the lower panel is read."""
    words = ["up: B has more", "down: A has more", ""]
    words += [f"{percent(data.moved)} of the values", "lie in other bins"]
    enlarged = _per_share(ax, 100.0) / _per_share(above, 1.0)
    if not data.log and data.moved and enlarged >= 2:
        words += ["", f"drawn {number(enlarged, 2)} × as high", "as above"]
    return words


def _per_share(ax: Axes, unit: float) -> float:
    """Return the height that a share of 1 would take, in parts of the figure."""
    low, high = ax.get_ylim()
    return float(ax.get_position().height / (high - low) * unit)


def _rows(data: ComparedBins) -> list[tuple[str, list[str]]]:
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


def _tails(data: ComparedBins) -> list[Tails]:
    """Return what lies outside of the window, of both sides."""
    shares = [(side, *data.beyond(side)) for side in (data.a, data.b)]
    return [((left, side.low), (right, side.high)) for side, left, right in shares]


def _label_band(ax: Axes, data: ComparedBins) -> None:
    if not data.a.count and not data.b.count:
        ax.text(0.5, 0.5, "no finite value", ha="center", color=style.MUTED, transform=ax.transAxes)
    if math.isfinite(data.eps) and data.eps > 0:
        ax.text(
            0, 1.015, f"near zero: |x| < ε of A = {number(data.eps)}", ha="center", va="bottom",
            fontsize=style.size("note"), color=style.MUTED, transform=ax.get_xaxis_transform(),
        )  # fmt: skip
