"""A sweep in pictures: what settings remove and what they cost, and the trade-off between the two.

Everything is drawn from the tables of a sweep.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm, Normalize
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter

from distviz.plots import style
from distviz.sweep_results import NAMED, Sweep, pareto, setting_name
from distviz.wording import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = ["sweep_by_layer", "sweep_overview"]

_MOST_BLOCKS = 4
"""Heatmaps for so many alternatives of layers, mode and redistribution; the scatter shows all."""
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
_MARKERS = "osD^vP*X"
_APART = ["redistribution", "layers", "mode"]


def sweep_overview(sweep: Sweep, title: str) -> Figure:
    """Draw heatmaps of what each setting removes and costs, and the trade-off with its front.

    One row of heatmaps for each alternative of layers, mode and redistribution (the first four).
    """
    blocks = list(sweep.table.groupby(_APART, sort=False, dropna=False))
    with style.styled():
        rows = min(len(blocks), _MOST_BLOCKS)
        tall = max(len(_cells(part).rows) for _, part in blocks[:rows])
        block_height = 0.85 + 0.3 * max(tall, 2)
        figure = style.blank(7.2, 0.95 + rows * block_height + 3.3)
        height = figure.get_figheight()
        top = 1 - 0.8 / height
        split = top - rows * block_height / height
        heat = figure.add_gridspec(
            rows, 2, left=0.11, right=0.965, top=top, bottom=split + 0.55 / height, hspace=0.85
        )
        limits = _limits(sweep.table)
        for row, (name, part) in enumerate(blocks[:rows]):
            pair = [figure.add_subplot(heat[row, column]) for column in (0, 1)]
            where = _block_name(name, sweep.table)
            _heatmap(pair[0], part, "near_zero_removed", limits[0], f"near-zero removed{where}")
            _heatmap(pair[1], part, "kl", limits[1], f"KL, nats{where}")
            _mark(pair, part, sweep.recommendation.row)
        scatter = figure.add_gridspec(
            1, 1, left=0.11, right=0.965, top=split - 0.25 / height, bottom=0.48 / height
        )
        _trade_off(figure.add_subplot(scatter[0]), sweep)
        _headline(figure, sweep, title)
        return figure


def _headline(figure: Figure, sweep: Sweep, title: str) -> None:
    height = figure.get_figheight()
    figure.text(0.02, 1 - 0.24 / height, title, fontsize=10.5, weight="bold")
    found = sweep.recommendation
    if found.row is None:
        text = found.reason
    else:
        name = setting_name(sweep.table.iloc[found.row], _varied(sweep.table))
        text = f"largest redistribution within KL {sweep.budget_kl:g}: {name} (outlined)"
    figure.text(0.02, 1 - 0.44 / height, text, fontsize=8, color=style.MUTED)


def _varied(table: pd.DataFrame) -> list[str]:
    """Return the naming columns that differ, or c and p1 where none does."""
    names = [name for name in NAMED if len(table[name].drop_duplicates()) > 1]
    return names or ["c", "fraction", "p1"]


def _block_name(name: Any, table: pd.DataFrame) -> str:
    words = []
    for column, value in zip(_APART, name, strict=True):
        if len(table[column].drop_duplicates()) > 1:
            words.append(f"layers {value}" if column == "layers" else str(value))
    return f" · {', '.join(words)}" if words else ""


@dataclass(frozen=True)
class Cells:
    """Where the settings of a block stand in its heatmap.

    Attributes
    ----------
    rows, columns
        Labels: c or fraction, upwards; p1.
    places
        By row of the table: its row and column.
    """

    rows: list[str]
    columns: list[str]
    places: dict[int, tuple[int, int]]


def _cells(part: pd.DataFrame) -> Cells:
    fractions, widths = part["fraction"].tolist(), part["c"].tolist()
    bands = [
        f"c {width:g}" if np.isnan(share) else f"fraction {share:g}"
        for share, width in zip(fractions, widths, strict=True)
    ]
    rows, percentiles = list(dict.fromkeys(bands)), part["p1"].tolist()
    columns = sorted(set(percentiles))
    places = {
        int(index): (rows.index(band), columns.index(p1))
        for index, band, p1 in zip(part.index, bands, percentiles, strict=True)
    }
    return Cells(rows, [f"{p1:g}" for p1 in columns], places)


def _limits(table: pd.DataFrame) -> list[Normalize]:
    removed, kl = table["near_zero_removed"].abs().max(), table["kl"]
    positive = kl[kl > 0]
    low, high = (positive.min(), positive.max()) if len(positive) else (1e-6, 1.0)
    return [
        Normalize(-removed or -1, removed or 1),
        LogNorm(low / 1.5, high * 1.5 if high > low else high * 10),
    ]


def _heatmap(ax: Axes, part: pd.DataFrame, quantity: str, limits: Normalize, heading: str) -> None:
    cells = _cells(part)
    rows, columns = cells.rows, cells.columns
    values = np.full((len(rows), len(columns)), np.nan)
    for place, value in zip(cells.places.values(), part[quantity].tolist(), strict=True):
        values[place] = value
    colors = "PuOr" if quantity == "near_zero_removed" else "YlOrBr"
    image = ax.pcolormesh(
        np.arange(len(columns) + 1), np.arange(len(rows) + 1), values, norm=limits, cmap=colors
    )
    for row, column in np.argwhere(np.isfinite(values)):
        value = values[row, column]
        text = f"{100 * value:.1f}" if quantity == "near_zero_removed" else number(value, 2)
        red, green, blue, _ = image.cmap(image.norm(value))
        dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
        color = "white" if dark else style.INK
        ax.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=7.5, color=color)
    ax.set_xticks(np.arange(len(columns)) + 0.5, columns)
    ax.set_yticks(np.arange(len(rows)) + 0.5, rows)
    ax.tick_params(length=0)
    ax.set_xlabel("p1")
    unit = ", percentage points" if quantity == "near_zero_removed" else ""
    ax.set_title(heading.replace("removed", f"removed{unit}", 1), loc="left", fontsize=8.5)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)


def _mark(pair: list[Axes], part: pd.DataFrame, row: int | None) -> None:
    """Outline the recommended cell."""
    if row is None or row not in part.index:
        return
    from matplotlib.patches import Rectangle

    corner = _cells(part).places[row][::-1]
    for ax in pair:
        ax.add_patch(
            Rectangle(corner, 1, 1, fill=False, edgecolor=style.INK, linewidth=1.8, clip_on=False)
        )


def _trade_off(ax: Axes, sweep: Sweep) -> None:
    table = sweep.table[sweep.table["kl"].notna()]
    least = table.loc[table["kl"] > 0, "kl"].min() if (table["kl"] > 0).any() else 1e-6
    for order, (name, part) in enumerate(table.groupby(_APART, sort=False, dropna=False)):
        label = _block_name(name, sweep.table).removeprefix(" · ") or None
        cost = part["kl"].clip(lower=least / 2)
        ax.errorbar(
            cost,
            part["near_zero_removed"],
            xerr=_spread(part["kl_spread"], cost),
            yerr=part["near_zero_removed_spread"].fillna(0),
            linestyle="none",
            markersize=5,
            elinewidth=0.8,
            label=label,
            color=_COLORS[order % 8],
            marker=_MARKERS[order % 8],
        )
    front = table.loc[pareto(table)]
    if len(front) > 1:
        ax.plot(
            front["kl"].clip(lower=least / 2),
            front["near_zero_removed"],
            drawstyle="steps-post",
            color=style.MUTED,
            linewidth=0.9,
            zorder=0,
            label="Pareto front",
        )
    ax.axvline(sweep.budget_kl, color=style.INK, linewidth=0.8, linestyle=(0, (4, 3)))
    ax.set_xscale("log")
    _plain_ticks(ax.xaxis)
    _name_front(ax, sweep, front, least)
    ax.annotate(
        f" budget {sweep.budget_kl:g}",
        (sweep.budget_kl, 1),
        xycoords=("data", "axes fraction"),
        va="bottom",
        ha="center",
        fontsize=7.5,
        color=style.INK,
    )
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None, symbol=""))
    ax.set_ylabel("near-zero removed, percentage points")
    ax.set_xlabel("KL of next-token distributions, nats")
    ax.grid(color=style.GRID, linewidth=0.6)
    ax.margins(x=0.12, y=0.14)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="best", fontsize=7.5)


def _spread(spread: pd.Series[float], middle: pd.Series[float]) -> Any:
    """Error bars on a log axis that do not reach zero."""
    down = np.minimum(spread.fillna(0), 0.9 * middle)
    return np.vstack([down, spread.fillna(0)])


def _plain_ticks(axis: Axis) -> None:
    """Write the ticks of a log axis as plain numbers."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _name_front(ax: Axes, sweep: Sweep, front: pd.DataFrame, least: float) -> None:
    """Write the names of the settings on the front beside their points."""
    varied = [name for name in _varied(sweep.table) if name not in _APART]
    for _, row in front.iterrows():
        at_end = row["kl"] > sweep.budget_kl or row["kl"] == front["kl"].max()
        ax.annotate(
            setting_name(row, varied or ["c", "fraction"]),
            (max(row["kl"], least / 2), row["near_zero_removed"]),
            xytext=(-5, 4) if at_end else (5, -9),
            ha="right" if at_end else "left",
            textcoords="offset points",
            fontsize=7,
            color=style.MUTED,
        )


