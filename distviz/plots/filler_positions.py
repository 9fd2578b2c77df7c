"""Where along the prompt filler tokens change something: layers by distance to the filler."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from distviz.plots import style
from distviz.plots.headings import Heading, Line
from distviz.plots.layout import extra_title, fit_left, panel_title, panels, scale_beside, thinned
from distviz.results import distance_name, filler_name, layer_name, model_name
from distviz.stats import ALPHA

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

    from distviz.results import FillerStudy

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


def filler_positions(
    study: FillerStudy, count: int, site: str, *, width: str | None = None
) -> Figure:
    """Draw the changes by layer and distance to the filler; below, the most changed layer.

    Every map has a scale of its own, symmetric about no change. ``width`` is ``"single"`` or
    ``"double"``, the columns of a paper, or None, for a screen.
    """
    rows = study.positions
    rows = rows[(rows["filler_count"] == count) & (rows["site"] == site)]
    bins = rows[["distance_low", "distance_high"]].drop_duplicates().sort_values("distance_low")
    layer = study.most_changed(count, site)[0]
    curve = f"near-zero share in {layer_name(study.runs[0], layer)}, change in percentage points"
    with style.styled(width) as sheet:
        inches = sheet.or_width(7.2)
        titles = [*(heading for heading, _ in _MAPS.values()), curve]
        over = extra_title(titles, inches - 1.4)
        figure, axes = panels(
            _heading(study, count, site, inches),
            [1.0 if sheet.is_narrow else 1.56] * len(titles),
            width=inches,
            left=0.65,
            right=0.66,
            above=0.3 + over,
            gap=0.36 + over,
            below=0.72,
        )
        images = []
        for ax, (quantity, (heading, scale)) in zip(axes, _MAPS.items(), strict=False):
            images.append(_draw_map(ax, rows[rows["quantity"] == quantity], bins, scale))
            panel_title(ax, heading)
        near = rows[(rows["quantity"] == "near_zero_difference") & (rows["layer"] == layer)]
        _draw_curve(axes[-1], near, bins)
        panel_title(axes[-1], curve)
        fit_left(figure, axes)
        for ax, image in zip(axes, images, strict=False):
            scale_beside(ax, image)
        _label(axes, bins)
    return figure


def _heading(study: FillerStudy, count: int, site: str, width: float) -> Heading:
    prompts = (study.manifest.get("text") or {}).get("documents")
    over = f"{prompts:,} prompts" if isinstance(prompts, int) else "prompts"
    lines = [
        Line.title(model_name(study.runs[0])),
        Line(f"{filler_name(study, count)} · site {site}"),
        Line(f"means over {over}, 95 % intervals · dot, filled: adjusted p < {ALPHA:g}"),
    ]
    return Heading(lines, width)


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
            places[chosen],
            estimate[chosen],
            "o",
            markersize=4 * style.sheet().marks,
            color=colour,
            markerfacecolor=face,
        )
    ax.grid(axis="y", color=style.GRID, linewidth=0.6)
    ax.yaxis.set_major_locator(MaxNLocator(4))
    ax.set_ylabel("points")


def _label(axes: list[Axes], bins: pd.DataFrame) -> None:
    """Name the bins below, and mark the place of the filler."""
    names = [distance_name(row).replace(" to ", "\n") for row in bins.to_dict("records")]
    place = int((bins["distance_low"] < 0).sum()) - 0.5
    names = thinned(axes[-1], names)
    for ax in axes:
        ax.set_xlim(-0.5, len(names) - 0.5)
        ax.set_xticks(range(len(names)), names)
        ax.tick_params(labelbottom=ax is axes[-1])
        ax.axvline(place, color=style.INK, linewidth=1.4)
    axes[-1].set_xlabel("own tokens away from the filler (line)")
