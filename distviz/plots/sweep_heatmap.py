"""The heatmaps of a sweep: a cell a setting, by its band and its percentile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm, Normalize
from numpy.typing import NDArray

from distviz.plots import style
from distviz.plots.headings import Heading
from distviz.plots.layout import (
    extra_title,
    panel_title,
    room_of,
    scale_beside,
    shrink_for_scale,
    thinned,
)
from distviz.plots.text_fit import text_width
from distviz.results import band_names, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh

__all__ = ["heatmap", "limits", "map_places", "mark"]

Place = tuple[float, float, float]
"""Left, top and height of a panel, in inches from the upper left corner."""
_MAP_NAMES = {"near_zero_removed": "near-zero removed, percentage points", "kl": "KL, nats"}


def map_places(
    blocks: list[tuple[str, pd.DataFrame]], heading: Heading, columns: int, width: float
) -> tuple[list[Place], float]:
    """Return the places of the heatmaps, two a block, and their width."""
    cells = [cells_of(part) for _, part in blocks]
    left = 0.2 + max(text_width(word, style.size("tick")) for one in cells for word in one.rows)
    each = width / columns - left - 0.16
    titles = [f"{name}{where}" for where, _ in blocks for name in _MAP_NAMES.values()]
    above = 0.22 + extra_title(titles, each)
    y, places = heading.height + 0.1, []
    for one in cells:
        high = 0.3 * max(len(one.rows), 2) if columns == 2 else 0.22 * max(len(one.rows), 2)
        for index in range(2):
            if index == 0 or columns == 1:
                y += above
            places.append((left + (index * width / 2 if columns == 2 else 0.0), y, high))
            if columns == 1 or index == 1:
                y += high + 0.42
    return places, each


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


def cells_of(part: pd.DataFrame) -> Cells:
    bands = band_names(part)
    rows, percentiles = list(dict.fromkeys(bands)), part["p1"].tolist()
    columns = sorted(set(percentiles))
    places = {
        int(index): (rows.index(band), columns.index(p1))
        for index, band, p1 in zip(part.index, bands, percentiles, strict=True)
    }
    return Cells(rows, [f"{p1:g}" for p1 in columns], places)


def limits(table: pd.DataFrame) -> list[Normalize]:
    """Return the scales of the colours: what is removed, about zero; KL, logarithmic."""
    removed, kl = table["near_zero_removed"].abs().max(), table["kl"]
    positive = kl[kl > 0]
    low, high = (positive.min(), positive.max()) if len(positive) else (1e-6, 1.0)
    return [
        Normalize(-removed or -1, removed or 1),
        LogNorm(low / 1.5, high * 1.5 if high > low else high * 10),
    ]


def heatmap(ax: Axes, part: pd.DataFrame, quantity: str, scale: Normalize, where: str) -> None:
    """Draw one quantity of one block; ``where`` tells the block from others."""
    cells = cells_of(part)
    rows, columns = cells.rows, cells.columns
    values = np.full((len(rows), len(columns)), np.nan)
    for place, value in zip(cells.places.values(), part[quantity].tolist(), strict=True):
        values[place] = value
    colors = "PuOr" if quantity == "near_zero_removed" else "YlOrBr"
    image = ax.pcolormesh(
        np.arange(len(columns) + 1), np.arange(len(rows) + 1), values, norm=scale, cmap=colors
    )
    _write_cells(ax, image, values, quantity)
    ax.set_xticks(np.arange(len(columns)) + 0.5, thinned(ax, columns))
    ax.set_yticks(np.arange(len(rows)) + 0.5, rows)
    ax.tick_params(length=0)
    ax.set_xlabel("p1", labelpad=1)
    panel_title(ax, f"{_MAP_NAMES[quantity]}{where}")
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)


def _write_cells(ax: Axes, image: QuadMesh, values: NDArray[np.float64], quantity: str) -> None:
    """Write the numbers into their cells, or a scale beside where they are too wide."""
    points = min(style.size("note"), 7.5)
    texts = {
        (int(row), int(column)): f"{100 * values[row, column]:.1f}"
        if quantity == "near_zero_removed"
        else number(values[row, column], 2)
        for row, column in np.argwhere(np.isfinite(values))
    }
    width = room_of(ax)
    widest = max((text_width(text, points) for text in texts.values()), default=0.0)
    if widest > 0.95 * width / values.shape[1]:
        shrink_for_scale(ax)
        scale_beside(ax, image)
        return
    for (row, column), text in texts.items():
        red, green, blue, _ = image.cmap(image.norm(values[row, column]))
        dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
        ax.text(
            column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=points,
            color="white" if dark else style.INK,
        )  # fmt: skip


def mark(pair: list[Axes], part: pd.DataFrame, row: int | None) -> None:
    """Outline the recommended cell."""
    if row is None or row not in part.index:
        return
    from matplotlib.patches import Rectangle

    corner = cells_of(part).places[row][::-1]
    for ax in pair:
        ax.add_patch(
            Rectangle(corner, 1, 1, fill=False, edgecolor=style.INK, linewidth=1.8, clip_on=False)
        )
