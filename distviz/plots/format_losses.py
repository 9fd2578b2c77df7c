"""What number formats lose, by layer: one panel a format, the layers that lose most named."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from distviz.errors import RequestError
from distviz.plots import style
from distviz.whatifs import least_first
from distviz.wording import arm_settings, change_name, decibels, model_name, place_name

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from distviz.whatifs import WhatIf

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


def format_losses(asked: WhatIf, site: str = "act") -> Figure:
    """Draw the SQNR of every format by layer, a line a range, before and after.

    Raises
    ------
    RequestError
        If no format was asked about at this site.
    """
    kinds = asked.kinds(site)
    if not kinds:
        raise RequestError(f"the whatif folder holds no number formats at site '{site}'")
    formats = list(dict.fromkeys(name for name, _ in kinds))
    with style.styled():
        columns = min(len(formats), 2)
        rows = math.ceil(len(formats) / columns)
        figure = style.blank(4.1 * columns, 1.35 + 1.75 * rows)
        height = figure.get_figheight()
        grid = figure.add_gridspec(
            rows, columns, left=0.085 if columns == 2 else 0.15, right=0.985,
            top=1 - 0.98 / height, bottom=0.45 / height, hspace=0.42, wspace=0.15,
        )  # fmt: skip
        marks: dict[str, Artist] = {}
        for index, name in enumerate(formats):
            ax = figure.add_subplot(grid[index // columns, index % columns])
            ranges = [range_ for one, range_ in kinds if one == name]
            marks |= _draw(ax, asked, site, name, ranges)
            is_last = index >= len(formats) - columns
            ax.set_xlabel("layer" if is_last else "")
            ax.tick_params(labelbottom=True)
        _explain(figure, asked, site, marks)
        return figure


def _explain(figure: Figure, asked: WhatIf, site: str, marks: dict[str, Artist]) -> None:
    height = figure.get_figheight()
    title = f"{model_name(asked)} · number formats · {site}"
    figure.text(0.02, 1 - 0.24 / height, title, fontsize=10.5, weight="bold")
    words = [
        "signal to noise (SQNR, dB) of the quantized values by layer, by how the range is chosen"
    ]
    if arm_settings(asked) and "after" in asked.phases(site):
        words.append(f"{change_name(asked)} {arm_settings(asked)}")
    caption = " · ".join(words)
    figure.text(0.02, 1 - 0.44 / height, caption, fontsize=8, color=style.MUTED)
    figure.legend(
        list(marks.values()), list(marks), loc="upper left", ncols=5, handlelength=1.8,
        bbox_to_anchor=(0.012, 1 - 0.48 / height), borderaxespad=0.1, columnspacing=1.6,
    )  # fmt: skip


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
    named = ", ".join(f"{place_name(row)} ({decibels(row['sqnr_db'])})" for row in worst)
    for row in worst:
        ax.axvline(row["layer"], color=style.BAND, linewidth=4, alpha=0.55, zorder=0.3, gid="worst")
    layers = asked.table.loc[asked.table["site"] == site, "layer"]
    spare = 0.5 if layers.min() < layers.max() else 1.5
    ax.set_xlim(layers.min() - spare, layers.max() + spare)
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.margins(y=0.1)
    ax.grid(axis="y", color=style.GRID, linewidth=0.6)
    ax.set_title(f"{name}", loc="left", pad=4, fontsize=8.5, weight="bold")
    ax.set_title(f"worst layers {named}" if named else "", loc="right", pad=4, fontsize=8)
    return marks


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
        (handle,) = ax.plot(
            part["layer"], np.where(np.isfinite(values), values, np.nan), **shown, zorder=3
        )
    if handle is None:
        (handle,) = ax.plot([], [], **look)
    return handle
