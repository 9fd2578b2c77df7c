"""An allocation: what each layer gets, and what the whole costs beside uniform."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from distviz.output import counted
from distviz.plots import layout, style
from distviz.plots.scales import integer_ticks, percent_ticks, plain_ticks
from distviz.results import sample_name

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from distviz.results import Allocation

_LOOKS = {"allocated": ("#0072b2", "o", "-"), "uniform": ("#d55e00", "s", "--")}
"""Colour, marker and line of each side."""


def allocated(found: Allocation, title: str, *, width: str | None = None) -> Figure:
    """Draw zeros or formats by layer, one panel per site, and the cost against the mean.

    ``width`` is ``"single"`` or ``"double"``, the columns of a paper, or None, for a screen.
    """
    with style.styled(width) as page:
        inches = page.or_width(7.2)
        each = 1.1 if page.is_narrow else 1.4
        heights = [each] * len(found.sites) + [1.7 if page.is_narrow else 2.2]
        figure, axes = layout.stacked(inches, heights)
        for ax, site in zip(axes, found.sites, strict=False):
            _draw_site(ax, found, site)
        axes[-2].set_xlabel("layer")
        _draw_curve(axes[-1], found)
        for ax in (axes[0], axes[-1]):
            layout.legend_above(ax, *ax.get_legend_handles_labels())
        what = "zeros" if found.is_of_zeros else "formats"
        measured = f"{sample_name(found)} · thresholds and costs from this text"
        if not found.is_of_zeros:
            measured = f"{sample_name(found)} · costs on this text"
        heading = f"{title} · {what} allocated · {', '.join(found.sites)}"
        layout.arrange(figure, layout.titled(inches, heading, measured, found.verdict), heights)
        return figure


def _draw_site(ax: Axes, found: Allocation, site: str) -> None:
    """Draw what each layer gets at a site, allocated and uniform."""
    known = sorted({*found.table["bits"]}) if not found.is_of_zeros else []
    column = "zeros" if found.is_of_zeros else "bits"
    for name, table in (("uniform", found.even), ("allocated", found.table)):
        rows, (color, marker, line) = table[table["site"] == site], _LOOKS[name]
        ax.plot(
            rows["layer"], rows[column], color=color, marker=marker, markersize=3.6,
            linewidth=0.8, linestyle=line if found.is_of_zeros else "none", label=name,
            markerfacecolor="none" if name == "uniform" else color,
        )  # fmt: skip
    if found.is_of_zeros:
        percent_ticks(ax.yaxis, "")
        ax.set_ylim(bottom=0)
        what = "zeros, %"
    else:
        bits = found.table.groupby("bits")["format"].unique()
        ax.set_yticks(known, [f"{', '.join(bits[one])}" for one in known])
        ax.margins(y=0.25)
        what = "format"
    integer_ticks(ax)
    layout.panel_title(ax, f"{what}{f' · {site}' if len(found.sites) > 1 else ''}")


def _draw_curve(ax: Axes, found: Allocation) -> None:
    """Draw the cost of the whole against its mean, with intervals over documents."""
    for name, (color, marker, line) in reversed(_LOOKS.items()):
        rows = found.curve[found.curve["kind"] == name].sort_values("mean")
        ax.plot(
            rows["mean"], rows["kl"], color=color, marker=marker, markersize=3.6, linewidth=0.9,
            linestyle=line, label=name, markerfacecolor="none" if name == "uniform" else color,
        )  # fmt: skip
        known = rows.dropna(subset=["kl_low", "kl_high"])
        ax.fill_between(
            known["mean"], known["kl_low"], known["kl_high"], color=color, alpha=0.14, linewidth=0
        )
    own = found.chosen()
    ax.plot(
        [own["mean"]], [own["kl"]], marker="o", markersize=9, markerfacecolor="none",
        color=style.INK, linestyle="none", label="chosen",
    )  # fmt: skip
    budget = found.manifest.get("budget_kl")
    if budget is not None:
        ax.axhline(
            budget, color=style.INK, linewidth=0.8, linestyle=(0, (4, 3)),
            label=f"budget {budget:g}",
        )  # fmt: skip
    _scale(ax, found.curve)
    if found.is_of_zeros:
        percent_ticks(ax.xaxis, "")
        ax.set_xlabel("mean share of zeros, %")
    else:
        ax.invert_xaxis()
        ax.set_xlabel(f"mean bits of a value over {counted(found.n_places, 'place')}")
    ax.grid(color=style.GRID, linewidth=0.6)
    layout.panel_title(ax, "KL of next-token distributions, nats")


def _scale(ax: Axes, curve: pd.DataFrame) -> None:
    if np.any(curve["kl"].to_numpy(dtype=float) > 0):  # formats may start at no cost
        ax.set_yscale("log", nonpositive="mask")
        plain_ticks(ax.yaxis)
