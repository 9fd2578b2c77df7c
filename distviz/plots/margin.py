"""The column beside the panels: the main numbers, what the shades mean, what lies beyond."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from matplotlib.lines import Line2D

from distviz.plots import style
from distviz.plots.bins import PairedBins, Panel
from distviz.wording import number, percent

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["SIDE", "add_legend", "beside", "note_beyond", "number_table", "write_numbers"]

SIDE = 0.755
"""Where the column begins, in parts of the figure's width."""


def add_legend(ax: Axes, handles: list[Artist], top: float) -> None:
    """Explain the shades, below ``top`` in parts of the axes' height."""
    if handles:
        ax.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(beside(ax), top),
            handlelength=1.1,
            handleheight=0.9,
            borderpad=0,
            borderaxespad=0,
            labelspacing=0.4,
        )


def beside(ax: Axes) -> float:
    """Return where the column of numbers begins, in parts of the axes' width."""
    box = ax.get_position()
    return float((SIDE - box.x0) / box.width)


def note_beyond(ax: Axes, data: PairedBins, panel: Panel) -> None:
    """Say beside the axis how much lies outside of the window, and how far it goes."""
    left, right = data.beyond(panel)
    words = []
    if left:
        words.append(f"{percent(left / panel.count)} beyond ← min {number(panel.low)}")
    if right:
        words.append(f"{percent(right / panel.count)} beyond → max {number(panel.high)}")
    ax.text(
        beside(ax),
        0.0,
        "\n".join(words),
        va="bottom",
        linespacing=1.35,
        fontsize=7.5,
        color=style.MUTED,
        transform=ax.transAxes,
        gid="beyond",
    )


def write_numbers(figure: Figure, ax: Axes, data: PairedBins) -> float:
    """The main numbers as a small table beside the first panel; returns where it ends."""
    heads = [(panel.phase, style.LINE[panel.phase]) for panel in data.panels]
    return number_table(figure, ax, heads, list(_rows(data)), ruled=("n", "moved"))


def number_table(
    figure: Figure,
    ax: Axes,
    heads: Sequence[tuple[str, str]],
    rows: Sequence[tuple[str, list[str]]],
    *,
    ruled: Sequence[str] = (),
) -> float:
    """Write a small table beside a panel; returns where it ends, in parts of the axes' height.

    ``heads`` are words with their colours, ``rows`` a name and one cell, or one a head; a rule is
    drawn above the rows named in ``ruled``.
    """
    box = ax.get_position()
    left, right = SIDE, 0.985
    middle = left + 0.6 * (right - left)
    step = 0.185 / figure.get_figheight()
    y = box.y1 - 0.1 * step
    for place, (word, color) in zip(_columns(middle, right, len(heads)), heads, strict=True):
        figure.text(place, y, word, ha="right", va="top", weight="bold", fontsize=8, color=color)
    for index, (name, cells) in enumerate(rows):
        if name in ruled:
            rule = y - step * (1.25 if index else 1.0)
            figure.add_artist(Line2D([left, right], [rule, rule], color=style.GRID, linewidth=0.8))
        y -= step * (1.5 if name in ruled else 1.12)
        figure.text(left, y, name, va="top", fontsize=8, color=style.MUTED)
        places = _columns(middle, right, len(cells)) if len(cells) > 1 else [right]
        for place, cell in zip(places, cells, strict=True):
            figure.text(place, y, cell, ha="right", va="top", fontsize=8)
    return float((y - 1.5 * step - box.y0) / box.height)


def _columns(middle: float, right: float, number: int) -> list[float]:
    return [right] if number == 1 else [middle + 0.012, right]


def _rows(data: PairedBins) -> Iterator[tuple[str, list[str]]]:
    panels = data.panels
    counts = [panel.count for panel in panels]
    same = len(set(counts)) == 1
    yield "n", [f"{count:,}" for count in (counts[:1] if same else counts)]
    yield "near zero", [percent(panel.near_zero) for panel in panels]
    yield "std", [number(panel.std) for panel in panels]
    yield "Gini", [number(panel.gini) for panel in panels]
    if any(panel.nonfinite for panel in panels):
        yield "NaN, inf", [f"{panel.nonfinite:,}" for panel in panels]
    if data.moved is not None:
        share = percent(data.moved / max(panels[0].count, 1))
        yield "moved", [f"k = {data.moved:,} ({share})"]
