"""What number formats lose, by layer: one panel a format, the layers that lose most named."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from distviz.errors import RequestError
from distviz.plots import style
from distviz.plots.headings import EDGE, Heading, Line
from distviz.plots.layout import legend_in_figure, room_of, rows_height
from distviz.plots.text_fit import text_width
from distviz.results import (
    arm_settings,
    change_name,
    decibels,
    layer_axis,
    least_first,
    model_name,
    place_name,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from distviz.results import WhatIf

__all__ = ["format_losses"]

_LOOKS: dict[str, dict[str, Any]] = {
    "none": {"color": "#009e73", "marker": "^"},
    "max": {"color": "#8a929a", "marker": "s"},
    "percentile": {"color": "#c38bb0", "marker": "v"},
    "mse": {"color": style.LINE["before"], "marker": "o"},
}
"""Colours of Okabe and Ito, and a marker, for each range."""
_ORDER = ("mse", "max", "percentile", "none")
"""The first of these that was asked for names the worst layers and is drawn after, too."""
_NAMED = 3
_MANY = 48


def format_losses(asked: WhatIf, site: str = "act", *, width: str | None = None) -> Figure:
    """Draw the SQNR of every format by layer, a line a range, before and after.

    ``width`` is ``"single"`` or ``"double"``, the columns of a paper, or None, for a screen.

    Raises
    ------
    RequestError
        If no format was asked about at this site.
    """
    kinds = asked.kinds(site)
    if not kinds:
        raise RequestError(f"the whatif folder holds no number formats at site '{site}'")
    formats = list(dict.fromkeys(name for name, _ in kinds))
    with style.styled(width) as sheet:
        columns = 1 if sheet.is_narrow else min(len(formats), 2)
        inches = sheet.or_width(4.1 * columns)
        heading = _heading(asked, site, inches)
        labels = _labels(asked, site, kinds)
        figure, axes = _grid(
            heading, len(formats), columns, inches, rows_height(labels, inches - 0.3)
        )
        marks: dict[str, Artist] = {}
        for index, (name, ax) in enumerate(zip(formats, axes, strict=True)):
            ranges = [range_ for one, range_ in kinds if one == name]
            marks |= _draw(ax, asked, site, name, ranges)
            is_last = index >= len(formats) - columns
            ax.set_xlabel(layer_axis(asked) if is_last else "")
            ax.set_ylabel("SQNR, dB" if index % columns == 0 else "")
        legend_in_figure(
            figure, list(marks.values()), list(marks), left=EDGE, top=heading.height + 0.08
        )
        return figure


def _grid(
    heading: Heading, number: int, columns: int, width: float, legend: float
) -> tuple[Figure, list[Axes]]:
    """Return a figure with so many panels, in rows below heading and legend."""
    rows = math.ceil(number / columns)
    each, gap = (0.85, 0.46) if columns == 1 and style.sheet().is_narrow else (1.24, 0.51)
    top = heading.height + legend + 0.36
    height = top + rows * each + (rows - 1) * gap + 0.45
    figure = style.blank(width, height)
    heading.write(figure)
    inner = 0.45
    panel = (width - 0.62 - 0.12 - (columns - 1) * inner) / columns
    grid = figure.add_gridspec(
        rows, columns, left=0.62 / width, right=1 - 0.12 / width, top=1 - top / height,
        bottom=0.45 / height, hspace=gap / each, wspace=inner / panel,
    )  # fmt: skip
    return figure, [
        figure.add_subplot(grid[index // columns, index % columns]) for index in range(number)
    ]


def _labels(asked: WhatIf, site: str, kinds: list[tuple[str, str]]) -> list[str]:
    """Return what the legend tells."""
    names = list(dict.fromkeys(_label(asked, range_) for _, range_ in kinds))
    ranges = [range_ for _, range_ in kinds]
    main = next(range_ for range_ in _ORDER if range_ in ranges)
    return names + [f"{phase}, {_label(asked, main)}" for phase in asked.phases(site)[1:2]]


def _heading(asked: WhatIf, site: str, width: float) -> Heading:
    words = [
        "signal to noise (SQNR, dB) of the quantized values by layer, by how the range is chosen"
    ]
    if arm_settings(asked) and "after" in asked.phases(site):
        words.append(f"{change_name(asked)} {arm_settings(asked)}")
    title = Line.title(f"{model_name(asked)} · number formats · {site}")
    return Heading([title, Line(" · ".join(words))], width)


def _draw(ax: Axes, asked: WhatIf, site: str, name: str, ranges: list[str]) -> dict[str, Artist]:
    """Draw one format; return what the legend tells."""
    first, *others = asked.phases(site)
    main = next(range_ for range_ in _ORDER if range_ in ranges)
    marks: dict[str, Artist] = {}
    for range_ in ranges:
        rows = asked.losses(site, name, range_, first)
        label = _label(asked, range_)
        marks[label] = _line(ax, rows, gid=f"{name}-{range_}-{first}", **_LOOKS[range_])
    for phase in others[:1]:
        rows = asked.losses(site, name, main, phase)
        hollow = {"markerfacecolor": "none", "markersize": 5.2, "linewidth": 0, "marker": "D"}
        marks[f"{phase}, {_label(asked, main)}"] = _line(
            ax, rows, gid=f"{name}-{main}-{phase}",
            **hollow | {"color": style.LINE.get(phase, style.INK)},
        )  # fmt: skip
    worst = least_first(asked.losses(site, name, main, first), "sqnr_db", _NAMED)
    named = [f"{place_name(row)} ({decibels(row['sqnr_db'])})" for row in worst]
    for row in worst:
        ax.axvline(row["layer"], color=style.BAND, linewidth=4, alpha=0.55, zorder=0.3, gid="worst")
    layers = asked.table.loc[asked.table["site"] == site, "layer"]
    spare = 0.5 if layers.min() < layers.max() else 1.5
    ax.set_xlim(layers.min() - spare, layers.max() + spare)
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.margins(y=0.1)
    ax.grid(axis="y", color=style.GRID, linewidth=0.6)
    points = style.size("panel")
    ax.set_title(name, loc="left", pad=4, fontsize=points, weight="bold")
    room = room_of(ax) - text_width(name, points, "bold") - 0.1
    ax.set_title(_worst(named, room), loc="right", pad=4, fontsize=style.size("tick"))
    return marks


def _worst(named: list[str], room: float) -> str:
    """Name the layers that lose most, as many as fit beside the title."""
    for number in range(len(named), 0, -1):
        words = f"worst layers {', '.join(named[:number])}"
        if text_width(words, style.size("tick")) <= room:
            return words
    return ""


def _label(asked: WhatIf, range_: str) -> str:
    percentile = f"{asked.manifest.get('percentile'):g}th percentile"
    return {
        "none": "no scale",
        "max": "by maximum",
        "percentile": f"by {percentile}",
        "mse": "by least error",
    }[range_]


def _line(ax: Axes, rows: pd.DataFrame, **look: Any) -> Artist:
    """Draw one line a stack; what is lossless or undefined is left out."""
    handle: Artist | None = None
    for _, part in rows.groupby("stack", sort=False):
        values = part["sqnr_db"].to_numpy(dtype=np.float64)
        shown = {"linewidth": 1.2, "markersize": 3.2 if len(part) <= _MANY else 1.8} | look
        shown["markersize"] *= style.sheet().marks
        (handle,) = ax.plot(
            part["layer"], np.where(np.isfinite(values), values, np.nan), **shown, zorder=3
        )
    if handle is None:
        (handle,) = ax.plot([], [], **look)
    return handle
