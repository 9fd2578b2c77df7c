"""What filler tokens do, by layer and by how many there are; drawn from the tables of a study."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from distviz.filler_studies import ALPHA
from distviz.plots import style
from distviz.wording import layer_name, model_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from distviz.filler_studies import FillerStudy

__all__ = ["filler_by_count", "filler_by_layer"]

_TITLES = {
    "near_zero_difference": "near-zero share, change in percentage points",
    "log_variance_ratio": "variance, log ratio",
    "log_l1_ratio": "L1, log ratio",
    "log_l2_ratio": "L2, log ratio",
    "gini_difference": "Gini coefficient of |x|, change",
}


def filler_by_layer(study: FillerStudy, count: int, site: str) -> Figure:
    """Draw every quantity by layer for one number of filler tokens, with 95 % intervals."""
    rows = study.table[(study.table["filler_count"] == count) & (study.table["site"] == site)]
    kept = study.attention
    kept = kept[kept["filler_count"] == count] if len(kept) else kept
    caption = f"{count} filler tokens against none · site {site}"
    return _panels(rows, kept, "layer", _title(study), caption)


def filler_by_count(study: FillerStudy, layer: int, site: str) -> Figure:
    """Draw every quantity of one layer by the number of filler tokens, with 95 % intervals."""
    rows = study.table[(study.table["layer"] == layer) & (study.table["site"] == site)]
    kept = study.attention
    kept = kept[kept["layer"] == layer] if len(kept) else kept
    caption = f"{layer_name(study.runs[0], layer)} by number of filler tokens · site {site}"
    return _panels(rows, kept, "filler_count", _title(study), caption)


def _title(study: FillerStudy) -> str:
    return f"{model_name(study.runs[0])} · filler “{study.manifest['filler']}”"


def _panels(rows: pd.DataFrame, kept: pd.DataFrame, axis: str, title: str, caption: str) -> Figure:
    with style.styled():
        n_panels = len(_TITLES) + bool(len(kept))
        figure = style.blank(7.2, 1.15 + 1.25 * n_panels)
        height = figure.get_figheight()
        grid = figure.add_gridspec(
            n_panels,
            1,
            left=0.12,
            right=0.975,
            top=1 - 0.75 / height,
            bottom=0.45 / height,
            hspace=0.42,
        )
        first = figure.add_subplot(grid[0])
        axes = [first]
        axes += [figure.add_subplot(grid[row], sharex=first) for row in range(1, n_panels)]
        for ax, (quantity, heading) in zip(axes, _TITLES.items(), strict=False):
            _draw_changes(ax, rows[rows["quantity"] == quantity], axis)
            ax.set_title(heading, loc="left", pad=3, fontsize=8.5, color=style.INK)
            if quantity == "near_zero_difference":
                ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None, symbol=""))
        if len(kept):
            axes[-1].plot(
                kept[axis], kept["attention_kept"], "o-", markersize=4, color=style.LINE["before"]
            )
            heading = "attention that the prompt's own tokens keep"
            axes[-1].margins(y=0.12)
            axes[-1].set_title(heading, loc="left", pad=3, fontsize=8.5, color=style.INK)
        for ax in axes:
            ax.grid(axis="y", color=style.GRID, linewidth=0.6)
            ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
            ax.yaxis.set_major_locator(MaxNLocator(4))
            ax.tick_params(labelbottom=ax is axes[-1])
        axes[-1].set_xlabel("layer" if axis == "layer" else "filler tokens")
        figure.text(0.02, 1 - 0.24 / height, title, fontsize=10.5, weight="bold")
        figure.text(0.02, 1 - 0.44 / height, caption, fontsize=8, color=style.MUTED)
        note = "filled: adjusted p < 0.05 over prompts"
        figure.text(0.975, 1 - 0.44 / height, note, fontsize=8, color=style.MUTED, ha="right")
        return figure


def _draw_changes(ax: Axes, rows: pd.DataFrame, axis: str) -> None:
    """Draw estimates with intervals; filled where significant."""
    places = rows[axis].to_numpy(dtype=float)
    middle = rows["estimate"].to_numpy(dtype=float)
    ends = rows[["ci_low", "ci_high"]].to_numpy(dtype=float)
    ax.axhline(0, color=style.MUTED, linewidth=0.7)
    ax.vlines(places, ends[:, 0], ends[:, 1], color=style.LINE["after"], linewidth=1.2, alpha=0.6)
    ax.plot(places, middle, color=style.LINE["after"], linewidth=0.8, alpha=0.5)
    is_sure = (rows["p_adjusted"] < ALPHA).to_numpy()
    for chosen, face in ((is_sure, style.LINE["after"]), (~is_sure, "white")):
        ax.plot(
            places[chosen],
            middle[chosen],
            "o",
            markersize=4,
            color=style.LINE["after"],
            markerfacecolor=face,
        )
    values = np.concatenate([middle, ends.ravel(), [0.0]])
    values = values[np.isfinite(values)]
    spare = 0.12 * (np.ptp(values) or 1.0)
    ax.set_ylim(values.min() - spare, values.max() + spare)
