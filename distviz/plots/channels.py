"""Channels of a run by layer: how large they are in order of size, and which ones are largest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm, Normalize

from distviz.errors import RequestError
from distviz.plots import layout, style
from distviz.plots.heatmaps import COST, ROW, Floats, draw_heatmap, sequential_scale
from distviz.plots.scales import layers_on_x, share_x_labels
from distviz.results import channels_before, layer_axis, model_name, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from distviz.results import Run

_RANKS = (0, 1, 2, 4, 9)
"""Channels of largest abs(x), from 0, that have a row of their own."""
_QUANTILES = (0.9, 0.75, 0.5, 0.25, 0.0)
"""Quantiles of the channels below them."""
_EACH, _NAMED = 3, 12
"""Largest channels of each layer that may be named, and how many are."""
_WIDE = 30.0
"""Ratio of ends from which a colour scale is logarithmic."""


def channels(run: Run, site: str = "act", *, width: str | None = None) -> Figure:
    """Draw the largest abs(x) of channels in order of size, and that of the largest ones, by layer.

    ``width`` is ``"single"`` or ``"double"``, the columns of a paper, or None, for a screen.

    Raises
    ------
    RequestError
        If the run has no channels at this site.
    """
    table = _by_layer(run, site)
    if table.empty:
        raise RequestError(f"the run has no channels at site '{site}'")
    layers = table.columns.to_numpy(dtype=np.int64)
    sizes = np.array([_in_order(column) for column in table.to_numpy(dtype=float).T]).T
    named = _largest(table)
    with style.styled(width) as page:
        inches = page.or_width(7.2)
        heights = [ROW * len(sizes), ROW * max(len(named), 2)]
        figure, (ordered, single) = layout.stacked(inches, heights)
        rows = [_rank_name(rank) for rank in _RANKS] + [_quantile_name(one) for one in _QUANTILES]
        _draw(ordered, sizes[::-1], rows[::-1], layers, "order")
        layout.panel_title(ordered, "largest |x| of a channel, channels in order of size")
        names = [str(channel) for channel in named.index]
        _draw(single, named.to_numpy(dtype=float)[::-1], names[::-1], layers, "named")
        single.set_ylabel("channel")
        layout.panel_title(single, "largest |x| of single channels, times that of the median")
        share_x_labels([ordered, single], layer_axis(run))
        phase = "before ARM" if run.manifest.get("arm") else ""
        heading = layout.titled(inches, f"{model_name(run)} · channels · {site}", phase)
        layout.arrange(figure, heading, heights)
        return figure


def _by_layer(run: Run, site: str) -> pd.DataFrame:
    """Return the largest abs(x) of each channel (row) in each layer (column); NaN where unknown.

    Of a model with several stacks or modules in a layer, the first.
    """
    rows = channels_before(run)
    rows = rows[rows["site"] == site] if len(rows) else rows
    if not len(rows):
        return pd.DataFrame()
    rows = rows[rows["stack"] == rows["stack"].iloc[0]]
    rows = rows.drop_duplicates(["layer", "channel"])
    table = rows.pivot_table(index="channel", columns="layer", values="absmax", dropna=False)
    known: pd.DataFrame = table.replace(np.inf, np.nan).dropna(axis=1, how="all")
    return known


def _in_order(sizes: Floats) -> list[float]:
    """Return the sizes at the ranks and quantiles of the figure; NaN where there are fewer."""
    known = np.sort(sizes[np.isfinite(sizes)])[::-1]
    ranks = [float(known[rank]) if rank < known.size else np.nan for rank in _RANKS]
    return [*ranks, *np.quantile(known, _QUANTILES).tolist()]


def _largest(table: pd.DataFrame) -> pd.DataFrame:
    """Return the channels of largest ratio to the median channel, and their ratios by layer."""
    ratios = table / table.median().where(table.median() > 0)
    peaks = {channel for layer in ratios for channel in ratios[layer].nlargest(_EACH).index}
    order = ratios.loc[sorted(peaks)].max(axis=1).sort_values(ascending=False, kind="stable")
    return ratios.loc[order.index[:_NAMED]]


def _draw(ax: Axes, values: Floats, rows: list[str], layers: NDArray[np.int64], gid: str) -> None:
    scale: Normalize = sequential_scale(values[values > 0])
    if scale.vmin and scale.vmax and scale.vmax > _WIDE * scale.vmin:
        scale = LogNorm(scale.vmin, scale.vmax)
    draw_heatmap(ax, values, rows, layers, scale, COST, [lambda one: number(one, 2)], gid=gid)
    layers_on_x(ax, layers)
    ax.grid(visible=False)


def _rank_name(rank: int) -> str:
    ordinal = f"{rank + 1}{('st', 'nd', 'rd')[rank] if rank < 3 else 'th'} "
    return f"{ordinal * (rank > 0)}largest"


def _quantile_name(share: float) -> str:
    return {0.5: "median", 0.0: "smallest"}.get(share, f"{share:.0%} quantile".replace("%", " %"))
