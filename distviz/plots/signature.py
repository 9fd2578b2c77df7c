"""The signature figure: before above after, the mass that moves drawn dark, arrows between."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Rectangle
from matplotlib.path import Path as Outline
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from distviz.plots import style
from distviz.plots.bins import PairedBins, Panel, paired_bins
from distviz.sites import SITES
from distviz.wording import (
    arm_layers,
    arm_settings,
    layer_name,
    model_name,
    number,
    percent,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from distviz.runs import Run

__all__ = ["draw_paired", "paired"]

_NAMES = {"before": "before", "arriving": "arriving", "after": "after"}
_HEADROOM = 1.1
_LOG_FLOOR = 0.7
_MOST_ARROWS = 3
_SIDE = 0.755
"""Where the column of numbers begins, in parts of the figure's width."""


def paired(
    run: Run,
    layer: int,
    site: str = "act",
    *,
    module: str | None = None,
    log: bool | str = "auto",
) -> Figure:
    """Draw the distribution of one layer before and after ARM.

    Parameters
    ----------
    run
        What was measured.
    layer
        0-based index.
    site
        One of the sites that the run holds.
    module
        Path of the module where a layer has several at this site; None takes the first.
    log
        Whether the counts stand on a logarithmic scale; ``"auto"``: only if much of what lies
        stands beside the tallest bar would otherwise be too low to be read.

    Raises
    ------
    RequestError
        If the run holds no such place.
    """
    data = paired_bins(run, layer, site, module=module, log=log)
    return draw_paired(data, _heading(run, data), _subtitle(run, data))


def draw_paired(data: PairedBins, title: str, caption: str = "") -> Figure:
    """Draw what `paired_bins` computed: one or two panels on the same axes, and the numbers."""
    with style.styled():
        rows = len(data.panels)
        figure = style.blank(8.0, 5.6 if rows == 2 else 3.5)
        top, bottom = (0.86, 0.09) if rows == 2 else (0.79, 0.145)
        grid = figure.add_gridspec(
            rows, 1, left=0.085, right=_SIDE - 0.03, top=top, bottom=bottom, hspace=0.14
        )
        axes = [figure.add_subplot(grid[row]) for row in range(rows)]
        figure.text(0.02, 0.965 if rows == 2 else 0.945, title, fontsize=10.5, weight="bold")
        figure.text(0.02, 0.928 if rows == 2 else 0.885, caption, fontsize=8, color=style.MUTED)
        for ax, panel in zip(axes, data.panels, strict=True):
            _scale(ax, data)
            handles = _draw_panel(ax, data, panel)
            below = _write_numbers(figure, ax, data) if ax is axes[0] else 1.02
            _add_legend(ax, handles, below)
            _note_beyond(ax, data, panel)
        for ax in axes[:-1]:
            ax.tick_params(labelbottom=False)
        axes[-1].set_xlabel(
            f"{data.key.site} value" if data.key.site != "act" else "activation value"
        )
        _label_band(axes[0], data)
        if rows == 2 and data.moved:
            _draw_arrows(figure, axes, data)
        return figure


def _heading(run: Run, data: PairedBins) -> str:
    """Return the title: model, layer, site and number of values."""
    key = data.key
    where = layer_name(run, key.layer, key.stack)
    count = data.panels[0].count
    return f"{model_name(run)} · {where} · {key.site} · {count:,} value{'s' * (count != 1)}"


def _subtitle(run: Run, data: PairedBins) -> str:
    """Return the second line: what the site is, where, and what ARM does there."""
    parts = [SITES.get(data.key.site, "what leaves the module").split(" (")[0]]
    if data.key.module:
        parts.append(data.key.module)
    if data.moved is not None:
        parts.append(f"ARM: {arm_settings(run)}")
    elif len(data.panels) > 1:
        layers = ", ".join(map(str, arm_layers(run)[:4])) + ", …" * (len(arm_layers(run)) > 4)
        parts.append(f"ARM in layer {layers}" if layers else "with ARM")
    return " · ".join(parts)


def _scale(ax: Axes, data: PairedBins) -> None:
    peak = max(data.peak, 1)
    ax.set_xlim(*data.window)
    if data.log:
        ax.set_yscale("log", nonpositive="clip")
        ax.set_ylim(_LOG_FLOOR, peak * (peak / _LOG_FLOOR) ** (_HEADROOM - 1))
        ax.set_ylabel("count per bin (log)")
    else:
        ax.set_ylim(0, peak * _HEADROOM)
        ax.yaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        ax.set_ylabel("count per bin")
    ax.yaxis.set_major_formatter(FuncFormatter(style.short_count))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.grid(axis="y", color=style.GRID, linewidth=0.6)
    ax.axvspan(-data.eps, data.eps, color=style.BAND, linewidth=0, zorder=0.4, gid="near-zero")