_CURVES = {
    "near_zero_removed": "near-zero removed, percentage points",
    "kl": "KL of next-token distributions, nats",
    "loss_change": "change of the loss, nats",
    "top1_agreement": "top-1 agreement, %",
    "last_wasserstein_normalized": "Wasserstein distance / std at the last layer",
}


def sweep_by_layer(sweep: Sweep, title: str) -> Figure:
    """Draw what the redistribution in each layer alone removes and costs, layer by layer."""
    table = sweep.table.assign(
        layer=sweep.table["layers"].astype(int),
        loss_change=sweep.table["loss_after"] - sweep.table["loss_before"],
    )
    kinds = list(table.groupby([n for n in NAMED if n != "layers"], sort=False, dropna=False))
    with style.styled():
        curves = [name for name in _CURVES if table[name].notna().any()]
        figure = style.blank(7.2, 1.15 + 1.35 * len(curves))
        height = figure.get_figheight()
        grid = figure.add_gridspec(
            len(curves),
            1,
            left=0.11,
            right=0.975,
            top=1 - 0.78 / height,
            bottom=0.45 / height,
            hspace=0.42,
        )
        axes = [figure.add_subplot(grid[row]) for row in range(len(curves))]
        for ax, name in zip(axes, curves, strict=True):
            _curve(ax, name, kinds, sweep)
            ax.tick_params(labelbottom=ax is axes[-1])
        if len(kinds) > 1:
            axes[0].legend(loc="best", fontsize=7, ncols=min(len(kinds), 3))
        axes[-1].set_xlabel("layer")
        figure.text(0.02, 1 - 0.24 / height, title, fontsize=10.5, weight="bold")
        figure.text(0.02, 1 - 0.44 / height, _by_layer_note(sweep), fontsize=8, color=style.MUTED)
        return figure


