"""A sweep layer by layer: what the redistribution in each layer alone removes and costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator, PercentFormatter

from distviz.plots import style
from distviz.plots.headings import EDGE, Heading, Line
from distviz.plots.layout import (
    extra_title,
    fit_left,
    legend_in_figure,
    panel_title,
    panels,
    rows_height,
)
from distviz.plots.sweep import COLORS, MARKERS, plain_ticks
from distviz.results import NAMED, Sweep, layer_axis, setting_name, varied_columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["sweep_by_layer"]

_CURVES = {
    "near_zero_removed": "near-zero removed, percentage points",
    "kl": "KL of next-token distributions, nats",
    "loss_change": "change of the loss, nats",
    "top1_agreement": "top-1 agreement, %",
    "last_wasserstein_normalized": "Wasserstein distance / std, last layer",
}


def sweep_by_layer(sweep: Sweep, title: str, *, width: str | None = None) -> Figure:
    """Draw what the redistribution in each layer alone removes and costs, layer by layer.

    ``width`` is ``"single"`` or ``"double"``, the columns of a paper, or None, for a screen.
    """
    table = sweep.table.assign(
        layer=sweep.table["layers"].astype(int),
        loss_change=sweep.table["loss_after"] - sweep.table["loss_before"],
    )
    kinds = [
        part
        for _, part in table.groupby([n for n in NAMED if n != "layers"], sort=False, dropna=False)
    ]
    with style.styled(width) as sheet:
        inches = sheet.or_width(7.2)
        curves = [name for name in _CURVES if table[name].notna().any()]
        names = [_kind_name(part, sweep) for part in kinds] if len(kinds) > 1 else []
        used = rows_height(names, inches - 0.9)
        over = extra_title((_CURVES[name] for name in curves), inches - 0.95)
        lines = [Line.title(f"{title} · sweep · act"), Line(_by_layer_note(sweep))]
        figure, axes = panels(
            Heading(lines, inches),
            [0.75 if sheet.is_narrow else 1.0] * len(curves),
            width=inches,
            left=0.79,
            above=0.3 + used + over,
            gap=0.33 + over,
        )
        for ax, name in zip(axes, curves, strict=True):
            _curve(ax, name, kinds, sweep)
            ax.tick_params(labelbottom=ax is axes[-1])
        axes[-1].set_xlabel(layer_axis(sweep))
        fit_left(figure, axes)
        if names:
            top = (1 - axes[0].get_position().y1) * figure.get_figheight() - 0.22 - used - over
            legend_in_figure(
                figure, axes[0].get_legend_handles_labels()[0], names, left=EDGE, top=top
            )
        return figure


def _kind_name(part: pd.DataFrame, sweep: Sweep) -> str:
    told = [column for column in varied_columns(sweep.table) if column != "layers"]
    return setting_name(part.iloc[0], told) if told else ""


def _by_layer_note(sweep: Sweep) -> str:
    first = sweep.table.iloc[0]
    own = setting_name(first, ["redistribution", "c", "fraction", "p1", "mode"])
    one = len(sweep.table.groupby([n for n in NAMED if n != "layers"], dropna=False)) == 1
    within = sweep.table["kl"] <= sweep.budget_kl
    note = f"{own}, in one layer at a time" if one else "each setting in one layer at a time"
    return f"{note} · within KL {sweep.budget_kl:g}: {int(within.sum())} of {len(within)}"


def _curve(ax: Axes, name: str, kinds: list[pd.DataFrame], sweep: Sweep) -> None:
    for place, part in enumerate(kinds):
        color = COLORS[place % 8]
        ax.plot(part["layer"], part[name], "-", color=color, linewidth=0.8, alpha=0.6)
        ax.errorbar(
            part["layer"],
            part[name],
            yerr=part[f"{name}_spread"].fillna(0) if f"{name}_spread" in part else None,
            linestyle="none",
            marker=MARKERS[place % 8],
            markersize=3.6,
            elinewidth=0.8,
            color=color,
            label=_kind_name(part, sweep) or None,
        )
    values = np.concatenate([part[name].to_numpy(dtype=float) for part in kinds])
    if name in ("kl", "last_wasserstein_normalized") and (values > 0).all():
        ax.set_yscale("log")
        plain_ticks(ax.yaxis)
    if name == "kl":
        ax.axhline(sweep.budget_kl, color=style.INK, linewidth=0.8, linestyle=(0, (4, 3)))
    if name in ("near_zero_removed", "top1_agreement"):
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None, symbol=""))
    if name == "loss_change":
        ax.axhline(0, color=style.MUTED, linewidth=0.7)
    panel_title(ax, _CURVES[name])
    ax.grid(axis="y", color=style.GRID, linewidth=0.6)
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
