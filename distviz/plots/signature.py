"""The signature figure: before above after, the mass that moves drawn dark, arrows between."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from distviz.plots import style
from distviz.plots.arrows import draw_arrows
from distviz.plots.bins import PairedBins, Panel, paired_bins
from distviz.plots.margin import SIDE, add_legend, note_beyond, write_numbers
from distviz.sites import SITES
from distviz.wording import (
    arm_layers,
    arm_settings,
    change_name,
    layer_name,
    model_name,
    number,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from distviz.runs import Run

__all__ = ["draw_paired", "paired"]

_HEADROOM = 1.1
_LOG_FLOOR = 0.7


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
            rows, 1, left=0.085, right=SIDE - 0.03, top=top, bottom=bottom, hspace=0.14
        )
        axes = [figure.add_subplot(grid[row]) for row in range(rows)]
        figure.text(0.02, 0.965 if rows == 2 else 0.945, title, fontsize=10.5, weight="bold")
        figure.text(0.02, 0.928 if rows == 2 else 0.885, caption, fontsize=8, color=style.MUTED)
        for ax, panel in zip(axes, data.panels, strict=True):
            _scale(ax, data)
            handles = _draw_panel(ax, data, panel)
            below = write_numbers(figure, ax, data) if ax is axes[0] else 1.02
            add_legend(ax, handles, below)
            note_beyond(ax, data, panel)
        for ax in axes[:-1]:
            ax.tick_params(labelbottom=False)
        axes[-1].set_xlabel(
            f"{data.key.site} value" if data.key.site != "act" else "activation value"
        )
        _label_band(axes[0], data)
        if rows == 2 and data.moved:
            draw_arrows(figure, axes, data, _floor(data))
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
        parts.append(f"{change_name(run)}: {arm_settings(run)}".removesuffix(": "))
    elif len(data.panels) > 1:
        layers = ", ".join(map(str, arm_layers(run)[:4])) + ", …" * (len(arm_layers(run)) > 4)
        name = change_name(run)
        parts.append(f"{name} in layer {layers}" if layers else f"with {name}")
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
    floor = _floor(data)
    edges = data.edges[data.first : data.last + 1]
    counts = np.maximum(data.inside(panel.counts), floor)
    bars: dict[str, Any] = {"fill": True, "linewidth": 0}
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
            label=f"{_outlined(data, panel)}, for comparison",
        )
        handles.append(line)
    ax.text(
        0.012,
        0.975,
        panel.phase,
        transform=ax.transAxes,
        va="top",
        fontsize=9.5,
        weight="bold",
        color=style.LINE[panel.phase],
    )
    return handles


def _floor(data: PairedBins) -> float:
    """Return the count at which bars begin."""
    return _LOG_FLOOR if data.log else 0.0


def _outlined(data: PairedBins, panel: Panel) -> str:
    return data.panels[0].phase if panel.phase == "after" else "before"


def _outline(data: PairedBins, panel: Panel) -> NDArray[np.int64] | None:
    if panel.phase == "after" and len(data.panels) > 1:
        return data.panels[0].counts
    return data.untouched if panel.phase == "arriving" else None


def _label_band(ax: Axes, data: PairedBins) -> None:
    if not data.panels[0].count:
        ax.text(0.5, 0.5, "no finite value", ha="center", color=style.MUTED, transform=ax.transAxes)
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
