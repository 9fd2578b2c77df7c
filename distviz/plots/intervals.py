"""Estimates with their intervals; marks are filled where they are significant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from distviz.plots import style
from distviz.plots.scales import round_ticks, signed
from distviz.stats import ALPHA

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]


def draw_tested(ax: Axes, rows: pd.DataFrame, quantity: str, *, joined: bool) -> dict[str, Artist]:
    """Draw rows of ``inference.csv`` by layer; return the handles of the legend."""
    ax.axhline(0, color=style.MUTED, linewidth=0.7)
    round_ticks(ax.yaxis)
    if not len(rows) or rows["estimate"].isna().all():
        ax.set_yticks([0])
        ax.text(0.5, 0.6, "not tested", ha="center", color=style.MUTED, transform=ax.transAxes)
        return {}
    scale = 100.0 if quantity == "near_zero_difference" else 1.0
    layers = rows["layer_a"].to_numpy()
    estimate, low, high = (
        scale * rows[name].to_numpy(dtype=np.float64) for name in ("estimate", "ci_low", "ci_high")
    )
    if joined:
        ax.plot(layers, estimate, color=style.GRID, linewidth=1.2, zorder=1.5)
    marks = _draw_intervals(ax, layers, low, high, rows["approximate"].to_numpy(dtype=bool))
    significant = rows["p_adjusted"].to_numpy(dtype=np.float64) < ALPHA
    for chosen, face, word, gid in (
        (significant, style.INK, f"adjusted p < {ALPHA:g}", "significant"),
        (~significant, "white", "not significant", "rest"),
    ):
        if chosen.any():
            (marks[word],) = ax.plot(
                layers[chosen], estimate[chosen], linestyle="none", marker="o",
                markersize=4.2 * style.page_format().marks,
                markerfacecolor=face, markeredgecolor=style.INK, markeredgewidth=0.9,
                gid=f"{quantity}-{gid}", zorder=3,
            )  # fmt: skip
    _fit(ax, np.concatenate([estimate, low, high]))
    return marks


def _draw_intervals(
    ax: Axes, layers: NDArray[np.int64], low: Floats, high: Floats, approximate: NDArray[np.bool_]
) -> dict[str, Artist]:
    """Draw solid bars, dotted where coverage is approximate, none where intervals are withheld."""
    marks: dict[str, Artist] = {}
    known = np.isfinite(low)
    for chosen, word, gid, dashes in (
        (~approximate, "95 % interval", "interval", "solid"),
        (approximate, "95 % interval, approximate", "approximate", (0, (1.6, 1.0))),
    ):
        shown = chosen & known
        if shown.any():
            marks[word] = ax.vlines(
                layers[shown], low[shown], high[shown], color=style.INK, linewidth=1.2,
                linestyle=dashes, gid=gid,
            )  # fmt: skip
    if not known.all():
        marks["interval withheld: too few documents"] = Line2D([], [], linestyle="none")
    return marks


def _fit(ax: Axes, values: Floats) -> None:
    finite = np.append(values[np.isfinite(values)], 0.0)
    low, high = float(finite.min()), float(finite.max())
    if low == high:
        ax.set_ylim(-1, 1)
        ax.set_yticks([0])
        return
    spare = 0.1 * (high - low)
    ax.set_ylim(low - spare, high + spare)
    ax.yaxis.set_major_formatter(FuncFormatter(signed))


def draw_changes(
    ax: Axes, places: Floats, ends: Floats, estimate: Floats, p_adjusted: Floats
) -> None:
    """Draw changes against zero; ``ends`` is float64 (places, 2), the ends of the intervals."""
    color = style.LINE["after"]
    ax.axhline(0, color=style.MUTED, linewidth=0.7)
    ax.vlines(places, ends[:, 0], ends[:, 1], color=color, linewidth=1.2, alpha=0.6)
    ax.plot(places, estimate, color=color, linewidth=0.8, alpha=0.5)
    significant = p_adjusted < ALPHA
    for chosen, face in ((significant, color), (~significant, "white")):
        ax.plot(
            places[chosen], estimate[chosen], "o", markersize=4 * style.page_format().marks,
            color=color, markerfacecolor=face,
        )  # fmt: skip
