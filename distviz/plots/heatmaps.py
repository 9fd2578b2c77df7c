"""Heatmaps: cells with their numbers where these fit, a colour scale otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from distviz.plots import layout, style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh

MOST_LINES = 8
"""Panels with more curves than this show a heatmap, or a few of the curves."""
COST = "YlOrBr"
"""Colours where a large number is bad: large numbers are dark."""
LOSS = f"{COST}_r"
"""Colours where a small number is bad: small numbers are dark."""
GAIN = "Purples"
"""Colours where a large number is good: large numbers are dark."""
CHANGE = "PuOr"
"""Colours of a change: its middle is no change."""
ROW = 0.21
"""Height of a row in inches."""
_MISSING = "#eef0f2"
_SPARE = 0.36
"""Inches of a panel beside its cells and the labels of rows."""

Floats = NDArray[np.float64]


def draw_heatmap(
    ax: Axes,
    values: Floats,
    rows: Sequence[str],
    columns: NDArray[np.int64],
    scale: Normalize,
    colors: str,
    formats: Sequence[Callable[[float], str]] = (),
    share: float = 1.0,
    gid: str | None = None,
) -> QuadMesh:
    """Draw float64 (rows, columns) upwards, each cell centred at its place on the x axis.

    Parameters
    ----------
    ax
        The panel, before its layout.
    values
        NaN where nothing was measured: grey. Infinite values have the colour of the ends.
    rows
        Their labels.
    columns
        Whole numbers, ascending: the places of the columns, such as layers.
    scale, colors
        Matplotlib's norm and name of a colormap.
    formats
        Ways to write a number, the preferred one first. The first whose texts fit is used; if none
        fits, there is a colour scale beside the panel.
    share
        Part of the width of the page that the panel has.
    """
    places = np.arange(columns.min(), columns.max() + 1)
    cells = np.full((len(rows), len(places)), np.nan)
    cells[:, columns - places[0]] = values
    mesh = ax.pcolormesh(
        np.append(places, places[-1] + 1) - 0.5, np.arange(len(rows) + 1) - 0.5,
        np.ma.masked_invalid(np.clip(cells, scale.vmin, scale.vmax)), norm=scale, cmap=colors,
        gid=gid,
    )  # fmt: skip
    ax.set_facecolor(_MISSING)
    ax.set_yticks(range(len(rows)), rows)
    ax.tick_params(length=0)
    ax.spines[["left", "bottom"]].set_visible(False)
    widest = max(style.text_width(row, style.size("tick")) for row in rows)
    free = style.figure_of(ax).get_figwidth() * share - widest - _SPARE
    points = min(style.size("note"), 7.5)
    known = [value for value in cells.ravel().tolist() if not np.isnan(value)]
    for write in formats:
        texts = {write(value) for value in known}
        if all(style.text_width(text, points) <= 0.9 * free / len(places) for text in texts):
            _write(ax, mesh, cells, places, write, points)
            return mesh
    layout.color_scale(ax, mesh)
    return mesh


def _write(
    ax: Axes,
    mesh: QuadMesh,
    cells: Floats,
    places: NDArray[np.int64],
    write: Callable[[float], str],
    points: float,
) -> None:
    """Write each number into its cell, white on dark colours."""
    for row, column in zip(*np.nonzero(~np.isnan(cells)), strict=True):
        red, green, blue, _ = mesh.cmap(mesh.norm(np.clip(cells[row, column], *mesh.get_clim())))
        is_dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
        ax.text(
            places[column], row, write(float(cells[row, column])), ha="center", va="center",
            fontsize=points, color="white" if is_dark else style.INK, gid="cell",
        )  # fmt: skip


def outline(ax: Axes, column: float, row: int) -> None:
    """Outline a cell on its inner side, so that the line touches no text around the panel."""
    look: dict[str, Any] = {"edgecolor": style.INK, "linewidth": 2.4, "gid": "outline"}
    frame = ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, **look))
    frame.set_clip_path(frame)


def diverging_scale(values: Floats, least: float) -> Normalize:
    """Return a colour scale of changes, symmetric about zero, that reaches at least a value."""
    finite = np.abs(values[np.isfinite(values)])
    reach = max(float(finite.max(initial=0.0)), least)
    return Normalize(-reach, reach)


def sequential_scale(values: Floats) -> Normalize:
    """Return a colour scale from the smallest to the largest finite value."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return Normalize(low, high if high > low else low + 1)


def whole(value: float) -> str:
    """Format an integer; infinity has its sign."""
    return f"{value:.0f}".replace("-", "−") if np.isfinite(value) else "∞"


def by_layer(rows: pd.DataFrame, column: str, layers: NDArray[np.int64]) -> Floats:
    """Return the smallest value of each layer (of all stacks), float64 (layers,)."""
    least = rows.groupby("layer")[column].min()
    return least.reindex(layers).to_numpy(dtype=np.float64)
