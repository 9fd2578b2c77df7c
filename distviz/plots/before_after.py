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
from distviz.plots.before_after_data import PairedBins, Panel, paired_bins
from distviz.plots.before_after_labels import RULED, heads, numbers, tails
from distviz.plots.headings import EDGE, Heading, Line
from distviz.plots.layout import fit_left, legend_in_figure, panels, rows_height
from distviz.plots.margin import (
    add_legend,
    beyond_rows,
    beyond_words,
    number_table,
    table_height,
    write_beside,
)
from distviz.plots.page_format import PageFormat
from distviz.results import arm_layers, arm_settings, change_name, layer_name, model_name, number
from distviz.sites import SITES

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from distviz.results import Run

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
    width: str | None = None,
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
    width
        ``"single"`` or ``"double"``: the columns of a paper; None: for a screen.

    Raises
    ------
    RequestError
        If the run holds no such place.
    """
    data = paired_bins(run, layer, site, module=module, log=log)
    return draw_paired(data, _heading(run, data), _subtitle(run, data), width=width)


def draw_paired(
    data: PairedBins, title: str, caption: str = "", *, width: str | None = None
) -> Figure:
    """Draw what `paired_bins` computed: one or two panels on the same axes, and the numbers."""
    with style.styled(width) as sheet:
        lines = [Line.title(title), Line(caption)]
        draw = _draw_narrow if sheet.is_narrow else _draw_wide
        figure, axes = draw(data, Heading(lines, sheet.or_width(8.0)), sheet)
        if len(axes) == 2 and data.moved:
            draw_arrows(figure, axes, data, _floor(data))
        return figure


def _draw_wide(data: PairedBins, heading: Heading, sheet: PageFormat) -> tuple[Figure, list[Axes]]:
    """Draw the panels with the numbers in a column beside them."""
    inches = sheet.or_width(8.0)
    panel, rows = data.panels[0], list(numbers(data))
    usual = (2.0 if len(data.panels) == 2 else 2.25) * (1.0 if sheet.width is None else 0.8)
    lines = len(_legend_words(data, panel)) + len(beyond_words(tails(data, panel)))
    needed = table_height(rows, RULED) + 0.2 + 1.5 * lines * style.size("tick") / 72
    figure, axes = panels(
        heading,
        [max(usual, needed)] * len(data.panels),
        width=inches,
        left=0.68,
        right=sheet.column + 0.24,
        above=0.33,
        gap=0.28,
        below=0.5,
    )
    handles = _draw_panels(axes, data)
    fit_left(figure, axes)
    left, box = inches - sheet.column, axes[0].get_position()
    top = (1 - box.y1) * figure.get_figheight()
    ends = number_table(
        figure, heads(data), rows, left=left, right=inches - 0.12, top=top, ruled=RULED
    )
    below = (1 - ends / figure.get_figheight() - box.y0) / box.height
    for ax, own, panel in zip(axes, handles, data.panels, strict=True):
        add_legend(ax, own, below if ax is axes[0] else 1.02)
        write_beside(ax, beyond_words(tails(data, panel)), gid="beyond")
    return figure, axes


def _draw_narrow(
    data: PairedBins, heading: Heading, sheet: PageFormat
) -> tuple[Figure, list[Axes]]:
    """Draw the panels with legend and numbers below them."""
    inches = sheet.or_width(8.0)
    rows = [*numbers(data), *beyond_rows([tails(data, panel) for panel in data.panels])]
    words = [word for panel in data.panels for word in _legend_words(data, panel)]
    used = rows_height(words, inches - EDGE - 0.1)
    figure, axes = panels(
        heading,
        [1.2] * len(data.panels),
        width=inches,
        left=0.6,
        right=0.1,
        above=0.26,
        below=0.5 + used + table_height(rows, RULED),
    )
    handles = [handle for own in _draw_panels(axes, data) for handle in own]
    fit_left(figure, axes)
    foot = (1 - axes[-1].get_position().y0) * figure.get_figheight()
    legend_in_figure(figure, handles, words, left=EDGE, top=foot + 0.42)
    number_table(
        figure, heads(data), rows, left=EDGE, right=inches - EDGE, top=foot + 0.47 + used,
        ruled=RULED,
    )  # fmt: skip
    return figure, axes


def _legend_words(data: PairedBins, panel: Panel) -> list[str]:
    """Return what the legend of a panel tells, in the order drawn."""
    words = []
    if panel.moved is not None:
        words.append("received" if panel.phase == "after" else "moves away")
    if _outline(data, panel) is not None:
        words.append(f"{_outlined(data, panel)}, for comparison")
    return words


def _draw_panels(axes: list[Axes], data: PairedBins) -> list[list[Artist]]:
    """Draw every panel; return what its legend tells."""
    handles = []
    for ax, panel in zip(axes, data.panels, strict=True):
        _scale(ax, data)
        handles.append(_draw_panel(ax, data, panel))
    for ax in axes[:-1]:
        ax.tick_params(labelbottom=False)
    axes[-1].set_xlabel(f"{data.key.site} value" if data.key.site != "act" else "activation value")
    _label_band(axes[0], data)
    return handles


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
        ax.set_ylabel("values per bin (log)")
    else:
        ax.set_ylim(0, peak * _HEADROOM)
        ax.yaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        ax.set_ylabel("values per bin")
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
        label = _legend_words(data, panel)[0]
        handles.append(Rectangle((0, 0), 1, 1, color=color, linewidth=0, label=label))
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
            label=_legend_words(data, panel)[-1],
        )
        handles.append(line)
    outside = style.sheet().is_narrow
    ax.text(
        0.0 if outside else 0.012,
        1.02 if outside else 0.975,
        panel.phase,
        transform=ax.transAxes,
        va="bottom" if outside else "top",
        fontsize=style.size("phase"),
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
    return data.untouched if panel.phase == "arm_input" else None


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
            fontsize=style.size("note"),
            color=style.MUTED,
            transform=ax.get_xaxis_transform(),
        )
