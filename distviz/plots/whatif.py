"""What a folder of `distviz whatif` shows: losses of number formats, and energy under sparsity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.ticker import MaxNLocator

from distviz.errors import RequestError
from distviz.output import listed
from distviz.plots import layout, style
from distviz.plots.scales import layers_on_x, log_if_wide, percent_ticks
from distviz.results import (
    arm_settings,
    change_name,
    decibels,
    layer_axis,
    least_first,
    model_name,
    percent,
    place_name,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from distviz.results import WhatIf

_LOOKS: dict[str, dict[str, Any]] = {
    "none": {"color": "#009e73", "marker": "^"},
    "max": {"color": "#8a929a", "marker": "s"},
    "percentile": {"color": "#c38bb0", "marker": "v"},
    "mse": {"color": style.LINE["before"], "marker": "o"},
}
"""Colours of Okabe and Ito, and a marker, for each range."""
_ORDER = ("mse", "max", "percentile", "none")
"""The first of these that was requested names the worst layers and is drawn after ARM, too."""
_FORMATS_CAPTION = (
    "signal to noise (SQNR, dB) of the quantized values by layer, by how the range is chosen"
)
_NAMED = 3
_MANY = 48
_LEVELS = ("#56a0c8", "#009e73", "#b8860b", "#d55e00")
"""Colours of the levels drawn by layer, after Okabe and Ito."""
_DIFFERENT = 0.005
"""Curves that differ by less coincide."""


def format_losses(asked: WhatIf, site: str = "act", *, width: str | None = None) -> Figure:
    """Draw the SQNR of every format by layer, a line for each range, before and after ARM.

    ``width`` is ``"single"`` or ``"double"``, the columns of a paper, or None, for a screen.

    Raises
    ------
    RequestError
        If the folder has no format at this site.
    """
    kinds = asked.kinds(site)
    if not kinds:
        raise RequestError(f"the whatif folder holds no number formats at site '{site}'")
    formats = list(dict.fromkeys(name for name, _ in kinds))
    with style.styled(width) as page:
        columns = 1 if page.is_narrow else min(len(formats), 2)
        inches = page.or_width(4.1 * columns)
        heights = [0.85 if page.is_narrow else 1.24] * -(-len(formats) // columns)
        figure, cells = layout.grid(inches, heights, columns)
        marks: dict[str, Artist] = {}
        panels, titles = [], []
        for index, name in enumerate(formats):
            ax = figure.add_subplot(cells[index])
            ranges = [range_ for one, range_ in kinds if one == name]
            titles.append(_draw_format(ax, asked, site, name, ranges, marks))
            layout.panel_title(ax, name)
            ax.set_xlabel(layer_axis(asked) if index >= len(formats) - columns else "")
            ax.set_ylabel("SQNR, dB" if index % columns == 0 else "")
            panels.append(ax)
        layout.legend_in_figure(figure, list(marks.values()), list(marks), "outside upper left")
        words = [_FORMATS_CAPTION]
        if arm_settings(asked) and "after" in asked.phases(site):
            words.append(f"{change_name(asked)} {arm_settings(asked)}")
        title = f"{model_name(asked)} · number formats · {site}"
        layout.arrange(figure, layout.titled(inches, title, " · ".join(words)), heights)
        for ax, name, worst in zip(panels, formats, titles, strict=True):
            ax.set_title(name, loc="left", pad=3, weight="bold")
            _name_worst(ax, name, worst)
        return figure


def _draw_format(
    ax: Axes, asked: WhatIf, site: str, name: str, ranges: list[str], marks: dict[str, Artist]
) -> list[str]:
    """Draw one format, add the handles of the legend, and return names of the worst layers."""
    first, *others = asked.phases(site)
    main = next(range_ for range_ in _ORDER if range_ in ranges)
    for range_ in ranges:
        rows = asked.losses(site, name, range_, first)
        marks[_label(asked, range_)] = _line(
            ax, rows, gid=f"{name}-{range_}-{first}", **_LOOKS[range_]
        )
    for phase in others[:1]:
        rows = asked.losses(site, name, main, phase)
        hollow = {"markerfacecolor": "none", "markersize": 5.2, "linewidth": 0, "marker": "D"}
        hollow["color"] = style.LINE.get(phase, style.INK)
        marks[f"{phase}, {_label(asked, main)}"] = _line(
            ax, rows, gid=f"{name}-{main}-{phase}", **hollow
        )
    worst = least_first(asked.losses(site, name, main, first), "sqnr_db", _NAMED)
    for row in worst:
        ax.axvline(row["layer"], color=style.BAND, linewidth=4, alpha=0.55, zorder=0.3, gid="worst")
    layers_on_x(ax, _layers(asked, site))
    ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.margins(y=0.1)
    return [f"{place_name(row)} ({decibels(row['sqnr_db'])})" for row in worst]


def _layers(asked: WhatIf, site: str) -> Any:
    return asked.table.loc[asked.table["site"] == site, "layer"].to_numpy()


def _name_worst(ax: Axes, title: str, named: list[str]) -> None:
    """Name the layers that lose most, as many as fit beside the title."""
    points = style.size("tick")
    free = layout.width_of(ax) - style.text_width(title, style.size("panel"), "bold") - 0.1
    for number in range(len(named), 0, -1):
        text = f"worst {listed('layer', ', '.join(named[:number]))}"
        if style.text_width(text, points) <= free:
            ax.set_title(text, loc="right", pad=3, fontsize=points)
            return


def _label(asked: WhatIf, range_: str) -> str:
    percentile = f"{asked.manifest.get('percentile'):g}th percentile"
    return {
        "none": "no scale",
        "max": "by maximum",
        "percentile": f"by {percentile}",
        "mse": "by least error",
    }[range_]


def _line(ax: Axes, rows: pd.DataFrame, **look: Any) -> Artist:
    """Draw one line for each stack; lossless and undefined values are left out."""
    handle: Artist | None = None
    for _, part in rows.groupby("stack", sort=False):
        values = part["sqnr_db"].to_numpy(dtype=np.float64)
        shown = {"linewidth": 1.2, "markersize": 3.2 if len(part) <= _MANY else 1.8} | look
        shown["markersize"] *= style.page_format().marks
        (handle,) = ax.plot(
            part["layer"], np.where(np.isfinite(values), values, np.nan), **shown, zorder=3
        )
    if handle is None:
        (handle,) = ax.plot([], [], **look)
    return handle


def zeros_kept(asked: WhatIf, site: str = "act", *, width: str | None = None) -> Figure:
    """Draw the energy kept against the share of zeros, and energy and threshold by layer.

    ``width`` is ``"single"`` or ``"double"``, the columns of a paper, or None, for a screen.

    Raises
    ------
    RequestError
        If the folder has no level of zeros at this site.
    """
    levels = asked.levels(site)
    if not levels:
        raise RequestError(f"the whatif folder holds no levels of sparsity at site '{site}'")
    chosen = _spread(levels)
    with style.styled(width) as page:
        inches = page.or_width(7.2)
        heights = [1.7, 0.85, 0.85] if page.is_narrow else [2.7, 1.2, 1.2]
        figure, (curves, kept, thresholds) = layout.stacked(inches, heights)
        _draw_by_layer(kept, asked, site, chosen, "l2_kept")
        percent_ticks(kept.yaxis)
        kept.tick_params(labelbottom=False)
        layout.panel_title(kept, "energy kept, by layer")
        layout.legend_above(kept, *kept.get_legend_handles_labels())
        _draw_by_layer(thresholds, asked, site, chosen, "threshold")
        thresholds.set_xlabel(layer_axis(asked))
        lines = [np.asarray(line.get_ydata(), float) for line in thresholds.get_lines()]
        is_log = log_if_wide(thresholds, np.concatenate(lines), span=10)
        title = "threshold: largest magnitude made zero, by layer"
        layout.panel_title(thresholds, title + " (log)" * is_log)
        layout.panel_title(curves, f"energy kept: sum of x² that is left, {asked.phases(site)[0]}")
        changed = _draw_curves(curves, asked, site)
        layout.arrange(figure, _zeros_heading(asked, site, chosen, inches), heights)
        layout.label_points(curves, changed, style.DARK["after"])
        return figure


def _spread(levels: list[float]) -> list[float]:
    """Choose at most as many levels as there are colours, evenly, the largest among them."""
    step = max(len(levels) // len(_LEVELS), 1)
    return sorted(levels[::-1][::step][: len(_LEVELS)])


def _zeros_heading(asked: WhatIf, site: str, chosen: list[float], width: float) -> layout.Heading:
    level = min(chosen, key=lambda one: abs(one - 0.5))
    rows = asked.thinned(site, level, asked.phases(site)[0])
    least = least_first(rows, "l2_kept", _NAMED)
    named = (f"{place_name(row)} ({percent(row['l2_kept'])})" for row in least)
    text = f"At {100 * level:g} % zeros least energy is kept in {listed('layer', ', '.join(named))}"
    lines = [
        layout.Line.title(f"{model_name(asked)} · smallest magnitudes made zero · {site}"),
        layout.Line(text, "panel", style.INK, "bold", gid="least"),
    ]
    return layout.Heading(lines, width)


def _curves(asked: WhatIf, site: str, phase: str) -> dict[tuple[str, int], pd.DataFrame]:
    """Return the rows of each (stack, layer), by share of zeros."""
    rows = pd.concat([asked.thinned(site, level, phase) for level in asked.levels(site)])
    places = zip(rows["stack"], rows["layer"], strict=True)
    return {
        (stack, layer): rows[(rows["stack"] == stack) & (rows["layer"] == layer)]
        for stack, layer in dict.fromkeys(places)
    }


def _draw_curves(ax: Axes, asked: WhatIf, site: str) -> list[tuple[str, tuple[float, float]]]:
    """Draw one line for each layer, coloured by depth; after ARM, dashed, where it differs.

    Returns names and ends of the dashed lines.
    """
    first, *others = asked.phases(site)
    curves = _curves(asked, site, first)
    low, high = (function(layer for _, layer in curves) for function in (min, max))
    colors = ListedColormap(mpl.colormaps["viridis"](np.linspace(0, 0.92, 256)))
    scale = Normalize(low, max(high, low + 1))
    for (_, layer), rows in curves.items():
        ax.plot(
            rows["zeros"], rows["l2_kept"], color=colors(scale(layer)), linewidth=1.0,
            marker=".", markersize=3, gid=f"layer-{layer}-{first}",
        )  # fmt: skip
    named = []
    for phase in others[:1]:
        for place, rows in _curves(asked, site, phase).items():
            same = curves.get(place)
            if same is not None and np.allclose(
                rows["l2_kept"], same["l2_kept"], atol=_DIFFERENT, rtol=0, equal_nan=True
            ):
                continue
            (line,) = ax.plot(
                rows["zeros"], rows["l2_kept"], color=style.LINE["after"], linewidth=1.4,
                linestyle=(0, (4, 2)), gid=f"layer-{place[1]}-{phase}", zorder=4,
            )  # fmt: skip
            end = (float(rows["zeros"].iloc[-1]), float(rows["l2_kept"].iloc[-1]))
            named.append((f"layer {place[1]}", end))
        if named:
            label = f"{phase}, where the difference exceeds {100 * _DIFFERENT:g} %"
            layout.legend_above(ax, [line], [label])
    for axis in (ax.xaxis, ax.yaxis):
        percent_ticks(axis)
    ax.set_xlim(0, 1)
    ax.set_ylim(top=1.01)
    ax.grid(color=style.GRID, linewidth=0.6)
    ax.set_xlabel("values that are zero", labelpad=1)
    if low < high:
        _add_depth(ax, ScalarMappable(scale, colors))
    return named


def _add_depth(ax: Axes, mappable: ScalarMappable) -> None:
    """Put the colour scale of the layers into the panel."""
    bar = style.figure_of(ax).colorbar(
        mappable, cax=ax.inset_axes((0.03, 0.09, 0.3, 0.035)), orientation="horizontal"
    )
    bar.outline.set_visible(False)
    bar.ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    bar.ax.tick_params(labelsize=7.0, length=2, pad=1)
    bar.ax.set_title("layer", fontsize=style.size("note"), pad=2, loc="left", color=style.MUTED)


def _draw_by_layer(ax: Axes, asked: WhatIf, site: str, chosen: list[float], column: str) -> None:
    first, *others = asked.phases(site)
    marks = style.page_format().marks
    hollow: dict[str, Any] = {
        "marker": "D",
        "markersize": 5 * marks,
        "markerfacecolor": "none",
        "linewidth": 0.0,
    }
    for level, color in zip(chosen, _LEVELS[-len(chosen) :], strict=True):
        filled: dict[str, Any] = {"marker": "o", "markersize": 3 * marks, "linewidth": 1.2}
        filled["label"] = f"{100 * level:g} % zeros"
        for phase in (first, *others[:1]):
            for _, rows in asked.thinned(site, level, phase).groupby("stack", sort=False):
                ax.plot(
                    rows["layer"], rows[column], color=color, gid=f"{column}-{level:g}-{phase}",
                    markeredgewidth=0.8, **(filled if phase == first else hollow),
                )  # fmt: skip
    for phase in others[:1]:
        ax.plot([], [], color=style.INK, label=phase, **hollow)
    layers_on_x(ax, _layers(asked, site))
    ax.yaxis.set_major_locator(MaxNLocator(4))