def _by_layer_note(sweep: Sweep) -> str:
    first = sweep.table.iloc[0]
    own = setting_name(first, ["redistribution", "c", "fraction", "p1", "mode"])
    one = len(sweep.table.groupby([n for n in NAMED if n != "layers"], dropna=False)) == 1
    within = sweep.table["kl"] <= sweep.budget_kl
    note = f"{own}, in one layer at a time" if one else "each setting in one layer at a time"
    return f"{note} · within KL {sweep.budget_kl:g}: {int(within.sum())} of {len(within)}"


def _curve(ax: Axes, name: str, kinds: list[Any], sweep: Sweep) -> None:
    varied = [column for column in _varied(sweep.table) if column != "layers"]
    for place, (_, part) in enumerate(kinds):
        color = _COLORS[place % 8]
        label = setting_name(part.iloc[0], varied) if varied else None
        ax.plot(part["layer"], part[name], "-", color=color, linewidth=0.8, alpha=0.6)
        ax.errorbar(
            part["layer"],
            part[name],
            yerr=part[f"{name}_spread"].fillna(0) if f"{name}_spread" in part else None,
            linestyle="none",
            marker=_MARKERS[place % 8],
            markersize=3.6,
            elinewidth=0.8,
            color=color,
            label=label,
        )
    values = np.concatenate([part[name].to_numpy(dtype=float) for _, part in kinds])
    if name in ("kl", "last_wasserstein_normalized") and (values > 0).all():
        ax.set_yscale("log")
        _plain_ticks(ax.yaxis)
    if name == "kl":
        ax.axhline(sweep.budget_kl, color=style.INK, linewidth=0.8, linestyle=(0, (4, 3)))
    if name in ("near_zero_removed", "top1_agreement"):
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None, symbol=""))
    if name == "loss_change":
        ax.axhline(0, color=style.MUTED, linewidth=0.7)
    ax.set_title(_CURVES[name], loc="left", pad=3, fontsize=8.5)
    ax.grid(axis="y", color=style.GRID, linewidth=0.6)
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
