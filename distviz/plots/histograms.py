"""Parts that `before_after` and `compared` share: panels placed in inches, and their numbers.

These figures do not use constrained layout: it takes a fifth of the time of drawing one, there is
one for every layer, and on a screen the panels of all layers have the same position.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import StepPatch
from matplotlib.ticker import MaxNLocator

from distviz.plots import style
from distviz.plots.layout import (
    EDGE,
    Heading,
    legend_height,
    legend_in_figure,
    renderer_of,
    width_of,
)
from distviz.plots.scales import grid_lines, log_y_scale, value_scale
from distviz.results import number, percent
from distviz.sites import INPUT_PREFIX, SITES

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from distviz.plots.before_after_data import Tails
    from distviz.plots.site_axes import SiteAxes

Row = tuple[str, list[str]]
"""A name, and one cell, or one for each column."""
Heads = Sequence[tuple[str, str]]
"""Names of columns with their colours."""
_HEADROOM = 1.1
_STEP, _RULED_STEP = 1.12, 1.5
_LEAST_LEFT = 0.04
"""Inches that stay free at the left edge."""


def unplaced(panels: int) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels, to be drawn and then placed."""
    figure = Figure()
    return figure, [figure.add_subplot(panels, 1, row + 1) for row in range(panels)]


def place(
    figure: Figure,
    axes: Sequence[Axes],
    heading: Heading,
    heights: Sequence[float],
    *,
    left: float,
    right: float,
    above: float,
    gap: float,
    below: float,
) -> float:
    """Write the heading and place panels below each other, all in inches.

    On paper their left edge is moved to where tick labels and axis titles are just not cut.
    Returns the inches from the top of the figure to the foot of the last panel.
    """
    width, top = heading.width, heading.height + above
    foot = top + sum(heights) + (len(heights) - 1) * gap
    total = foot + below
    figure.set_size_inches(width, total)
    heading.write(figure)

    def put(start: float) -> None:
        down = top
        for ax, height in zip(axes, heights, strict=True):
            down += height
            box = (start / width, 1 - down / total, 1 - (start + right) / width, height / total)
            ax.set_position(box)
            down += gap

    put(left)
    if style.page_format().is_paper:
        boxes = [ax.yaxis.get_tightbbox(renderer_of(figure)) for ax in axes]
        put(left + _LEAST_LEFT - min(box.x0 for box in boxes if box is not None) / figure.dpi)
    return foot


def place_above_numbers(
    figure: Figure,
    axes: Sequence[Axes],
    heading: Heading,
    heights: Sequence[float],
    *,
    left: float,
    gap: float,
    handles: Sequence[Artist],
    heads: Heads,
    rows: Sequence[Row],
    ruled: Sequence[str],
    strip: float = 0.0,
) -> None:
    """Place panels of a narrow page as `place` does, with legend and numbers below them.

    ``strip`` is the height in inches that stays free for a strip below the last panel.
    """
    labels = [str(handle.get_label()) for handle in handles]
    used = legend_height(labels, heading.width - EDGE - 0.1)
    foot = place(
        figure, axes, heading, heights, left=left, right=0.1, above=0.26, gap=gap,
        below=0.5 + strip + used + table_height(rows, ruled),
    ) + strip  # fmt: skip
    legend_in_figure(figure, handles, labels, "upper left")
    for legend in figure.legends:
        anchor = (EDGE / heading.width, 1 - (foot + 0.42) / figure.get_figheight())
        legend.set_bbox_to_anchor(anchor, figure.transFigure)
    number_table(
        figure, heads, rows, left=EDGE, right=heading.width - EDGE, top=foot + 0.47 + used,
        ruled=ruled,
    )  # fmt: skip


def frame(ax: Axes, axes: SiteAxes, eps: float) -> None:
    """Set the axis of the values, and draw grid lines, zero and the near-zero band."""
    value_scale(ax, axes)
    grid_lines(ax)
    ax.axvline(0, color=style.ZERO, linewidth=0.7, zorder=0.5, gid="zero")
    ax.axvspan(-eps, eps, color=style.BAND, linewidth=0, zorder=0.4, gid="near-zero")


def count_scale(ax: Axes, peak: float, floor: float, *, log: bool, integer: bool = False) -> None:
    """Set the scale of counts or fractions; ``floor`` is where bars begin on a log scale."""
    if log:
        log_y_scale(ax, floor, peak * (peak / floor) ** (_HEADROOM - 1), "clip")
        return
    ax.set_ylim(0, peak * _HEADROOM)
    least = {"integer": True, "min_n_ticks": 1} if integer else {}
    ax.yaxis.set_major_locator(MaxNLocator(5, **least))


def steps(
    ax: Axes,
    heights: NDArray[np.float64],
    edges: NDArray[np.float64],
    *,
    color: str,
    fill: bool = False,
    **look: Any,
) -> StepPatch:
    """Draw ``heights`` over ``edges`` as one shape, without seams.

    As `Axes.stairs` does, which takes longer, because it fits the limits of the axes.
    """
    look |= {"facecolor" if fill else "edgecolor": color, "fill": fill}
    patch = StepPatch(heights, edges, **look)
    ax.add_artist(patch)
    return patch


