"""Beside the panels, or below them where the sheet is narrow: numbers, and what lies beyond."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.lines import Line2D

from distviz.plots import style
from distviz.results import number, percent

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Row",
    "Tails",
    "add_legend",
    "beside",
    "beyond_rows",
    "beyond_words",
    "number_table",
    "table_height",
    "write_beside",
]

Row = tuple[str, list[str]]
"""A name, and one cell, or one a column."""
Tails = tuple[tuple[float, float], tuple[float, float]]
"""Share of the values left of the window, and their minimum; right of it, and their maximum."""
_STEP, _RULED_STEP = 1.12, 1.5
_HEAD_RULE = 1.0


def beyond_words(tails: Tails, title: str = "") -> list[str]:
    """Say how much of a distribution lies outside of the window, and how far it goes."""
    (left, low), (right, high) = tails
    words = []
    if left:
        words.append(f"{title}{percent(left)} beyond ← min {number(low)}")
    if right:
        words.append(f"{title}{percent(right)} beyond → max {number(high)}")
    return words


def beyond_rows(tails: Sequence[Tails]) -> Iterator[Row]:
    """Say the same of several in rows of the table."""
    for name, ends in zip(("beyond ←", "beyond →"), zip(*tails, strict=True), strict=True):
        if any(share for share, _ in ends):
            cells = (f"{percent(share)} to {number(end)}" if share else "–" for share, end in ends)
            yield name, list(cells)


def beside(ax: Axes) -> float:
    """Return where the column of numbers begins, in parts of the axes' width."""
    box = ax.get_position()
    figure = style.figure_of(ax)
    left = 1 - style.sheet().column / figure.get_figwidth()
    return float((left - box.x0) / box.width)


def add_legend(ax: Axes, handles: list[Artist], top: float) -> None:
    """Explain the shades in the column, below ``top`` in parts of the axes' height."""
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


def write_beside(ax: Axes, words: Sequence[str], *, top: bool = False, gid: str) -> None:
    """Write notes into the column beside a panel, at its top or its foot."""
    ax.text(
        beside(ax),
        1.0 if top else 0.0,
        "\n".join(words),
        va="top" if top else "bottom",
        linespacing=1.35,
        fontsize=style.size("note"),
        color=style.MUTED,
        transform=ax.transAxes,
        gid=gid,
    )


def _step() -> float:
    """Return the inches from row to row."""
    return 0.185 * style.size("tick") / 8.0


def table_height(rows: Sequence[Row], ruled: Sequence[str]) -> float:
    """Return the inches that `number_table` takes."""
    steps = sum(_RULED_STEP if name in ruled else _STEP for name, _ in rows)
    return (steps + 1.0) * _step()


def number_table(
    figure: Figure,
    heads: Sequence[tuple[str, str]],
    rows: Sequence[Row],
    *,
    left: float,
    right: float,
    top: float,
    ruled: Sequence[str] = (),
) -> float:
    """Write a small table; ``left``, ``right`` and ``top`` in inches, from the upper left corner.

    ``heads`` are words with their colours, ``rows`` a name and one cell, or one a head; a rule is
    drawn above the rows named in ``ruled``. Returns where it ends, in inches from the top.
    """
    width, height = figure.get_size_inches()
    middle = left + 0.6 * (right - left)
    down, size = top, style.size("tick")
    look: dict[str, Any] = {"va": "top", "fontsize": size}
    for place, (word, color) in zip(_columns(middle, right, len(heads)), heads, strict=True):
        figure.text(
            place / width, 1 - down / height, word, ha="right", weight="bold", color=color, **look
        )
    for index, (name, cells) in enumerate(rows):
        if name in ruled:
            y = 1 - (down + _step() * (1.25 if index else _HEAD_RULE)) / height
            ends = [left / width, right / width]
            figure.add_artist(Line2D(ends, [y, y], color=style.GRID, linewidth=0.8))
        down += _step() * (_RULED_STEP if name in ruled else _STEP)
        y = 1 - down / height
        figure.text(left / width, y, name, color=style.MUTED, **look)
        places = _columns(middle, right, len(cells)) if len(cells) > 1 else [right]
        for place, cell in zip(places, cells, strict=True):
            figure.text(place / width, y, cell, ha="right", **look)
    return down + 1.5 * _step()


def _columns(middle: float, right: float, number: int) -> list[float]:
    return [right] if number == 1 else [middle + 0.1, right]
