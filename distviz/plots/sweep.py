"""A sweep: what settings remove, what they cost, and the trade-off between the two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm, Normalize
from matplotlib.ticker import LogLocator, MaxNLocator

from distviz.arm import has_selection
from distviz.output import counted, listed
from distviz.plots import layout, style
from distviz.plots.heatmaps import (
    CHANGE,
    COST,
    GAIN,
    LOSS,
    MOST_LINES,
    ROW,
    diverging_scale,
    draw_heatmap,
    outline,
    sequential_scale,
)
from distviz.plots.labels import label_points
from distviz.plots.scales import integer_ticks, percent_ticks, plain_ticks, share_x_labels
from distviz.results import (
    NAMED,
    Sweep,
    band_names,
    is_alone,
    layer_axis,
    number,
    pareto,
    sample_name,
    setting_name,
    varied_columns,
)
from distviz.sites import join_sites

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_BLOCKS = 4
"""Heatmaps are drawn for so many alternatives of layers, mode and redistribution, half as many on a
narrow page; the scatter plot shows all."""
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
_MARKERS = "osD^vP*X"
_ALTERNATIVES = ["redistribution", "layers", "at", "mode"]
_REMOVED = "near-zero removed, percentage points"
_MAPS = {"near_zero_removed": _REMOVED, "kl": "KL, nats"}
_FORMATS: dict[str, Callable[[float], str]] = {
    "near_zero_removed": lambda share: f"{100 * share:.1f}".replace("-", "−"),
    "kl": lambda kl: number(kl, 2),
}
_CURVES = {
    "sqnr_db": "SQNR at the place, dB",
    "near_zero_removed": _REMOVED,
    "kl": "KL of next-token distributions, nats",
    "loss_change": "change of the loss, nats",
    "top1_agreement": "top-1 agreement, %",
    "last_wasserstein_normalized": "Wasserstein distance / std, last layer",
}


_PERCENT = ("near_zero_removed", "top1_agreement")


def sweep_overview(sweep: Sweep, title: str, *, width: str | None = None) -> Figure:
    """Draw heatmaps of what each setting removes and costs, and the trade-off with its front.

    Two heatmaps for each alternative of layers, mode and redistribution (the first four). ``width``
    is ``"single"`` or ``"double"``, the columns of a paper, or None, for a screen.
    """
    groups = sweep.table.groupby(_ALTERNATIVES, sort=False, dropna=False)
    blocks = [(_block_name(name, sweep.table), part) for name, part in groups]
    with style.styled(width) as page:
        columns = 1 if page.is_narrow else 2
        blocks = blocks[: _MOST_BLOCKS * columns // 2]
        inches = page.or_width(7.2)
        each = 0.22 if page.is_narrow else 0.3
        heights = [
            each * max(len(_cells(part).rows), 2) for _, part in blocks for _ in range(3 - columns)
        ]
        heights.append(1.9 if page.is_narrow else 2.6)
        figure, places = layout.grid(inches, heights, columns)
        maps = [figure.add_subplot(places[index]) for index in range(2 * len(blocks))]
        scales = _color_limits(sweep.table)
        panels = iter(maps)
        for where, part in blocks:
            for quantity, scale in zip(_MAPS, scales, strict=True):
                _heatmap(next(panels), part, quantity, scale, where, sweep.recommendation.row)
        ax = figure.add_subplot(places[-1, :])
        named = _trade_off(ax, sweep)
        layout.arrange(figure, _heading(sweep, title, inches), heights)
        for panel in maps:
            labels = [label.get_text() for label in panel.get_xticklabels()]
            panel.set_xticks(panel.get_xticks(), layout.thinned(panel, labels))
        label_points(ax, named, style.INK)
        return figure


def sites_of(sweep: Sweep) -> str:
    """Return the sites of all settings."""
    return join_sites(sweep.table["at"])


def _heading(sweep: Sweep, title: str, width: float) -> layout.Heading:
    seeds = len(sweep.seeds["seed"].drop_duplicates()) if "seed" in sweep.seeds else 1
    repeated = f"means and standard deviations over {counted(seeds, 'seed')}" if seeds > 1 else ""
    band = f"near-zero: {sweep.band_name}"
    measured = " · ".join(filter(None, [sample_name(sweep), repeated, band]))
    found = sweep.recommendation
    text = found.reason
    if found.row is not None:
        name = setting_name(sweep.table.iloc[found.row], varied_columns(sweep.table))
        text = f"recommended within KL {sweep.budget_kl:g}: {name} (outlined)"
    return layout.titled(width, f"{title} · sweep · {sites_of(sweep)}", measured, text)


def _block_name(name: Any, table: pd.DataFrame) -> str:
    """Return what distinguishes an alternative; empty if there is only one."""
    words = []
    for column, value in zip(_ALTERNATIVES, name, strict=True):
        if len(table[column].drop_duplicates()) > 1:
            words.append(listed("layer", str(value)) if column == "layers" else str(value))
    return f" · {', '.join(words)}" if words else ""


@dataclass(frozen=True)
class _Cells:
    """The cells of a heatmap.

    Attributes
    ----------
    rows, columns
        Labels: c or fraction, upwards; p1.
    places
        By row of the table: its row and column in the heatmap.
    """

    rows: list[str]
    columns: list[str]
    places: dict[int, tuple[int, int]]


def _cells(part: pd.DataFrame) -> _Cells:
    bands = band_names(part)
    rows, percentiles = list(dict.fromkeys(bands)), part["p1"].tolist()
    columns = sorted(set(percentiles))
    places = {
        int(index): (rows.index(band), columns.index(p1))
        for index, band, p1 in zip(part.index, bands, percentiles, strict=True)
    }
    return _Cells(rows, [f"{p1:g}" for p1 in columns], places)


def _color_limits(table: pd.DataFrame) -> list[tuple[Normalize, str]]:
    """Return the colours of each quantity: KL is logarithmic; a change of both signs is centred."""
    removed, kl = table["near_zero_removed"].to_numpy(dtype=float), table["kl"]
    positive = kl[kl > 0]
    low, high = (positive.min(), positive.max()) if len(positive) else (1e-6, 1.0)
    least, most = (float(pick(removed, initial=0.0)) for pick in (np.nanmin, np.nanmax))
    gains = (Normalize(0, most or 1), GAIN)
    return [
        gains if least >= 0 else (diverging_scale(removed, 1e-6), CHANGE),
        (LogNorm(low / 1.5, high * 1.5 if high > low else high * 10), COST),
    ]


def _heatmap(
    ax: Axes,
    part: pd.DataFrame,
    quantity: str,
    scale: tuple[Normalize, str],
    where: str,
    outlined: int | None,
) -> None:
    """Draw one quantity of an alternative named by ``where``; outline the recommended cell."""
    cells = _cells(part)
    values = np.full((len(cells.rows), len(cells.columns)), np.nan)
    for place, value in zip(cells.places.values(), part[quantity].tolist(), strict=True):
        values[place] = value
    draw_heatmap(
        ax, values, cells.rows, np.arange(len(cells.columns)), *scale, [_FORMATS[quantity]],
        share=1.0 if style.page_format().is_narrow else 0.5,
    )  # fmt: skip
    ax.set_xticks(range(len(cells.columns)), cells.columns)
    ax.set_xlabel("p1", labelpad=1)
    layout.panel_title(ax, f"{_MAPS[quantity]}{where}")
    if outlined in cells.places:
        row, column = cells.places[outlined]
        outline(ax, column, row)


def _trade_off(ax: Axes, sweep: Sweep) -> list[tuple[str, list[tuple[float, float]]]]:
    """Draw all settings and the Pareto front; return names and places of those on the front."""
    table = sweep.table[sweep.table["kl"].notna()]
    least = table.loc[table["kl"] > 0, "kl"].min() if (table["kl"] > 0).any() else 1e-6
    for order, (name, part) in enumerate(table.groupby(_ALTERNATIVES, sort=False, dropna=False)):
        cost, spread = part["kl"].clip(lower=least / 2), part["kl_spread"].fillna(0)
        # Error bars on a logarithmic axis must not reach zero.
        left = np.minimum(spread, 0.9 * cost)
        ax.errorbar(
            cost, part["near_zero_removed"], xerr=np.vstack([left, spread]),
            yerr=part["near_zero_removed_spread"].fillna(0), linestyle="none", markersize=5,
            elinewidth=0.8, label=_block_name(name, sweep.table).removeprefix(" · ") or None,
            color=_COLORS[order % 8], marker=_MARKERS[order % 8],
        )  # fmt: skip
    front = table.loc[pareto(table)]
    if len(front) > 1:
        ax.plot(
            front["kl"].clip(lower=least / 2), front["near_zero_removed"],
            drawstyle="steps-post", color=style.MUTED, linewidth=0.9, zorder=1.5,
            label="Pareto front",
        )  # fmt: skip
    ax.axvline(
        sweep.budget_kl, color=style.INK, linewidth=0.8, linestyle=(0, (4, 3)),
        label=f"budget {sweep.budget_kl:g}",
    )  # fmt: skip
    ax.set_xscale("log")
    plain_ticks(ax.xaxis)
    ax.xaxis.set_major_locator(LogLocator(numticks=5))
    percent_ticks(ax.yaxis, "")
    unit = "points" if style.page_format().is_narrow else "percentage points"
    ax.set_ylabel(f"near-zero removed, {unit}")
    ax.set_xlabel("KL of next-token distributions, nats")
    ax.grid(color=style.GRID, linewidth=0.6)
    ax.margins(x=0.12, y=0.14)
    layout.legend_above(ax, *ax.get_legend_handles_labels())
    columns = [name for name in varied_columns(sweep.table) if name not in _ALTERNATIVES]
    chosen = sweep.recommendation.row
    ranked = sorted(front.index, key=lambda index: (index != chosen, -front.loc[index, "kl"]))
    return [
        (
            setting_name(row, columns or ["c", "fraction"]),
            [(max(row["kl"], least / 2), row["near_zero_removed"])],
        )
        for row in (front.loc[index] for index in ranked)
    ]


def sweep_by_layer(sweep: Sweep, title: str, *, width: str | None = None) -> Figure:
    """Draw what the redistribution removes and costs in each layer alone.

    ``width`` is ``"single"`` or ``"double"``, the columns of a paper, or None, for a screen.
    """
    table = sweep.table[is_alone(sweep.table)]
    table = table.assign(
        layer=table["layers"].astype(int), loss_change=table["loss_after"] - table["loss_before"]
    )
    settings = [name for name in NAMED if name != "layers"]
    kinds = [part for _, part in table.groupby(settings, sort=False, dropna=False)]
    curves = [name for name in _curves(sweep) if table[name].notna().any()]
    within = table["kl"] <= sweep.budget_kl
    note = "each setting in one layer at a time"
    if len(kinds) == 1:
        own = ["redistribution", "at", "c", "fraction", "p1", "mode"]
        note = f"{setting_name(table.iloc[0], own)}, in one layer at a time"
    note += f" · within KL {sweep.budget_kl:g}: {int(within.sum())} of {len(within)}"
    columns = [column for column in varied_columns(table) if column != "layers"]
    names = [setting_name(part.iloc[0], columns) if columns else "" for part in kinds]
    with style.styled(width) as page:
        inches = page.or_width(7.2)
        each = 0.75 if page.is_narrow else 1.0
        is_map = len(kinds) > MOST_LINES
        heights = [ROW * len(kinds) if is_map else each] * len(curves)
        figure, axes = layout.stacked(inches, heights)
        for ax, name in zip(axes, curves, strict=True):
            if is_map:
                _draw_map(ax, name, kinds, names)
            else:
                _draw_curve(ax, name, kinds, sweep.budget_kl)
            layout.panel_title(ax, _CURVES[name])
        share_x_labels(axes, layer_axis(sweep))
        if 1 < len(kinds) <= MOST_LINES:
            layout.legend_in_figure(figure, axes[0].containers, names, "outside upper left")
        layout.arrange(
            figure, layout.titled(inches, f"{title} · sweep · {sites_of(sweep)}", note), heights
        )
        return figure


def _curves(sweep: Sweep) -> list[str]:
    """Return the quantities to draw: those of near-zero values only where these are selected."""
    is_selecting = any(map(has_selection, sweep.table["redistribution"]))
    left_out = {"sqnr_db"} if is_selecting else {"near_zero_removed"}
    return [name for name in _CURVES if name in sweep.table and name not in left_out]


def _draw_map(ax: Axes, name: str, kinds: list[pd.DataFrame], names: list[str]) -> None:
    """Draw a row per setting and a column per layer."""
    layers = np.unique(np.concatenate([part["layer"].to_numpy(dtype=np.int64) for part in kinds]))
    rows = [part.drop_duplicates("layer").set_index("layer")[name] for part in kinds]
    values = np.array([row.reindex(layers).to_numpy(dtype=float) for row in rows])
    if name in _PERCENT:
        values = 100 * values
    signed = name in ("near_zero_removed", "loss_change")
    scale, colors = sequential_scale(values), LOSS if name == "top1_agreement" else COST
    if signed and np.nanmin(values) < 0:
        scale, colors = diverging_scale(values, 1e-6), CHANGE
    elif name == "kl" and np.nanmin(values) > 0:
        scale = LogNorm(scale.vmin, scale.vmax)
    draw_heatmap(ax, values, names, layers, scale, colors, [lambda value: number(value, 2)])
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))


def _draw_curve(ax: Axes, name: str, kinds: list[pd.DataFrame], budget: float) -> None:
    for order, part in enumerate(kinds):
        color, x, y = _COLORS[order % 8], part["layer"], part[name]
        ax.plot(x, y, "-", color=color, linewidth=0.8, alpha=0.6)
        ax.errorbar(
            x, y, yerr=part[f"{name}_spread"].fillna(0) if f"{name}_spread" in part else None,
            linestyle="none", marker=_MARKERS[order % 8], markersize=3.6, elinewidth=0.8,
            color=color,
        )  # fmt: skip
    values = np.concatenate([part[name].to_numpy(dtype=float) for part in kinds])
    if name in ("kl", "last_wasserstein_normalized") and (values > 0).all():
        ax.set_yscale("log")
        plain_ticks(ax.yaxis)
    if name == "kl":
        ax.axhline(budget, color=style.INK, linewidth=0.8, linestyle=(0, (4, 3)))
    if name in _PERCENT:
        percent_ticks(ax.yaxis, "")
    if name == "loss_change":
        ax.axhline(0, color=style.MUTED, linewidth=0.7)
    integer_ticks(ax)