def _draw_panel(ax: Axes, data: PairedBins, panel: Panel) -> list[Artist]:
    """Bars as one shape each, so that no seams show between them."""
    floor = _LOG_FLOOR if data.log else 0.0
    edges = data.edges[data.first : data.last + 1]
    counts = np.maximum(data.inside(panel.counts), floor)
    bars = {"fill": True, "linewidth": 0}
    ax.stairs(counts, edges, baseline=floor, color=style.LIGHT[panel.phase], gid="bars", **bars)
    handles: list[Artist] = []
    if panel.moved is not None:
        rest = np.maximum(data.inside(panel.counts - panel.moved), floor)
        color = style.DARK[panel.phase]
        ax.stairs(counts, edges, baseline=rest, color=color, gid="moved", zorder=1.2, **bars)
        word = "received" if panel.phase == "after" else "moves away"
        handles.append(Rectangle((0, 0), 1, 1, color=color, linewidth=0, label=word))
    other = _outline(data, panel)
    if other is not None:
        shown = np.maximum(data.inside(other), floor)
        line = ax.stairs(
            shown,
            edges,
            baseline=floor,
            color=style.LINE["before"],
            linewidth=0.7,
            zorder=1.4,
            gid="outline",
            label="before, for comparison",
        )
        handles.append(line)
    ax.text(
        0.012,
        0.975,
        _NAMES[panel.phase],
        transform=ax.transAxes,
        va="top",
        fontsize=9.5,
        weight="bold",
        color=style.LINE[panel.phase],
    )
    return handles


def _add_legend(ax: Axes, handles: list[Artist], top: float) -> None:
    if handles:
        ax.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(_beside(ax), top),
            handlelength=1.1,
            handleheight=0.9,
            borderpad=0,
            borderaxespad=0,
            labelspacing=0.4,
        )


def _beside(ax: Axes) -> float:
    """Return where the column of numbers begins, in parts of the axes' width."""
    box = ax.get_position()
    return float((_SIDE - box.x0) / box.width)


def _outline(data: PairedBins, panel: Panel) -> NDArray[np.int64] | None:
    if panel.phase == "after" and len(data.panels) > 1:
        return data.panels[0].counts
    return data.untouched if panel.phase == "arriving" else None


def _note_beyond(ax: Axes, data: PairedBins, panel: Panel) -> None:
    """Say at either edge how much lies outside of the window, and how far it goes."""
    left, right = data.beyond(panel)
    look = {"transform": ax.transAxes, "fontsize": 7.5, "color": style.MUTED}
    if right:
        share = percent(right / panel.count)
        words = f"{share} beyond → max {number(panel.high)}"
        ax.text(_beside(ax), 0.0, words, va="bottom", linespacing=1.35, **look)
    if left:
        share = percent(left / panel.count)
        words = f"{share} beyond\n← min {number(panel.low)}"
        ax.text(0.012, 0.05, words, va="bottom", linespacing=1.35, **look)


def _label_band(ax: Axes, data: PairedBins) -> None:
    if math.isfinite(data.eps) and data.eps > 0:
        ax.text(
            0,
            1.015,
            f"near zero: |x| < ε = {number(data.eps)}",
            ha="center",
            va="bottom",
            fontsize=7.5,
            color=style.MUTED,
            transform=ax.get_xaxis_transform(),
        )


def _draw_arrows(figure: Figure, axes: list[Axes], data: PairedBins) -> None:
    """Lead from the dark tip of the bars before to where the moved values are after."""
    above, below = axes
    source, target = data.panels
    if source.moved is None or target.moved is None:
        return
    tip = int(np.argmax(data.inside(source.moved))) + data.first
    base, height = source.counts[tip] - source.moved[tip], source.counts[tip]
    floor = _LOG_FLOOR if data.log else 0.0
    ends = above.transData.transform([(0, max(base, floor)), (0, height)])[:, 1]
    lift = figure.bbox.height * 0.012
    for side in (-1, 1):
        start_x = above.transData.transform((_middle(data, tip) + side * data.width / 2, 1))[0]
        for rank, (place, weight) in enumerate(_landing_places(data, target, side)):
            start = np.array([start_x, ends[1] - (0.12 + 0.13 * rank) * (ends[1] - ends[0])])
            bar = max(target.counts[place], source.counts[place], 1)
            end = below.transData.transform((_middle(data, place), bar)) + (0, lift)
            _arrow(figure, start, end, weight)


