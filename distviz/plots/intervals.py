"""Estimates by layer with their intervals: filled where they are more than noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from distviz.plots import style
from distviz.stats import ALPHA

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

__all__ = ["draw_tested"]

"""A mark is filled where the adjusted p is below."""

Floats = NDArray[np.float64]


def draw_tested(ax: Axes, rows: pd.DataFrame, quantity: str, *, joined: bool) -> dict[str, Artist]:
    """Estimates with intervals, filled where the adjusted p is below ALPHA; returns the marks."""
    ax.axhline(0, color=style.MUTED, linewidth=0.7)
    ax.yaxis.set_major_locator(MaxNLocator(4))
    if not len(rows) or rows["estimate"].isna().all():
        ax.set_yticks([0])
        ax.text(
            0.5, 0.6, "not tested", ha="center", color=style.MUTED,
            transform=ax.transAxes,
        )  # fmt: skip
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
                markersize=4.2 * style.sheet().marks,
                markerfacecolor=face, markeredgecolor=style.INK, markeredgewidth=0.9,
                gid=f"{quantity}-{gid}", zorder=3,
            )  # fmt: skip
    _fit(ax, np.concatenate([estimate, low, high]))
    return marks


def _draw_intervals(
    ax: Axes, layers: NDArray[np.int64], low: Floats, high: Floats, approximate: NDArray[np.bool_]
) -> dict[str, Artist]:
    """Solid bars, or dotted where coverage is approximate; none where intervals are withheld."""
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
    ax.yaxis.set_major_formatter(
        FuncFormatter(lambda v, _: f"{v:+g}".replace("-", "−") if v else "0")
    )