def label_band(ax: Axes, eps: float, *, of: str = "", is_empty: bool, taken: float = 0.0) -> None:
    """Label the near-zero band above it, to the right of the ``taken`` inches at the left.

    A panel without values gets a note.
    """
    if is_empty:
        ax.text(0.5, 0.5, "no finite value", ha="center", color=style.MUTED, transform=ax.transAxes)
    if not (math.isfinite(eps) and eps > 0):
        return
    text, points = f"near zero: |x| < ε{of} = {number(eps)}", style.size("note")
    width, free = style.text_width(text, points), width_of(ax)
    zero = float(
        ax.transAxes.inverted().transform(ax.transData.transform((0, ax.get_ylim()[0])))[0]
    )
    middle = min(max(zero * free, taken + 0.1 + width / 2), free - width / 2)
    ax.text(
        middle / free, 1.015, text, ha="center", va="bottom", fontsize=points,
        color=style.MUTED, transform=ax.transAxes,
    )  # fmt: skip


def value_label(site: str) -> str:
    """Return the label of the axis of values."""
    return "activation value" if site == "act" else f"{site} value"


def site_description(site: str) -> str:
    """Return what is observed at a site."""
    side = "input" if site.startswith(INPUT_PREFIX) else "output"
    return SITES.get(site, f"{side} of the module").split(" (")[0]


def beyond_texts(tails: Tails, title: str = "") -> list[str]:
    """Return how much of a distribution lies outside the window, and its extremes."""
    (left, low), (right, high) = tails
    texts = []
    if left:
        texts.append(f"{title}{percent(left)} below the axis, min {number(low)}")
    if right:
        texts.append(f"{title}{percent(right)} above the axis, max {number(high)}")
    return texts


def outside_texts(tails: Tails, energy: float, title: str = "") -> list[str]:
    """Return what lies outside the window, and its fraction of the sum of squares."""
    texts = beyond_texts(tails, title)
    return [*texts, f"{title}together {percent(energy)} of Σx²"] if texts else []


def extremes_text(tails: Tails) -> str:
    """Return the extremes."""
    (_, low), (_, high) = tails
    return f"min {number(low)}, max {number(high)}"


def beyond_rows(tails: Sequence[Tails]) -> Iterator[Row]:
    """Yield the same as rows of the table, with a column for each distribution."""
    for name, ends in zip(
        ("below the axis", "above the axis"), zip(*tails, strict=True), strict=True
    ):
        if any(share for share, _ in ends):
            cells = (f"{percent(share)} to {number(end)}" if share else "–" for share, end in ends)
            yield name, list(cells)


def beside(ax: Axes) -> float:
    """Return where the column of numbers begins, as a fraction of the axes' width."""
    box = ax.get_position()
    left = 1 - style.page_format().column / style.figure_of(ax).get_figwidth()
    return float((left - box.x0) / box.width)


def write_beside(ax: Axes, lines: Sequence[str], *, top: bool = False, gid: str) -> None:
    """Write notes into the column beside a panel, at its top or its bottom."""
    ax.text(
        beside(ax), 1.0 if top else 0.0, "\n".join(lines), va="top" if top else "bottom",
        linespacing=1.35, fontsize=style.size("note"), color=style.MUTED, transform=ax.transAxes,
        gid=gid,
    )  # fmt: skip


def _row_height() -> float:
    return 0.185 * style.size("tick") / 8.0


def table_height(rows: Sequence[Row], ruled: Sequence[str]) -> float:
    """Return the height of `number_table` in inches."""
    steps = sum(_RULED_STEP if name in ruled else _STEP for name, _ in rows)
    return (steps + 1.0) * _row_height()


def number_table(
    figure: Figure,
    heads: Heads,
    rows: Sequence[Row],
    *,
    left: float,
    right: float,
    top: float,
    ruled: Sequence[str],
) -> float:
    """Write a small table with a rule above the rows named in ``ruled``.

    ``left``, ``right`` and ``top`` are inches from the upper left corner. Returns where the table
    ends, in inches from the top.
    """
    width, height = figure.get_size_inches()
    ends = [left + 0.6 * (right - left) + 0.1, right]
    look: dict[str, Any] = {"va": "top", "fontsize": style.size("tick")}
    for x, (word, color) in zip(ends[-len(heads) :], heads, strict=True):
        figure.text(
            x / width, 1 - top / height, word, ha="right", weight="bold", color=color, **look
        )
    down = top
    for index, (name, cells) in enumerate(rows):
        if name in ruled:
            y = 1 - (down + _row_height() * (1.25 if index else 1.0)) / height
            rule = ([left / width, right / width], [y, y])
            figure.add_artist(Line2D(*rule, color=style.GRID, linewidth=0.8))
        down += _row_height() * (_RULED_STEP if name in ruled else _STEP)
        figure.text(left / width, 1 - down / height, name, color=style.MUTED, **look)
        for x, cell in zip(ends[-len(cells) :], cells, strict=True):
            figure.text(x / width, 1 - down / height, cell, ha="right", **look)
    return down + 1.5 * _row_height()
