"""Whether a figure can be read at its own size: nothing cut, nothing on top of each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.legend import Legend
from matplotlib.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

SLACK = 1.0
"""Pixels at 150 dpi by which boxes may touch: a box is rounded up to whole pixels."""


Shown = list[tuple[Text, "Bbox"]]
"""Texts and their boxes in pixels."""


def texts_shown(figure: Figure) -> Shown:
    """Every text with a glyph in it, as drawn, with its box in pixels."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
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


def problems(figure: Figure, shown: Shown, least_points: float = 7.0) -> list[str]:
    """Say in words what cannot be read; nothing if all can."""
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
    boxes = np.array([box.extents for _, box in shown]).reshape(-1, 4)
    for number, (text, box) in enumerate(shown):
        found += [
            f"{shown[other][0].get_text()!r} lies on {text.get_text()!r}"
            for other in np.flatnonzero(_overlap(boxes[:number], box))
        ]
    for legend in figure.findobj(Legend):
        area = legend.get_window_extent(renderer)
        if area.x1 > width + SLACK or area.x0 < -SLACK:
            found.append("a legend is cut")
        own = set(map(id, legend.findobj(Text)))
        for (text, _), lies in zip(shown, _overlap(boxes, area), strict=True):
            if id(text) not in own and lies:
                found.append(f"{text.get_text()!r} lies on a legend")
    return found


def _overlap(boxes: Any, box: Bbox) -> Any:
    """Which rows x0, y0, x1, y1 have more than `SLACK` in common with a box."""
    x0, y0, x1, y1 = boxes.T
    across = np.minimum(x1, box.x1) - np.maximum(x0, box.x0)
    up = np.minimum(y1, box.y1) - np.maximum(y0, box.y0)
    return (across > SLACK) & (up > SLACK)
