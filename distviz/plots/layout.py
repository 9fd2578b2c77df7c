"""Where things stand in a figure, in inches: heading, panels one above the other, legends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg

from distviz.plots import style
from distviz.plots.headings import Heading
from distviz.plots.text_fit import text_width, wrapped

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import BboxBase

__all__ = [
    "extra_title",
    "fit_left",
    "legend_above",
    "legend_height",
    "legend_in_figure",
    "legend_over",
    "panel_title",
    "panels",
    "place_apart",
    "room_of",
    "rows_height",
    "scale_beside",
    "shrink_for_scale",
    "thinned",
]

_LOOK = {"handlelength": 1.6, "columnspacing": 1.2, "borderaxespad": 0.1}
_BESIDE_LABEL = 3.9
"""What handle and spacing of an entry of a legend take, in sizes."""
_LEGEND_PITCH = 1.55
_CUT = 0.04
"""Inches that stay free at the left edge."""


def panels(
    heading: Heading,
    heights: Sequence[float],
    *,
    width: float,
    left: float,
    right: float = 0.16,
    above: float = 0.28,
    gap: float | Sequence[float] = 0.25,
    below: float = 0.45,
) -> tuple[Figure, list[Axes]]:
    """Return a figure with its heading and panels one above the other, all in inches.

    Parameters
    ----------
    heading
        What stands at the top.
    heights
        Of the panels, from top to bottom.
    width
        Of the figure.
    left, right
        Beside the panels.
    above, gap, below
        Between heading and first panel, between panels (all alike, or one each), below the last.
    """
    number = len(heights)
    gaps = [gap] * (number - 1) if isinstance(gap, float | int) else list(gap)
    top = heading.height + above
    height = top + sum(heights) + sum(gaps) + below
    figure = style.blank(width, height)
    heading.write(figure)
    slots = [inches for pair in zip(heights, [*gaps, 0.0], strict=True) for inches in pair][:-1]
    grid = figure.add_gridspec(
        len(slots), 1, left=left / width, right=1 - right / width, top=1 - top / height,
        bottom=below / height, hspace=0.0, height_ratios=slots,
    )  # fmt: skip
    return figure, [figure.add_subplot(grid[2 * row]) for row in range(number)]


def panel_title(ax: Axes, text: str) -> None:
    """Write the title of a panel, broken into lines where it is wider than the panel."""
    lines = wrapped(text, room_of(ax), style.size("panel"))
    ax.set_title("\n".join(lines), loc="left", pad=3, fontsize=style.size("panel"), color=style.INK)


def extra_title(titles: Iterable[str], room: float) -> float:
    """Return what the longest of some titles needs beyond one line, over panels of a width."""
    lines = max(len(wrapped(title, room, style.size("panel"))) for title in titles)
    return (lines - 1) * 1.2 * style.size("panel") / 72


def legend_above(ax: Axes, handles: Sequence[Artist], labels: Sequence[str], columns: int) -> None:
    """Put a legend above a panel: beside its title, or over it where the sheet is narrow."""
    if not style.sheet().is_narrow:
        ax.legend(
            handles, labels, loc="lower right", ncols=columns, bbox_to_anchor=(1.0, 1.0),
            **_LOOK | {"columnspacing": 1.4},
        )  # fmt: skip
        return
    height = ax.get_position().height * style.figure_of(ax).get_figheight()
    over = (1.3 * style.size("panel") + 3) / 72 / height
    ax.legend(
        handles, labels, loc="lower left", ncols=_columns(labels, room_of(ax)),
        bbox_to_anchor=(0.0, 1.0 + over), **_LOOK | {"borderpad": 0.0, "borderaxespad": 0.0},
    )  # fmt: skip


def legend_over(ax: Axes) -> None:
    """Put the legend of a panel without a title over it."""
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(
        handles, labels, loc="lower left", ncols=_columns(labels, room_of(ax)),
        bbox_to_anchor=(0.0, 1.0), **_LOOK | {"borderpad": 0.2},
    )  # fmt: skip


def legend_height(labels: Sequence[str], room: float) -> float:
    """Return the inches that `legend_above` needs over a title; none where it stands beside."""
    return rows_height(labels, room) if style.sheet().is_narrow else 0.0


def legend_in_figure(
    figure: Figure, handles: Sequence[Artist], labels: Sequence[str], *, left: float, top: float
) -> float:
    """Put a legend into the figure, ``left`` and ``top`` in inches; return its height."""
    width, height = figure.get_size_inches()
    room = width - left - 0.1
    if handles:
        figure.legend(
            handles, labels, loc="upper left", ncols=_columns(labels, room),
            bbox_to_anchor=(left / width, 1 - top / height), **_LOOK | {"borderpad": 0.0},
        )  # fmt: skip
    return rows_height(labels, room)


def rows_height(labels: Sequence[str], room: float) -> float:
    """Return the inches that a legend takes over a width."""
    if not labels:
        return 0.0
    rows = -(-len(labels) // _columns(labels, room))
    return rows * _LEGEND_PITCH * style.size("tick") / 72


def _columns(labels: Sequence[str], room: float) -> int:
    """Return how many entries of a legend stand side by side."""
    points = style.size("tick")
    widths = [text_width(label, points) + _BESIDE_LABEL * points / 72 for label in labels]
    for columns in range(len(labels), 1, -1):
        # Matplotlib fills column after column, the first ones with one entry more.
        rows, longer = divmod(len(labels), columns)
        ends = [rows * index + min(index, longer) for index in range(columns + 1)]
        if sum(max(widths[a:b]) for a, b in pairwise(ends)) <= room:
            return columns
    return 1


def room_of(ax: Axes) -> float:
    """Return how wide a panel is, in inches."""
    return float(ax.get_position().width * style.figure_of(ax).get_figwidth())


def _renderer(figure: Figure) -> RendererAgg:
    renderer: RendererAgg = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    return renderer


def fit_left(figure: Figure, axes: Sequence[Axes]) -> None:
    """Move the left edge of panels to where tick labels and axis titles are just not cut.

    On a screen panels stay where they are, so that figures of a kind lie on each other.
    """
    if not style.sheet().is_paper:
        return
    renderer = _renderer(figure)
    boxes = [ax.yaxis.get_tightbbox(renderer) for ax in axes]
    left = min((box.x0 for box in boxes if box is not None), default=_CUT * figure.dpi)
    shift = (_CUT * figure.dpi - left) / figure.bbox.width
    for ax in axes:
        place = ax.get_position()
        ax.set_position((place.x0 + shift, place.y0, place.width - shift, place.height))


def thinned(ax: Axes, labels: Sequence[str]) -> list[str]:
    """Return the labels of equally spaced places, some left out so that none touch."""
    points = style.size("tick")
    parts = [part for label in labels for part in label.split("\n")]
    widest = max((text_width(part, points) for part in parts), default=0.0)
    each = room_of(ax) / max(len(labels), 1)
    step = max(1, int(-(-(widest + 0.5 * points / 72) // each)))
    return [label if index % step == 0 else "" for index, label in enumerate(labels)]


def shrink_for_scale(ax: Axes) -> None:
    """Make a panel narrower by what `scale_beside` takes."""
    box, width = ax.get_position(), style.figure_of(ax).get_figwidth()
    ax.set_position((box.x0, box.y0, box.width - 0.6 / width, box.height))


def scale_beside(ax: Axes, image: ScalarMappable) -> None:
    """Put the scale of the colours beside a panel."""
    figure = style.figure_of(ax)
    box, width = ax.get_position(), figure.get_figwidth()
    place = figure.add_axes((box.x1 + 0.06 / width, box.y0, 0.1 / width, box.height))
    figure.colorbar(image, cax=place).outline.set_visible(False)


def place_apart(
    ax: Axes, named: Sequence[tuple[str, tuple[float, float]]], color: str
) -> list[Annotation]:
    """Write names beside points of a panel, the first ones first; without room none is written.

    To be called when the panel has its limits.
    """
    figure = style.figure_of(ax)
    renderer = _renderer(figure)
    ax.autoscale_view()
    inside = ax.get_window_extent(renderer)
    taken: list[BboxBase] = []
    placed = []
    for text, point in named:
        for across, up in ((5, -9), (-5, 4), (5, 4), (-5, -9)):
            note = ax.annotate(
                text, point, xytext=(across, up), textcoords="offset points",
                ha="left" if across > 0 else "right", fontsize=min(style.size("note"), 7.0),
                color=color, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.3},
            )  # fmt: skip
            box = note.get_window_extent(renderer)
            fits = inside.x0 <= box.x0 and box.x1 <= inside.x1
            fits &= inside.y0 <= box.y0 and box.y1 <= inside.y1
            if fits and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                placed.append(note)
                break
            note.remove()
    return placed
