"""Zeros in a whatif folder: the energy that is left, and the thresholds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd

from distviz.errors import RequestError
from distviz.output import listed
from distviz.plots import layout, style
from distviz.plots.heatmaps import (
    LOSS,
    MOST_LINES,
    ROW,
    by_layer,
    draw_heatmap,
    sequential_scale,
    whole,
)
from distviz.plots.labels import label_points
from distviz.plots.scales import (
    layers_on_x,
    log_if_wide,
    percent_ticks,
    round_ticks,
    share_x_labels,
)
from distviz.plots.whatif_formats import layers_of
from distviz.results import (
    TOP,
    evenly,
    layer_axis,
    least_first,
    model_name,
    percent,
    place_name,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from distviz.results import WhatIf

_NAMED = 3
_LEVELS = ("#56a0c8", "#009e73", "#b8860b", "#d55e00")
"""Colours of the levels drawn by layer, after Okabe and Ito."""
_DIFFERENT = 0.005
"""Curves that differ by less coincide."""
_WORST_TO_BEST = ["#7f3b08", "#6a7178", "#b8860b"]


def zeros_kept(asked: WhatIf, site: str = "act", *, width: str | None = None) -> Figure:
    """Draw the energy kept against the share of zeros, by layer, and the threshold.

    Of many layers, those that keep least, median and most energy have curves.
    ``width`` is ``"single"`` or ``"double"``, the columns of a paper, or None, for a screen.

    Raises
    ------
    RequestError
        If the folder has no level of zeros at this site.
    """
    levels = asked.levels(site)
    if not levels:
        raise RequestError(f"the whatif folder holds no levels of sparsity at site '{site}'")
    layers = layers_of(asked, site)
    first, *others = asked.phases(site)
    with style.styled(width) as page:
        inches = page.or_width(7.2)
        high, low = (1.7, 0.85) if page.is_narrow else (2.4, 1.2)
        map_height = max(0.8 * ROW * len(levels), 0.4)
        heights = [high, map_height, map_height, low]
        figure, (curves, kept, rest, thresholds) = layout.stacked(inches, heights)
        named = _draw_curves(curves, asked, site)
        phase = f", {first}" * bool(others)
        layout.panel_title(curves, f"energy kept: sum of x² that is left{phase}")
        _draw_kept([kept, rest], asked, site, layers)
        layout.panel_title(kept, f"energy kept by layer, %{phase}")
        layout.panel_title(rest, f"the same without {TOP}")
        _draw_thresholds(thresholds, asked, site, sorted(evenly(levels, len(_LEVELS))))
        for ax in (kept, rest, thresholds):
            layers_on_x(ax, layers)
        share_x_labels([kept, rest, thresholds], layer_axis(asked))
        layout.arrange(figure, _zeros_heading(asked, site, inches), heights)
        for color, labels in named.items():
            label_points(curves, labels, color)
        return figure


def _draw_kept(axes: list[Axes], asked: WhatIf, site: str, layers: NDArray[np.int64]) -> None:
    """Draw the energy kept, and that without the largest values, on one scale of colours."""
    levels, phase = asked.levels(site), asked.phases(site)[0]
    columns = ("l2_kept", "l2_kept_rest")
    shares = 100 * np.array(
        [
            [by_layer(asked.thinned(site, one, phase, by), by, layers) for one in levels]
            for by in columns
        ]
    )
    for ax, values, gid in zip(axes, shares, ("kept", "rest"), strict=True):
        draw_heatmap(
            ax, values, [f"{100 * level:g} %" for level in levels], layers,
            sequential_scale(shares), LOSS, [lambda share: f"{share:.1f}", whole], gid=gid,
        )  # fmt: skip
        ax.set_ylabel("zeros")
        ax.grid(visible=False)


def _middle(asked: WhatIf, site: str) -> float:
    """Return the level nearest to a half."""
    return min(asked.levels(site), key=lambda one: abs(one - 0.5))


def _zeros_heading(asked: WhatIf, site: str, width: float) -> layout.Heading:
    level = _middle(asked, site)
    rows = asked.thinned(site, level, asked.phases(site)[0])
    least = least_first(rows, "l2_kept", _NAMED)
    named = [f"{place_name(row)} ({percent(row['l2_kept'])})" for row in least]
    text = ""
    if named:
        where = listed("layer", ", ".join(named))
        text = f"At {100 * level:g} % zeros least energy is kept in {where}"
    lines = [
        layout.Line.title(f"{model_name(asked)} · smallest magnitudes made zero · {site}"),
        layout.Line(text, "panel", style.INK, "bold", gid="least"),
    ]
    return layout.Heading(lines, width)


Place = tuple[str, int]
Labels = dict[str, list[tuple[str, list[tuple[float, float]]]]]
"""By colour: names and the points where they may stand."""


def _curves(asked: WhatIf, site: str, phase: str) -> dict[Place, pd.DataFrame]:
    """Return the rows of each (stack, layer), by share of zeros, without layers of NaN."""
    rows = pd.concat([asked.thinned(site, level, phase) for level in asked.levels(site)])
    rows = rows[rows["l2_kept"].notna()]
    places = zip(rows["stack"].tolist(), rows["layer"].tolist(), strict=True)
    return {
        (stack, layer): rows[(rows["stack"] == stack) & (rows["layer"] == layer)]
        for stack, layer in dict.fromkeys(places)
    }


def _chosen(curves: dict[Place, pd.DataFrame]) -> dict[Place, str]:
    """Name the layers that are drawn: all, or those of least, median and most energy of many."""
    if len(curves) <= MOST_LINES:
        return {place: _layer(place) for place in curves}
    means = {place: float(rows["l2_kept"].mean()) for place, rows in curves.items()}
    ranked = sorted(means, key=lambda place: means[place])
    picked = zip(("least", "median", "most"), (0, len(ranked) // 2, -1), strict=True)
    return {ranked[index]: f"{word}: {_layer(ranked[index])}" for word, index in picked}


def _layer(place: Place) -> str:
    return f"layer {place_name({'stack': place[0], 'layer': place[1]})}"


def _draw_curves(ax: Axes, asked: WhatIf, site: str) -> Labels:
    """Draw a line per chosen layer; after ARM, dashed, where it differs most; return names."""
    first, *others = asked.phases(site)
    curves = _curves(asked, site, first)
    chosen = _chosen(curves)
    named: Labels = {}
    shades = mpl.colormaps["viridis"](np.linspace(0, 0.85, max(len(chosen), 2)))
    few = len(chosen) == len(curves)
    colors = [mpl.colors.to_hex(shade) for shade in shades] if few else _WORST_TO_BEST
    for color, (place, name) in zip(colors, chosen.items(), strict=False):
        _draw_curve(ax, curves[place], named, name, color, gid=f"layer-{place[1]}-{first}")
    for phase in others[:1]:
        after = _curves(asked, site, phase)
        moved = {place: _distance(rows, curves.get(place)) for place, rows in after.items()}
        most = sorted(moved, key=lambda place: -moved[place])[: len(chosen) if few else 1]
        for place in sorted(place for place in most if moved[place] > _DIFFERENT):
            if place not in chosen:
                look = {"color": style.LINE["before"], "gid": f"layer-{place[1]}-{first}"}
                _draw_curve(ax, curves[place], named, f"{_layer(place)}, {first}", **look)
            _draw_curve(
                ax, after[place], named, f"{_layer(place)}, {phase}", style.LINE["after"],
                gid=f"layer-{place[1]}-{phase}", linestyle=(0, (4, 2)), linewidth=1.4, zorder=4,
            )  # fmt: skip
    for axis in (ax.xaxis, ax.yaxis):
        percent_ticks(axis)
    ax.margins(x=0.04, y=0.08)
    ax.grid(color=style.GRID, linewidth=0.6)
    ax.set_xlabel("values that are zero", labelpad=1)
    return named


def _draw_curve(
    ax: Axes, rows: pd.DataFrame, named: Labels, name: str, color: str, **look: Any
) -> None:
    """Draw one curve and note where its label may stand: at its end, or before."""
    x, y = (rows[column].to_numpy(dtype=np.float64) for column in ("zeros", "l2_kept"))
    shown: dict[str, Any] = {"linewidth": 1.1, "marker": ".", "markersize": 3} | look
    ax.plot(x, y, color=color, **shown)
    points = list(zip(x.tolist()[::-1], y.tolist()[::-1], strict=True))
    named.setdefault(color, []).append((name, points[: len(points) // 2 + 1]))


def _distance(rows: pd.DataFrame, others: pd.DataFrame | None) -> float:
    """Return the largest difference of the energy kept, 1 if the other curve is missing."""
    if others is None or len(rows) != len(others):
        return 1.0
    return float(np.abs(rows["l2_kept"].to_numpy() - others["l2_kept"].to_numpy()).max())


def _draw_thresholds(ax: Axes, asked: WhatIf, site: str, chosen: list[float]) -> None:
    """Draw a line per level by layer; hollow marks after ARM."""
    first, *others = asked.phases(site)
    marks = style.page_format().marks
    hollow: dict[str, Any] = {
        "marker": "D",
        "markersize": 5 * marks,
        "markerfacecolor": "none",
        "markeredgewidth": 0.8,
        "linewidth": 0.0,
    }
    for level, color in zip(chosen, _LEVELS[-len(chosen) :], strict=True):
        filled: dict[str, Any] = {"marker": "o", "markersize": 3 * marks, "linewidth": 1.2}
        filled["label"] = f"{100 * level:g} % zeros"
        before = asked.thinned(site, level, first)
        for _, rows in before.groupby("stack", sort=False):
            ax.plot(
                rows["layer"], rows["threshold"], color=color, gid=f"threshold-{level:g}-{first}",
                **filled,
            )  # fmt: skip
        for phase in others[:1]:
            both = before.merge(asked.thinned(site, level, phase), on=["stack", "layer"])
            ratio = both["threshold_y"] / both["threshold_x"]
            moved = both[(ratio - 1).abs() > _DIFFERENT]
            ax.plot(
                moved["layer"], moved["threshold_y"], color=color,
                gid=f"threshold-{level:g}-{phase}", **hollow,
            )  # fmt: skip
    for phase in others[:1]:
        ax.plot([], [], color=style.INK, label=f"{phase}, where it differs", **hollow)
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in ax.get_lines()])
    is_log = log_if_wide(ax, values, span=10)
    if not is_log:
        round_ticks(ax.yaxis)
    layout.panel_title(ax, "threshold: largest magnitude made zero" + " (log)" * is_log)
    layout.legend_above(ax, *ax.get_legend_handles_labels())
