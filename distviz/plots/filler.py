"""What filler tokens do, by layer and by how many there are; drawn from the tables of a study."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from distviz.plots import style
from distviz.plots.headings import Heading, Line
from distviz.plots.layout import extra_title, fit_left, panel_title, panels
from distviz.results import layer_name, model_name
from distviz.stats import ALPHA

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from distviz.results import FillerStudy

__all__ = ["filler_by_count", "filler_by_layer"]

_TITLES = {
    "near_zero_difference": "near-zero share, change in percentage points",
    "log_variance_ratio": "variance, log ratio",
    "log_l1_ratio": "L1, log ratio",
    "log_l2_ratio": "L2, log ratio",
    "gini_difference": "Gini coefficient of |x|, change",
}
_KEPT = "attention that the prompt's own tokens keep"


def filler_by_layer(
    study: FillerStudy, count: int, site: str, *, width: str | None = None
) -> Figure:
    """Draw every quantity by layer for one number of filler tokens, with 95 % intervals.

    ``width`` is ``"single"`` or ``"double"``, the columns of a paper, or None, for a screen.
    """
    rows = study.table[(study.table["filler_count"] == count) & (study.table["site"] == site)]
    kept = study.attention
    kept = kept[kept["filler_count"] == count] if len(kept) else kept
    caption = f"{count} filler tokens against none · site {site}"
    with style.styled(width):
        return _panels(rows, kept, "layer", _title(study), caption, _axis("layer", study))


def filler_by_count(
    study: FillerStudy, layer: int, site: str, *, width: str | None = None
) -> Figure:
    """Draw every quantity of one layer by the number of filler tokens, with 95 % intervals.

    ``width`` is ``"single"`` or ``"double"``, the columns of a paper, or None, for a screen.
    """
    rows = study.table[(study.table["layer"] == layer) & (study.table["site"] == site)]
    kept = study.attention
    kept = kept[kept["layer"] == layer] if len(kept) else kept
    caption = f"{layer_name(study.runs[0], layer)} by number of filler tokens · site {site}"
    with style.styled(width):
        axis = _axis("filler tokens", study)
        return _panels(rows, kept, "filler_count", _title(study), caption, axis)


def _title(study: FillerStudy) -> str:
    return f"{model_name(study.runs[0])} · filler “{study.manifest['filler']}”"


def _axis(word: str, study: FillerStudy) -> str:
    """Say what the axis counts, and over how many prompts the means are."""
    prompts = (study.manifest.get("text") or {}).get("documents")
    return f"{word} (means over {prompts:,} prompts)" if isinstance(prompts, int) else word


def _panels(
    rows: pd.DataFrame, kept: pd.DataFrame, column: str, title: str, caption: str, axis: str
) -> Figure:
    sheet = style.sheet()
    inches = sheet.or_width(7.2)
    titles = [*_TITLES.values(), *[_KEPT] * bool(len(kept))]
    over = extra_title(titles, inches - 0.95)
    lines = [Line.title(title), Line(caption), Line(f"filled: adjusted p < {ALPHA:g} over prompts")]
    figure, axes = panels(
        Heading(lines, inches),
        [0.7 if sheet.is_narrow else 0.93] * len(titles),
        width=inches,
        left=0.86,
        above=0.3 + over,
        gap=0.32 + over,
    )
    for ax, (quantity, heading) in zip(axes, _TITLES.items(), strict=False):
        _draw_changes(ax, rows[rows["quantity"] == quantity], column)
        panel_title(ax, heading)
        if quantity == "near_zero_difference":
            ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None, symbol=""))
    if len(kept):
        axes[-1].plot(
            kept[column],
            kept["attention_kept"],
            "o-",
            markersize=4 * style.sheet().marks,
            color=style.LINE["before"],
        )
        axes[-1].margins(y=0.12)
        panel_title(axes[-1], _KEPT)
    for ax in axes[1:]:
        ax.sharex(axes[0])
    for ax in axes:
        ax.grid(axis="y", color=style.GRID, linewidth=0.6)
        ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
        ax.yaxis.set_major_locator(MaxNLocator(4))
        ax.tick_params(labelbottom=ax is axes[-1])
    axes[-1].set_xlabel(axis)
    fit_left(figure, axes)
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
            markersize=4 * style.sheet().marks,
            color=style.LINE["after"],
            markerfacecolor=face,
        )
    values = np.concatenate([middle, ends.ravel(), [0.0]])
    values = values[np.isfinite(values)]
    spare = 0.12 * (np.ptp(values) or 1.0)
    ax.set_ylim(values.min() - spare, values.max() + spare)
