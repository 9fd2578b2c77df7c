"""The figure of a layer before and after ARM: values that move are dark, arrows show where to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import FancyArrowPatch, Rectangle
from matplotlib.path import Path
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from distviz.output import counted
from distviz.plots import histograms, style
from distviz.plots.before_after_data import PairedBins, Panel, find_place, paired_bins
from distviz.plots.layout import Heading, titled
from distviz.plots.range_strip import draw_strip, strip_height
from distviz.plots.site_axes import AxisChoice, axes_of
from distviz.results import (
    Run,
    arm_layers,
    arm_settings,
    change_name,
    layer_name,
    massive_at,
    model_name,
    number,
    percent,
)
from distviz.stats import checks_types

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_RULED = ("n", "moved")
_ARROWS_PER_SIDE = 3
_BESIDE_ZERO = 0.008
"""Fraction of the axis beside zero where no arrow ends."""


@checks_types
def paired(
    run: Run,
    layer: int,
    site: str = "act",
    *,
    module: str | None = None,
    log: bool | str = "auto",
    x_axis: str = "auto",
    centred: bool = False,
    whole: Run | None = None,
    width: str | None = None,
) -> Figure:
    """Draw the distribution of one layer before and after ARM.

    Parameters
    ----------
    run
        The run that measured it.
    layer
        0-based index.
    site
        One of the sites of the run.
    module
        Path of the module where a layer has several at this site; None takes the first.
    log
        Whether the counts have a logarithmic scale; ``"auto"``: only if in many layers of the
        site much of what lies beside the tallest bar would otherwise be too low to be read.
    x_axis, centred
        As of ``AxisChoice``.
    whole
        The run whose layers have the same axes at this site; None: ``run``.
    width
        ``"single"`` or ``"double"``: the columns of a paper; None: for a screen.

    Raises
    ------
    RequestError
        If the run has no such layer, site or module.
    """
    key = find_place(run, layer, site, module)
    choice = AxisChoice.of(log, x_axis, centred=centred)
    data = paired_bins(run, layer, site, module=module, axes=axes_of(whole or run, key, choice))
    return draw_paired(data, _title(run, data), _caption(run, data), width=width)


def draw_paired(
    data: PairedBins, title: str, caption: str = "", *, width: str | None = None
) -> Figure:
    """Draw what `paired_bins` computed: one or two panels on the same axes, and the numbers."""
    with style.styled(width) as page:
        heading = titled(page.or_width(8.0), title, caption)
        figure, axes = histograms.unplaced(len(data.panels))
        handles = [_draw_panel(ax, data, one) for ax, one in zip(axes, data.panels, strict=True)]
        for ax in axes[:-1]:
            ax.tick_params(labelbottom=False)
        axes[-1].set_xlabel(histograms.value_label(data.key.site))
        heads = [(_shown_phase(data, panel), style.LINE[panel.phase]) for panel in data.panels]
        if page.is_narrow:
            rows = [
                *_numbers(data),
                *histograms.beyond_rows([data.tails(one) for one in data.panels]),
            ]
            if any(sum(data.beyond(one)) for one in data.panels):
                rows.append(("Σx² outside", [percent(one.energy_outside) for one in data.panels]))
            histograms.place_above_numbers(
                figure, axes, heading, [1.2] * len(axes), left=0.6, gap=0.25,
                handles=[handle for own in handles for handle in own], heads=heads, rows=rows,
                ruled=_RULED, strip=strip_height(data.strip),
            )  # fmt: skip
        else:
            _place_wide(figure, axes, heading, data, handles, heads)
        if data.strip:
            colors = [style.LINE[panel.phase] for panel in data.panels]
            draw_strip(axes[-1], data.strip, colors, data.window)
        taken = style.text_width(heads[0][0], style.size("phase"), "bold")
        histograms.label_band(axes[0], data.eps, is_empty=not data.panels[0].count, taken=taken)
        if len(axes) == 2 and data.moved:
            _draw_arrows(figure, axes, data)
        return figure


def _place_wide(
    figure: Figure,
    axes: list[Axes],
    heading: Heading,
    data: PairedBins,
    handles: list[list[Artist]],
    heads: list[tuple[str, str]],
) -> None:
    """Place the panels with legends and numbers in a column beside them."""
    page, rows = style.page_format(), list(_numbers(data))
    beyond = [_outside(data, panel) for panel in data.panels]
    usual = (2.0 if len(axes) == 2 else 2.25) * (0.8 if page.is_paper else 1.0)
    lines = len(handles[0]) + len(beyond[0])
    needed = histograms.table_height(rows, _RULED) + 0.2 + 1.5 * lines * style.size("tick") / 72
    histograms.place(
        figure, axes, heading, [max(usual, needed)] * len(axes), left=0.68,
        right=page.column + 0.24, above=0.33, gap=0.28,
        below=0.5 + strip_height(data.strip),
    )  # fmt: skip
    box, height = axes[0].get_position(), figure.get_figheight()
    end = histograms.number_table(
        figure, heads, rows, left=heading.width - page.column, right=heading.width - 0.12,
        top=(1 - box.y1) * height, ruled=_RULED,
    )  # fmt: skip
    top = (1 - end / height - box.y0) / box.height
    for ax, own, texts in zip(axes, handles, beyond, strict=True):
        if own:
            ax.legend(
                handles=own, loc="upper left", bbox_to_anchor=(histograms.beside(ax), top),
                borderpad=0, handlelength=1.1, handleheight=0.9, borderaxespad=0, labelspacing=0.4,
            )  # fmt: skip
        histograms.write_beside(ax, texts, gid="beyond")
        top = 1.02


def _title(run: Run, data: PairedBins) -> str:
    """Return the title: model, layer, site and number of values."""
    key = data.key
    where = layer_name(run, key.layer, key.stack)
    count = data.panels[0].count
    return f"{model_name(run)} · {where} · {key.site} · {counted(count, 'value')}"


def _caption(run: Run, data: PairedBins) -> str:
    """Return the second line: what the site is, where, and what ARM does there."""
    parts = [histograms.site_description(data.key.site)]
    if data.key.module:
        parts.append(data.key.module)
    if data.moved is not None:
        parts.append(f"{change_name(run)}: {arm_settings(run)}".removesuffix(": "))
    elif len(data.panels) > 1:
        layers = ", ".join(map(str, arm_layers(run)[:4])) + ", …" * (len(arm_layers(run)) > 4)
        name = change_name(run)
        parts.append(f"{name} in layer {layers}" if layers else f"with {name}")
    parts.append(style.drawable(massive_at(run, data.key)))
    return " · ".join(filter(None, parts))


def _draw_panel(ax: Axes, data: PairedBins, panel: Panel) -> list[Artist]:
    """Draw a panel; return the handles of its legend."""
    histograms.frame(ax, data.axes, data.eps)
    histograms.count_scale(ax, max(data.peak, 1), data.floor, log=data.log, integer=True)
    ax.yaxis.set_major_formatter(FuncFormatter(style.short_count))
    ax.set_ylabel("values per bin" + " (log)" * data.log)
    floor = data.floor
    counts = np.maximum(data.heights(panel.counts), floor)
    bars: dict[str, Any] = {"edges": data.drawn_edges, "fill": True, "linewidth": 0}
    histograms.steps(ax, counts, baseline=floor, color=style.LIGHT[panel.phase], gid="bars", **bars)
    handles: list[Artist] = []
    if panel.moved is not None:
        rest = np.maximum(data.heights(panel.counts - panel.moved), floor)
        color = style.DARK[panel.phase]
        histograms.steps(ax, counts, baseline=rest, color=color, gid="moved", zorder=1.2, **bars)
        label = "received" if panel.phase == "after" else "moves away"
        handles.append(Rectangle((0, 0), 1, 1, color=color, linewidth=0, label=label))
    outlined = _outlined(data, panel)
    if outlined is not None:
        name, other = outlined
        handles.append(
            histograms.steps(
                ax, np.maximum(data.heights(other), floor), data.drawn_edges, baseline=floor,
                gid="outline", color=style.LINE["before"], linewidth=0.7, zorder=1.4,
                label=f"{style.phase_name(name)}, for comparison",
            )
        )  # fmt: skip
    ax.text(
        0.0, 1.02, _shown_phase(data, panel), transform=ax.transAxes, va="bottom",
        fontsize=style.size("phase"), weight="bold", color=style.LINE[panel.phase],
    )  # fmt: skip
    return handles


def _shown_phase(data: PairedBins, panel: Panel) -> str:
    """Return the phase as printed; a run without redistribution has one, which needs no name."""
    return style.phase_name(panel.phase) if len(data.panels) > 1 else ""


def _outlined(data: PairedBins, panel: Panel) -> tuple[str, NDArray[np.int64]] | None:
    """Return the phase that is outlined in a panel, and its counts."""
    first = data.panels[0]
    if panel.phase == "after" and first is not panel:
        return first.phase, first.counts
    if panel.phase == "arm_input" and data.untouched is not None:
        return "before", data.untouched
    return None


def _numbers(data: PairedBins) -> Iterator[histograms.Row]:
    """Yield the main numbers of every panel."""
    shown = data.panels
    counts = [panel.count for panel in shown]
    same = len(set(counts)) == 1
    yield "n", [f"{count:,}" for count in (counts[:1] if same else counts)]
    yield "near zero", [percent(panel.near_zero) for panel in shown]
    yield "std", [number(panel.std) for panel in shown]
    yield "Gini", [number(panel.gini) for panel in shown]
    if any(panel.nonfinite for panel in shown):
        yield "NaN, inf", [f"{panel.nonfinite:,}" for panel in shown]
    if data.moved is not None:
        share = percent(data.moved / max(shown[0].count, 1))
        yield "moved", [f"k = {data.moved:,} ({share})"]


def _outside(data: PairedBins, panel: Panel) -> list[str]:
    """Return the notes in the corner: what lies outside the axis, or the extremes on it."""
    if data.strip is None and panel.count:
        return [histograms.extremes_text(data.tails(panel))]
    return histograms.outside_texts(data.tails(panel), panel.energy_outside)


def _draw_arrows(figure: Figure, axes: list[Axes], data: PairedBins) -> None:
    """Draw arrows from the tip of the values that move to where they are afterwards."""
    above, below = axes
    source, target = data.panels
    if source.moved is None or target.moved is None:
        return
    edges, moved = data.drawn_edges, data.heights(source.moved)
    tip = int(np.argmax(moved))
    height = data.heights(source.counts)
    ends = above.transData.transform(
        [(0, max(height[tip] - moved[tip], data.floor)), (0, height[tip])]
    )[:, 1]
    tops = np.maximum(height, np.maximum(data.heights(target.counts), data.floor))
    lift = figure.bbox.height * 0.012
    for side, edge in ((-1, edges[tip]), (1, edges[tip + 1])):
        start_x = above.transData.transform((edge, 1))[0]
        for rank, (bin_, weight) in enumerate(_target_bins(data, target, side)):
            start = np.array([start_x, ends[1] - (0.12 + 0.13 * rank) * (ends[1] - ends[0])])
            middle = data.middles[bin_]
            end = below.transData.transform((middle, tops[bin_])) + np.array([0, lift])
            _arrow(figure, start, end, weight)


def _arrow(
    figure: Figure, start: NDArray[np.float64], end: NDArray[np.float64], weight: float
) -> None:
    """Draw a curve that starts sideways and ends downwards, in coordinates of the figure."""
    across, down = end - start
    controls = [start + np.array([0.45 * across, 0]), start + np.array([across, 0.12 * down])]
    points = figure.transFigure.inverted().transform([start, *controls, end])
    figure.add_artist(
        FancyArrowPatch(
            path=Path(points, [Path.MOVETO] + 3 * [Path.CURVE4]), transform=figure.transFigure,
            arrowstyle="-|>", mutation_scale=7, linewidth=0.6 + 0.6 * weight, color=style.INK,
            alpha=0.8, gid="arrow", shrinkA=0, shrinkB=0, capstyle="round",
        )
    )  # fmt: skip


def _target_bins(data: PairedBins, panel: Panel, side: int) -> Iterator[tuple[int, float]]:
    """Yield drawn bins that divide the values received on a side into equal parts, outermost first.

    Each comes with the side's fraction of all values received. A side that is drawn narrow gets
    fewer arrows.
    """
    assert panel.moved is not None
    left, right = data.axes.scale.forward(data.window)
    places = data.axes.scale.forward(data.middles) / max(-left, right)
    received = np.where(places * side > _BESIDE_ZERO, data.inside(panel.moved), 0)
    total = int(received.sum())
    if not total:
        return
    reach = float(np.average(np.abs(places), weights=received)) * 2
    arrows = min(_ARROWS_PER_SIDE, max(1, round(reach * 6)))
    running = np.cumsum(received[::side])
    share = total / max(int(panel.moved.sum()), 1)
    for index in range(arrows):
        wanted = (arrows - index - 0.5) / arrows * total
        found = int(np.searchsorted(running, wanted, side="left"))
        yield (found if side > 0 else received.size - 1 - found), share
