"""Effects of filler tokens: by layer, by their number, and by distance to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from distviz.output import counted
from distviz.plots import layout, style
from distviz.plots.intervals import draw_changes
from distviz.plots.scales import (
    grid_lines,
    integer_ticks,
    percent_ticks,
    round_ticks,
    share_x_labels,
)
from distviz.results import distance_name, filler_name, layer_name, model_name
from distviz.stats import ALPHA

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

    from distviz.results import FillerStudy

_TITLES = {
    "near_zero_difference": "near-zero share, change in percentage points",
    "log_variance_ratio": "variance, log ratio",
    "log_l1_ratio": "L1, log ratio",
    "log_l2_ratio": "L2, log ratio",
    "gini_difference": "Gini coefficient of |x|, change",
}
_MAPS = {"near_zero_difference": 100.0, "log_variance_ratio": 1.0, "gini_difference": 1.0}
"""Quantities drawn by distance, and their factors."""
_NO_CHANGE = 0.001
"""Share of the largest change that counts as none."""
_COLORS = LinearSegmentedColormap.from_list(
    "filler", [style.DARK["before"], style.LIGHT["before"], "#ffffff",
               style.LIGHT["after"], style.DARK["after"]]
)  # fmt: skip


def filler_by_layer(
    study: FillerStudy, count: int, site: str, *, width: str | None = None
) -> Figure:
    """Draw every quantity by layer for one number of filler tokens, with 95 % intervals.

    ``width`` is ``"single"`` or ``"double"``, the columns of a paper, or None, for a screen.
    """
    chosen = {"filler_count": count, "site": site}
    caption = f"{counted(count, 'filler token')} against none · site {site}"
    return _changes(study, chosen, "layer", caption, "layer", width)


def filler_by_count(
    study: FillerStudy, layer: int, site: str, *, width: str | None = None
) -> Figure:
    """Draw every quantity of one layer by the number of filler tokens, with 95 % intervals.

    ``width`` is ``"single"`` or ``"double"``, the columns of a paper, or None, for a screen.
    """
    chosen = {"layer": layer, "site": site}
    caption = f"{layer_name(study.runs[0], layer)} by number of filler tokens · site {site}"
    return _changes(study, chosen, "filler_count", caption, "filler tokens", width)


def _prompts(study: FillerStudy) -> str:
    number = (study.manifest.get("text") or {}).get("documents")
    return counted(number, "prompt") if isinstance(number, int) else ""


def _select(table: pd.DataFrame, chosen: dict[str, Any]) -> pd.DataFrame:
    for column, value in chosen.items():
        if column in table:
            table = table[table[column] == value]
    return table


def _changes(
    study: FillerStudy,
    chosen: dict[str, Any],
    column: str,
    caption: str,
    axis: str,
    width: str | None,
) -> Figure:
    """Draw the chosen rows of a study by one of their columns, a panel for each quantity."""
    rows, kept = _select(study.table, chosen), _select(study.attention, chosen)
    title = f"{model_name(study.runs[0])} · filler “{study.manifest.get('filler', '')}”"
    captions = (caption, f"filled: adjusted p < {ALPHA:g} over prompts")
    with style.styled(width) as page:
        inches = page.or_width(7.2)
        heights = [0.7 if page.is_narrow else 0.93] * (len(_TITLES) + bool(len(kept)))
        figure, axes = layout.stacked(inches, heights)
        for ax, (quantity, heading) in zip(axes, _TITLES.items(), strict=False):
            _draw_quantity(ax, rows[rows["quantity"] == quantity], column)
            layout.panel_title(ax, heading)
            if quantity == "near_zero_difference":
                percent_ticks(ax.yaxis, "")
        if len(kept):
            axes[-1].plot(
                kept[column], kept["attention_kept"], "o-", markersize=4 * page.marks,
                color=style.LINE["before"],
            )  # fmt: skip
            axes[-1].margins(y=0.12)
            percent_ticks(axes[-1].yaxis)
            layout.panel_title(axes[-1], "attention that the prompt's own tokens keep")
        for ax in axes:
            if ax is not axes[0]:
                ax.sharex(axes[0])
            integer_ticks(ax)
            round_ticks(ax.yaxis)
        over = _prompts(study)
        share_x_labels(axes, f"{axis} (means over {over})" if over else axis)
        layout.arrange(figure, layout.titled(inches, title, *captions), heights)
        return figure


def _draw_quantity(ax: Axes, rows: pd.DataFrame, column: str) -> None:
    places, estimate, p_adjusted = (
        rows[name].to_numpy(dtype=float) for name in (column, "estimate", "p_adjusted")
    )
    ends = rows[["ci_low", "ci_high"]].to_numpy(dtype=float)
    draw_changes(ax, places, ends, estimate, p_adjusted)
    values = np.concatenate([estimate, ends.ravel(), [0.0]])
    values = values[np.isfinite(values)]
    spare = 0.12 * (np.ptp(values) or 1.0)
    ax.set_ylim(values.min() - spare, values.max() + spare)


def filler_positions(
    study: FillerStudy, count: int, site: str, *, width: str | None = None
) -> Figure:
    """Draw the changes by layer and distance to the filler; below, the most changed layer.

    Every map has its own scale, symmetric about no change. ``width`` is ``"single"`` or
    ``"double"``, the columns of a paper, or None, for a screen.
    """
    rows = _select(study.positions, {"filler_count": count, "site": site})
    is_causal = _unchanged_before(rows)
    if is_causal:
        rows = rows[rows["distance_low"] >= 0]
    bins = rows[["distance_low", "distance_high"]].drop_duplicates().sort_values("distance_low")
    layer = study.most_changed(count, site)[0]
    over = f"means over {_prompts(study) or 'prompts'}, 95 % intervals"
    captions = (
        f"{filler_name(study, count)} · site {site}",
        f"{over} · dot, filled: adjusted p < {ALPHA:g}",
        "tokens before the filler do not change and are left out" if is_causal else "",
    )
    with style.styled(width) as page:
        inches = page.or_width(7.2)
        heights = [1.0 if page.is_narrow else 1.56] * (len(_MAPS) + 1)
        figure, axes = layout.stacked(inches, heights)
        images = []
        for ax, (quantity, scale) in zip(axes, _MAPS.items(), strict=False):
            images.append(_draw_map(ax, rows[rows["quantity"] == quantity], bins, scale))
            layout.panel_title(ax, _TITLES[quantity])
        near = _select(rows, {"quantity": "near_zero_difference", "layer": layer})
        _draw_curve(axes[-1], near, bins)
        where = layer_name(study.runs[0], layer)
        layout.panel_title(axes[-1], f"near-zero share in {where}, change in percentage points")
        for ax, image in zip(axes, images, strict=False):
            layout.color_scale(ax, image)
        names = [distance_name(row).replace(" to ", "\n") for row in bins.to_dict("records")]
        filler = int((bins["distance_low"] < 0).sum()) - 0.5
        for ax in axes:
            ax.set_xlim(-0.5, len(names) - 0.5)
            ax.set_xticks(range(len(names)), names)
            if not is_causal:
                ax.axvline(filler, color=style.INK, linewidth=1.4)
        where = "behind the filler" if is_causal else "away from the filler (line)"
        share_x_labels(axes, f"own tokens {where}")
        heading = layout.titled(inches, model_name(study.runs[0]), *captions)
        layout.arrange(figure, heading, heights)
        axes[-1].set_xticks(range(len(names)), layout.thinned(axes[-1], names))
        return figure


def _unchanged_before(rows: pd.DataFrame) -> bool:
    """Return whether no quantity changes before the filler, as in causal models."""
    size = rows["estimate"].abs()
    is_before = rows["distance_low"] < 0
    if not is_before.any() or (rows.loc[is_before, "p_adjusted"] < ALPHA).any():
        return False
    before, whole = (part.groupby(rows["quantity"]).max() for part in (size[is_before], size))
    return bool((before.fillna(0) <= _NO_CHANGE * whole.fillna(0)).all())


def _draw_map(ax: Axes, rows: pd.DataFrame, bins: pd.DataFrame, scale: float) -> AxesImage:
    """Draw one quantity, a row per layer, a column per bin; dots mark significant changes."""
    order = bins["distance_low"].tolist()
    values, p = (
        rows.pivot_table(name, "layer", "distance_low", dropna=False).reindex(columns=order)
        for name in ("estimate", "p_adjusted")
    )
    cells = scale * values.to_numpy(dtype=float)
    reach = float(np.nanmax(np.abs(cells), initial=0.0)) or 1.0
    layers = values.index.to_numpy()
    image = ax.imshow(
        np.ma.masked_invalid(cells), aspect="auto", cmap=_COLORS, vmin=-reach, vmax=reach,
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
    """Draw one layer with intervals."""
    ordered = rows.drop_duplicates("distance_low").set_index("distance_low")
    ordered = ordered.reindex(bins["distance_low"])
    changes = 100 * ordered[["estimate", "ci_low", "ci_high"]].to_numpy(dtype=float)
    p_adjusted = ordered["p_adjusted"].to_numpy(dtype=float)
    draw_changes(ax, np.arange(float(len(ordered))), changes[:, 1:], changes[:, 0], p_adjusted)
    grid_lines(ax)
    round_ticks(ax.yaxis)
    ax.set_ylabel("points")
