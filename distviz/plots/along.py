"""Where along the prompt filler tokens change something: layers by distance to the filler."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from distviz.filler_studies import ALPHA
from distviz.plots import style
from distviz.wording import distance_name, filler_name, layer_name, model_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

    from distviz.filler_studies import FillerStudy

__all__ = ["filler_positions"]

_MAPS = {
    "near_zero_difference": ("near-zero share, change in percentage points", 100.0),
    "log_variance_ratio": ("variance, log ratio", 1.0),
    "gini_difference": ("Gini coefficient of |x|, change", 1.0),
}
_COLOURS = LinearSegmentedColormap.from_list(
    "filler", [style.DARK["before"], style.LIGHT["before"], "#ffffff",
               style.LIGHT["after"], style.DARK["after"]]
)  # fmt: skip


def filler_positions(study: FillerStudy, count: int, site: str) -> Figure:
    """Draw the changes by layer and distance to the filler; below, the most changed layer.

    Every map has a scale of its own, symmetric about no change.
    """
    rows = study.positions
    rows = rows[(rows["filler_count"] == count) & (rows["site"] == site)]
    bins = rows[["distance_low", "distance_high"]].drop_duplicates().sort_values("distance_low")
    layer = study.most_changed(count, site)[0]
    with style.styled():
        figure = style.blank(7.2, 8.6)
        grid = figure.add_gridspec(
            len(_MAPS) + 1, 2, width_ratios=[1, 0.022], left=0.09, right=0.925, top=0.905,
            bottom=0.085, hspace=0.3, wspace=0.03,
        )  # fmt: skip
        axes = [figure.add_subplot(grid[row, 0]) for row in range(len(_MAPS) + 1)]
        for row, (quantity, (heading, scale)) in enumerate(_MAPS.items()):
            chosen = rows[rows["quantity"] == quantity]
            image = _draw_map(axes[row], chosen, bins, scale)
            figure.colorbar(image, cax=figure.add_subplot(grid[row, 1])).outline.set_visible(False)
            axes[row].set_title(heading, loc="left", pad=3, fontsize=8.5)
        near = rows[(rows["quantity"] == "near_zero_difference") & (rows["layer"] == layer)]
        _draw_curve(axes[-1], near, bins)
        heading = f"near-zero share in {layer_name(study.runs[0], layer)}, 95 % intervals"
        axes[-1].set_title(heading, loc="left", pad=3, fontsize=8.5)
        _label(axes, bins)
        figure.text(0.02, 0.972, model_name(study.runs[0]), fontsize=10.5, weight="bold")
        caption = f"{filler_name(study, count)} · site {site}"
        figure.text(0.02, 0.948, caption, fontsize=8, color=style.MUTED)
        note = f"dot, filled: adjusted p < {ALPHA:g} over prompts"
        figure.text(0.98, 0.948, note, fontsize=8, color=style.MUTED, ha="right")
    return figure


def _draw_map(ax: Axes, rows: pd.DataFrame, bins: pd.DataFrame, scale: float) -> AxesImage:
    """Draw one quantity: a row a layer, a column a bin; a dot where it is more than noise."""
    order = bins["distance_low"].tolist()
    values, p = (
        rows.pivot_table(name, "layer", "distance_low", dropna=False).reindex(columns=order)
        for name in ("estimate", "p_adjusted")
    )
    cells = scale * values.to_numpy(dtype=float)
    reach = float(np.nanmax(np.abs(cells), initial=0.0)) or 1.0
    layers = values.index.to_numpy()
    image = ax.imshow(
        np.ma.masked_invalid(cells), aspect="auto", cmap=_COLOURS, vmin=-reach, vmax=reach,
        interpolation="nearest", extent=(-0.5, len(order) - 0.5, len(layers) - 0.5, -0.5),
    )  # fmt: skip
    y, x = np.nonzero(p.to_numpy(dtype=float) < ALPHA)
    ax.plot(x, y, linestyle="none", marker="o", markersize=1.6, color=style.INK, gid="significant")
    ax.set_ylabel("layer")
    shown = MaxNLocator(6, integer=True).tick_values(0, len(layers) - 1)
    ticks = [int(tick) for tick in shown if 0 <= tick < len(layers)]
    ax.set_yticks(ticks, [str(layers[tick]) for tick in ticks])
    return image


def _draw_curve(ax: Axes, rows: pd.DataFrame, bins: pd.DataFrame) -> None:
    """Draw one layer with intervals; filled where it is more than noise."""
    ordered = rows.drop_duplicates("distance_low").set_index("distance_low")
    ordered = ordered.reindex(bins["distance_low"])
    estimate, low, high = (
        100 * ordered[name].to_numpy(dtype=float) for name in ("estimate", "ci_low", "ci_high")
    )
    places = np.arange(len(ordered))
    colour = style.LINE["after"]
    ax.axhline(0, color=style.MUTED, linewidth=0.7)
    ax.vlines(places, low, high, color=colour, linewidth=1.2, alpha=0.6)
    ax.plot(places, estimate, color=colour, linewidth=0.8, alpha=0.5)
    sure: NDArray[np.bool_] = ordered["p_adjusted"].to_numpy(dtype=float) < ALPHA
    for chosen, face in ((sure, colour), (~sure, "white")):
        ax.plot(
            places[chosen], estimate[chosen], "o", markersize=4, color=colour, markerfacecolor=face
        )
    ax.grid(axis="y", color=style.GRID, linewidth=0.6)
    ax.yaxis.set_major_locator(MaxNLocator(4))
    ax.set_ylabel("points")


def _label(axes: list[Axes], bins: pd.DataFrame) -> None:
    """Name the bins below, and mark the place of the filler."""
    names = [distance_name(row).replace(" to ", "\n") for row in bins.to_dict("records")]
    place = int((bins["distance_low"] < 0).sum()) - 0.5
    for ax in axes:
        ax.set_xlim(-0.5, len(names) - 0.5)
        ax.set_xticks(range(len(names)), names)
        ax.tick_params(labelbottom=ax is axes[-1])
        ax.axvline(place, color=style.INK, linewidth=1.4)
    axes[-1].set_xlabel("own tokens away from the filler (line): before, behind")
