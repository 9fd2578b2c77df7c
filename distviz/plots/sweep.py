"""A sweep in pictures: what settings remove and what they cost, and the trade-off between the two.

Everything is drawn from the tables of a sweep.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    NullFormatter,
    PercentFormatter,
)

from distviz.plots import style
from distviz.plots.headings import Heading, Line
from distviz.plots.layout import legend_over, place_apart, rows_height
from distviz.plots.sweep_heatmap import heatmap, limits, map_places, mark
from distviz.results import Sweep, pareto, sample_name, setting_name, varied_columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = ["COLORS", "MARKERS", "plain_ticks", "sweep_overview"]

_MOST_BLOCKS = 4
"""Heatmaps for so many alternatives of layers, mode and redistribution, for half as many in one
column; the scatter shows all."""
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
MARKERS = "osD^vP*X"
_APART = ["redistribution", "layers", "mode"]


def sweep_overview(sweep: Sweep, title: str, *, width: str | None = None) -> Figure:
    """Draw heatmaps of what each setting removes and costs, and the trade-off with its front.

    Two heatmaps for each alternative of layers, mode and redistribution (the first four). ``width``
    is ``"single"`` or ``"double"``, the columns of a paper, or None, for a screen.
    """
    groups = sweep.table.groupby(_APART, sort=False, dropna=False)
    blocks = [(_block_name(name, sweep.table), part) for name, part in groups]
    with style.styled(width) as sheet:
        blocks = blocks[: _MOST_BLOCKS // (2 if sheet.is_narrow else 1)]
        inches = sheet.or_width(7.2)
        heading = _heading(sweep, title, inches)
        columns = 1 if sheet.is_narrow else 2
        maps, each = map_places(blocks, heading, columns, inches)
        legend = rows_height(_legend_names(sweep), inches - 0.9)
        split = maps[-1][1] + maps[-1][2] + 0.5 + 0.16 + legend
        tall = 1.9 if sheet.is_narrow else 2.6
        figure = style.blank(inches, split + tall + 0.5)
        heading.write(figure)
        height = figure.get_figheight()
        scales = limits(sweep.table)
        axes = [
            figure.add_axes((x / inches, 1 - (y + high) / height, each / inches, high / height))
            for x, y, high in maps
        ]
        for (where, part), pair in zip(
            blocks, zip(axes[::2], axes[1::2], strict=True), strict=True
        ):
            heatmap(pair[0], part, "near_zero_removed", scales[0], where)
            heatmap(pair[1], part, "kl", scales[1], where)
            mark(list(pair), part, sweep.recommendation.row)
        box = (0.75 / inches, 0.5 / height, 1 - 0.9 / inches, tall / height)
        _trade_off(figure.add_axes(box), sweep)
        return figure


def _heading(sweep: Sweep, title: str, width: float) -> Heading:
    found = sweep.recommendation
    if found.row is None:
        text = found.reason
    else:
        name = setting_name(sweep.table.iloc[found.row], varied_columns(sweep.table))
        text = f"largest redistribution within KL {sweep.budget_kl:g}: {name} (outlined)"
    return Heading(
        [Line.title(f"{title} · sweep · act"), Line(_measured(sweep)), Line(text)], width
    )


def _measured(sweep: Sweep) -> str:
    """Say what was measured, and how often."""
    seeds = len(sweep.seeds["seed"].drop_duplicates()) if "seed" in sweep.seeds else 1
    often = f"means and standard deviations over {seeds} seeds" if seeds > 1 else ""
    return " · ".join(filter(None, [sample_name(sweep), often]))


def _block_name(name: Any, table: pd.DataFrame) -> str:
    words = []
    for column, value in zip(_APART, name, strict=True):
        if len(table[column].drop_duplicates()) > 1:
            words.append(f"layers {value}" if column == "layers" else str(value))
    return f" · {', '.join(words)}" if words else ""


def _legend_names(sweep: Sweep) -> list[str]:
    """Return what the legend of the trade-off tells, at most."""
    groups = sweep.table.groupby(_APART, sort=False, dropna=False)
    names = [_block_name(name, sweep.table).removeprefix(" · ") for name, _ in groups]
    return [*filter(None, names), "Pareto front", f"budget {sweep.budget_kl:g}"]


def _trade_off(ax: Axes, sweep: Sweep) -> None:
    table = sweep.table[sweep.table["kl"].notna()]
    least = table.loc[table["kl"] > 0, "kl"].min() if (table["kl"] > 0).any() else 1e-6
    for order, (name, part) in enumerate(table.groupby(_APART, sort=False, dropna=False)):
        label = _block_name(name, sweep.table).removeprefix(" · ") or None
        cost = part["kl"].clip(lower=least / 2)
        ax.errorbar(
            cost, part["near_zero_removed"], xerr=_spread(part["kl_spread"], cost),
            yerr=part["near_zero_removed_spread"].fillna(0), linestyle="none", markersize=5,
            elinewidth=0.8, label=label, color=COLORS[order % 8], marker=MARKERS[order % 8],
        )  # fmt: skip
    front = table.loc[pareto(table)]
    if len(front) > 1:
        ax.plot(
            front["kl"].clip(lower=least / 2), front["near_zero_removed"],
            drawstyle="steps-post", color=style.MUTED, linewidth=0.9, zorder=0,
            label="Pareto front",
        )  # fmt: skip
    ax.axvline(
        sweep.budget_kl, color=style.INK, linewidth=0.8, linestyle=(0, (4, 3)),
        label=f"budget {sweep.budget_kl:g}",
    )  # fmt: skip
    ax.set_xscale("log")
    plain_ticks(ax.xaxis)
    ax.xaxis.set_major_locator(LogLocator(numticks=5))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None, symbol=""))
    narrow = style.sheet().is_narrow
    ax.set_ylabel("near-zero removed, points" if narrow else "near-zero removed, percentage points")
    ax.set_xlabel("KL of next-token distributions, nats")
    ax.grid(color=style.GRID, linewidth=0.6)
    ax.margins(x=0.12, y=0.14)
    _name_front(ax, sweep, front, least)
    legend_over(ax)


def _spread(spread: pd.Series[float], middle: pd.Series[float]) -> Any:
    """Error bars on a log axis that do not reach zero."""
    down = np.minimum(spread.fillna(0), 0.9 * middle)
    return np.vstack([down, spread.fillna(0)])


def plain_ticks(axis: Axis) -> None:
    """Write the ticks of a log axis as plain numbers."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _name_front(ax: Axes, sweep: Sweep, front: pd.DataFrame, least: float) -> None:
    """Write the names of the settings on the front beside their points, the recommended first."""
    told = [name for name in varied_columns(sweep.table) if name not in _APART]
    chosen = sweep.recommendation.row
    ranked = sorted(front.index, key=lambda index: (index != chosen, -front.loc[index, "kl"]))
    named = [
        (
            setting_name(front.loc[index], told or ["c", "fraction"]),
            (max(front.loc[index, "kl"], least / 2), front.loc[index, "near_zero_removed"]),
        )
        for index in ranked
    ]
    place_apart(ax, named, style.MUTED)
