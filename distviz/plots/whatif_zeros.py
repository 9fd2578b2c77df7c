"""What is kept where the smallest magnitudes are made zero: by share of zeros, and by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter

from distviz.errors import RequestError
from distviz.plots import style
from distviz.plots.headings import Heading, Line
from distviz.plots.layout import (
    extra_title,
    fit_left,
    legend_above,
    legend_height,
    panel_title,
    panels,
    place_apart,
)
from distviz.results import layer_axis, least_first, model_name, percent, place_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from distviz.results import WhatIf

__all__ = ["zeros_kept"]

_BY_LAYER = 4
"""How many of the levels are drawn by layer, spread over those asked for."""
_NAMED = 3
_TOLD_APART = 0.005
"""Curves that differ by less lie on each other."""
_LEVELS = ("#56a0c8", "#009e73", "#b8860b", "#d55e00")
"""Colours of the levels drawn by layer, after Okabe and Ito."""


def zeros_kept(asked: WhatIf, site: str = "act", *, width: str | None = None) -> Figure:
    """Draw the energy kept against the share of zeros, and both energy and threshold by layer.

    ``width`` is ``"single"`` or ``"double"``, the columns of a paper, or None, for a screen.

    Raises
    ------
    RequestError
        If no level of zeros was asked about at this site.
    """
    levels = asked.levels(site)
    if not levels:
        raise RequestError(f"the whatif folder holds no levels of sparsity at site '{site}'")
    chosen = _spread(levels)
    with style.styled(width) as sheet:
        inches = sheet.or_width(7.2)
        labels = [f"{100 * level:g} % zeros" for level in chosen] + asked.phases(site)[1:2]
        room = inches - 0.98
        over = extra_title((_CURVES_TITLE, _THRESHOLDS_TITLE), room)
        tall, low = (1.7, 0.85) if sheet.is_narrow else (2.7, 1.2)
        figure, axes = panels(
            _heading(asked, site, chosen, inches), [tall, low, low], width=inches, left=0.76,
            right=0.22,
            above=0.26 + over, gap=[0.66 + legend_height(labels, room), 0.34 + over],
        )  # fmt: skip
        curves, kept, thresholds = axes
        _draw_by_layer(kept, asked, site, chosen, "l2_kept")
        kept.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None, symbol=" %"))
        _draw_by_layer(thresholds, asked, site, chosen, "threshold")
        thresholds.set_xlabel(layer_axis(asked))
        kept.tick_params(labelbottom=False)
        _scale_thresholds(thresholds)
        _draw_curves(curves, asked, site)
        fit_left(figure, axes)
        panel_title(kept, "energy kept, by layer")
        legend_above(kept, *kept.get_legend_handles_labels(), columns=6)
        panel_title(curves, f"{_CURVES_TITLE}, {asked.phases(site)[0]}")
        _name_changed(curves)
        return figure


_CURVES_TITLE = "energy kept: sum of x² that is left"
_THRESHOLDS_TITLE = "threshold: largest magnitude made zero, by layer"


def _spread(levels: list[float]) -> list[float]:
    """Choose at most four, evenly, the largest among them."""
    step = max(len(levels) // _BY_LAYER, 1)
    return sorted(levels[::-1][::step][:_BY_LAYER])


def _heading(asked: WhatIf, site: str, chosen: list[float], width: float) -> Heading:
    level = min(chosen, key=lambda one: abs(one - 0.5))
    rows = asked.thinned(site, level, asked.phases(site)[0])
    least = least_first(rows, "l2_kept", _NAMED)
    named = (f"{place_name(row)} ({percent(row['l2_kept'])})" for row in least)
    words = f"At {100 * level:g} % zeros least energy is kept in layers {', '.join(named)}"
    lines = [
        Line.title(f"{model_name(asked)} · smallest magnitudes made zero · {site}"),
        Line(words, "panel", style.INK, "bold", gid="least"),
    ]
    return Heading(lines, width)


def _curves(asked: WhatIf, site: str, phase: str) -> dict[tuple[str, int], pd.DataFrame]:
    """Return the rows of each (stack, layer), by share of zeros."""
    rows = pd.concat([asked.thinned(site, level, phase) for level in asked.levels(site)])
    places = zip(rows["stack"], rows["layer"], strict=True)
    return {
        (stack, layer): rows[(rows["stack"] == stack) & (rows["layer"] == layer)]
        for stack, layer in dict.fromkeys(places)
    }


def _draw_curves(ax: Axes, asked: WhatIf, site: str) -> None:
    """One line a layer, coloured by depth; after, dashed, where it can be told apart."""
    first, *others = asked.phases(site)
    curves = _curves(asked, site, first)
    ends = [function(layer for _, layer in curves) for function in (min, max)]
    colors = ListedColormap(mpl.colormaps["viridis"](np.linspace(0, 0.92, 256)))
    scale = Normalize(ends[0], max(ends[1], ends[0] + 1))
    for (_, layer), rows in curves.items():
        ax.plot(
            rows["zeros"], rows["l2_kept"], color=colors(scale(layer)), linewidth=1.0,
            marker=".", markersize=3, gid=f"layer-{layer}-{first}",
        )  # fmt: skip
    for phase in others[:1]:
        _draw_changed(ax, curves, _curves(asked, site, phase), phase)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=None, symbol=" %"))
    ax.set_xlim(0, 1)
    ax.set_ylim(top=1.01)
    ax.grid(color=style.GRID, linewidth=0.6)
    ax.set_xlabel("values that are zero", labelpad=1)
    if ends[0] < ends[1]:
        _add_depth(ax, ScalarMappable(scale, colors))


def _draw_changed(
    ax: Axes,
    curves: dict[tuple[str, int], pd.DataFrame],
    changed: dict[tuple[str, int], pd.DataFrame],
    phase: str,
) -> None:
    """Draw the layers whose curve is another in a second phase."""
    label = f"{phase}, where more than {100 * _TOLD_APART:g} % apart"
    for place, rows in changed.items():
        same = curves.get(place)
        if same is not None and np.allclose(
            rows["l2_kept"], same["l2_kept"], atol=_TOLD_APART, rtol=0, equal_nan=True
        ):
            continue
        ax.plot(
            rows["zeros"], rows["l2_kept"], color=style.LINE["after"], linewidth=1.4,
            linestyle=(0, (4, 2)), label=label, gid=f"layer-{place[1]}-{phase}", zorder=4,
        )  # fmt: skip
        label = "_"
    if label == "_":
        ax.legend(loc="lower left", bbox_to_anchor=(0.0, 0.25), handlelength=1.6)


def _name_changed(ax: Axes) -> None:
    """Name the layers of the dashed curves at their ends, where there is room."""
    named = []
    for line in ax.get_lines():
        words = str(line.get_gid()).split("-")
        if words[0] == "layer" and line.get_linestyle() == "--":
            x, y = (np.asarray(data, float) for data in line.get_data())
            named.append((f"layer {words[1]}", (float(x[-1]), float(y[-1]))))
    place_apart(ax, named, style.DARK["after"])


def _add_depth(ax: Axes, mappable: ScalarMappable) -> None:
    place = ax.inset_axes((0.03, 0.09, 0.3, 0.035))
    bar = ax.figure.colorbar(mappable, cax=place, orientation="horizontal")
    bar.outline.set_visible(False)
    bar.ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    bar.ax.tick_params(labelsize=7.0, length=2, pad=1)
    bar.ax.set_title("layer", fontsize=style.size("note"), pad=2, loc="left", color=style.MUTED)


def _draw_by_layer(ax: Axes, asked: WhatIf, site: str, chosen: list[float], column: str) -> None:
    first, *others = asked.phases(site)
    for level, color in zip(chosen, _LEVELS[-len(chosen) :], strict=True):
        for phase in (first, *others[:1]):
            for _, rows in asked.thinned(site, level, phase).groupby("stack", sort=False):
                is_first = phase == first
                ax.plot(
                    rows["layer"], rows[column], color=color, gid=f"{column}-{level:g}-{phase}",
                    linewidth=1.2 if is_first else 0.0, marker="o" if is_first else "D",
                    markersize=(3 if is_first else 5) * style.sheet().marks, markeredgewidth=0.8,
                    markerfacecolor=color if is_first else "none",
                    label=f"{100 * level:g} % zeros" if is_first else "_",
                )  # fmt: skip
    for phase in others[:1]:
        ax.plot(
            [],
            [],
            "D",
            color=style.INK,
            markerfacecolor="none",
            label=phase,
            markersize=5 * style.sheet().marks,
        )
    layers = asked.table.loc[asked.table["site"] == site, "layer"]
    spare = 0.5 if layers.min() < layers.max() else 1.5
    ax.set_xlim(layers.min() - spare, layers.max() + spare)
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    ax.yaxis.set_major_locator(MaxNLocator(4))
    ax.grid(axis="y", color=style.GRID, linewidth=0.6)


def _scale_thresholds(ax: Axes) -> None:
    """Take a logarithmic scale where the thresholds differ by orders."""
    title = _THRESHOLDS_TITLE
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in ax.get_lines()])
    positive = values[np.isfinite(values) & (values > 0)]
    if positive.size and positive.max() > 10 * positive.min():
        ax.set_yscale("log", nonpositive="mask")
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
        title += " (log)"
    panel_title(ax, title)
