"""Whether a figure can be read at its own size: nothing cut, nothing on top of each other."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.legend import Legend
from matplotlib.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

SLACK = 1.0
"""Pixels at 150 dpi by which boxes may touch: a box is rounded up to whole pixels."""


def texts_shown(figure: Figure) -> list[tuple[Text, Bbox]]:
    """Every text with a glyph in it, as drawn, with its box in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    hidden = set(map(id, _ticks_outside(figure)))
    return [
        # Without the arrow of an annotation.
        (text, Text.get_window_extent(text, renderer))
        for text in figure.findobj(Text)
        if text.get_text().strip() and text.get_visible() and id(text) not in hidden
    ]


def _ticks_outside(figure: Figure) -> Iterator[Text]:
    """Labels of ticks that Matplotlib keeps and does not draw."""
    for axes in figure.findobj(lambda one: hasattr(one, "get_xlim") and hasattr(one, "xaxis")):
        for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            low, high = sorted(limits)
            spare = 1e-9 * (high - low)
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                inside = low - spare <= tick.get_loc() <= high + spare
                if not (inside and tick.label1.get_visible() and axes.get_visible()):
                    yield tick.label1
                yield tick.label2
        if not axes.axison:
            yield from axes.findobj(Text)


def problems(figure: Figure, least_points: float = 7.0) -> list[str]:
    """Say in words what cannot be read; nothing if all can."""
    shown = texts_shown(figure)
    renderer = figure.canvas.get_renderer()
    width, height = figure.bbox.width, figure.bbox.height
    found = []
    for text, box in shown:
        name = repr(text.get_text())
        if "$\\" in name:
            found.append(f"{name} is markup")
        if text.get_fontsize() < least_points:
            found.append(f"{name} is {text.get_fontsize()} pt")
        if box.x0 < -SLACK or box.y0 < -SLACK or box.x1 > width + SLACK or box.y1 > height + SLACK:
            found.append(f"{name} is cut at {box.bounds} of {width} x {height}")
    boxes: list[tuple[str, Any]] = [(repr(text.get_text()), box) for text, box in shown]
    for (first, a), (second, b) in combinations(boxes, 2):
        if _overlap(a, b):
            found.append(f"{first} lies on {second}")
    for legend in figure.findobj(Legend):
        area = legend.get_window_extent(renderer)
        if area.x1 > width + SLACK or area.x0 < -SLACK:
            found.append("a legend is cut")
        own = set(map(id, legend.findobj(Text)))
        for text, box in shown:
            if id(text) not in own and _overlap(area, box):
                found.append(f"{text.get_text()!r} lies on a legend")
    return found


def _overlap(a: Bbox, b: Bbox) -> bool:
    across = min(a.x1, b.x1) - max(a.x0, b.x0)
    up = min(a.y1, b.y1) - max(a.y0, b.y0)
    return across > SLACK and up > SLACK