def _arrow(
    figure: Figure, start: NDArray[np.float64], end: NDArray[np.float64], weight: float
) -> None:
    """One curve: out sideways, down from above; in parts of the figure, so it scales with it."""
    across, down = end - start
    controls = [start + (0.45 * across, 0), start + (across, 0.12 * down)]
    places = figure.transFigure.inverted().transform([start, *controls, end])
    path = Outline(places, [Outline.MOVETO] + 3 * [Outline.CURVE4])
    figure.add_artist(
        FancyArrowPatch(
            path=path,
            transform=figure.transFigure,
            arrowstyle="-|>",
            mutation_scale=7,
            linewidth=0.6 + 0.6 * weight,
            color=style.INK,
            alpha=0.8,
            gid="arrow",
            shrinkA=0,
            shrinkB=0,
            capstyle="round",
        )
    )


def _middle(data: PairedBins, place: int) -> float:
    return float(data.edges[place] + data.edges[place + 1]) / 2


def _landing_places(data: PairedBins, panel: Panel, side: int) -> Iterator[tuple[int, float]]:
    """Yield bins that stand for equal parts of what lands on a side, outermost first.

    Each comes with the side's share of all that lands. A side of few pixels gets fewer arrows.
    """
    assert panel.moved is not None
    centers = (data.edges[:-1] + data.edges[1:]) / 2
    beside = (centers * side > data.width) & (np.abs(centers) < data.window[1])
    landed = np.where(beside, panel.moved, 0)
    total = int(landed.sum())
    if not total:
        return
    reach = float(np.average(np.abs(centers), weights=landed)) * 2
    arrows = min(_MOST_ARROWS, max(1, round(reach / data.window[1] * 6)))
    running = np.cumsum(landed[::side])
    share = total / max(int(panel.moved.sum()), 1)
    for index in range(arrows):
        wanted = (arrows - index - 0.5) / arrows * total
        place = int(np.searchsorted(running, wanted, side="left"))
        yield (place if side > 0 else landed.size - 1 - place), share


def _write_numbers(figure: Figure, ax: Axes, data: PairedBins) -> float:
    """The main numbers as a small table beside the first panel; returns where it ends."""
    box = ax.get_position()
    left, right = _SIDE, 0.985
    middle = left + 0.6 * (right - left)
    step = 0.185 / figure.get_figheight()
    y = box.y1 - 0.1 * step
    for place, panel in zip(_columns(middle, right, len(data.panels)), data.panels, strict=True):
        figure.text(
            place,
            y,
            _NAMES[panel.phase],
            ha="right",
            va="top",
            weight="bold",
            fontsize=8,
            color=style.LINE[panel.phase],
        )
    for name, cells in _rows(data):
        if name in ("n", "moved"):
            rule = y - step * (1.0 if name == "n" else 1.25)
            figure.add_artist(Line2D([left, right], [rule, rule], color=style.GRID, linewidth=0.8))
        y -= step * (1.5 if name in ("n", "moved") else 1.12)
        figure.text(left, y, name, va="top", fontsize=8, color=style.MUTED)
        places = _columns(middle, right, len(cells)) if len(cells) > 1 else [right]
        for place, cell in zip(places, cells, strict=True):
            figure.text(place, y, cell, ha="right", va="top", fontsize=8)
    return float((y - 1.5 * step - box.y0) / box.height)


def _columns(middle: float, right: float, number: int) -> list[float]:
    return [right] if number == 1 else [middle + 0.012, right]


def _rows(data: PairedBins) -> Iterator[tuple[str, list[str]]]:
    panels: tuple[Any, ...] = data.panels
    counts = [panel.count for panel in panels]
    same = len(set(counts)) == 1
    yield "n", [f"{count:,}" for count in (counts[:1] if same else counts)]
    yield "near zero", [percent(panel.near_zero) for panel in panels]
    yield "std", [number(panel.std) for panel in panels]
    yield "Gini", [number(panel.gini) for panel in panels]
    if any(panel.nonfinite for panel in panels):
        yield "NaN, inf", [f"{panel.nonfinite:,}" for panel in panels]
    if data.moved is not None:
        share = percent(data.moved / max(panels[0].count, 1))
        yield "moved", [f"k = {data.moved:,} ({share})"]
