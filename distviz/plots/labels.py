"""Labels beside points of a panel that lie on nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.cbook import STEP_LOOKUP_MAP
from matplotlib.collections import LineCollection
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from distviz.plots import style
from distviz.plots.layout import renderer_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GAPS = (5.0, 13.0, 24.0)
"""Points between a point and its label, in this order; all but the first need a leader line."""
_DIRECTIONS = ((1, -1), (-1, 1), (1, 1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))
_STEP = 2.0
"""Pixels between the places of a line that labels keep clear of."""
_CLEAR = 1.5
"""Pixels between a label and what it keeps clear of."""
_BACKGROUND = 1.0
"""What is drawn below this zorder may lie under labels."""

Floats = NDArray[np.float64]


def label_points(
    ax: Axes, named: Sequence[tuple[str, Sequence[tuple[float, float]]]], color: str
) -> None:
    """Write names beside points of a panel, in this order, clear of its data and texts.

    Each name stands at the first of its points where it fits, near it if possible, else with a
    leader line; a name that fits nowhere is left out. Call it when layout and limits are final.
    """
    figure = style.figure_of(ax)
    renderer = renderer_of(figure)
    ax.autoscale_view()
    inside = ax.get_window_extent(renderer)
    points = style.label_size()
    pixels = figure.dpi / 72
    occupied = np.concatenate([np.zeros((0, 3)), *_occupied(ax)])
    taken = [box for one in ax.child_axes if (box := one.get_tightbbox(renderer)) is not None]
    taken += [text.get_window_extent(renderer).padded(_CLEAR) for text in ax.texts]
    for text, places in named:
        size = pixels * np.array([72 * style.text_width(text, points), 1.25 * points])
        for gap, place, way in product(_GAPS, places, _DIRECTIONS):
            at = np.asarray(ax.transData.transform(place), np.float64)
            box = _box(at, size, gap * pixels, way)
            if _contains(inside, box) and not (
                any(box.overlaps(other) for other in taken) or _is_hit(box, occupied)
            ):
                _write(ax, text, place, box, color, gap)
                taken.append(box.padded(_CLEAR))
                if gap > _GAPS[0]:
                    leader = _dense(np.array([at, np.clip(at, box.min, box.max)]))
                    occupied = np.concatenate([occupied, _with_radius(leader, 0.0)])
                break


def _box(at: Floats, size: Floats, gap: float, direction: tuple[int, int]) -> Bbox:
    """Return the box of a label that lies in a direction of a point."""
    way = np.array(direction)
    both = np.abs(way).sum() == 2
    middle = at + way * (size / 2 + gap * np.where(both, (1.0, 0.5), 1.0))
    return Bbox([middle - size / 2, middle + size / 2])


def _write(
    ax: Axes, text: str, place: tuple[float, float], box: Bbox, color: str, gap: float
) -> None:
    leader = {"arrowstyle": "-", "color": style.MUTED, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2}
    middle = ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2)
    away = (middle - ax.transData.transform(place)) * 72 / style.figure_of(ax).dpi
    ax.annotate(
        text, place, xytext=tuple(away), textcoords="offset points", ha="center", va="center",
        fontsize=style.label_size(), color=color, gid="label", annotation_clip=False,
        arrowprops=leader if gap > _GAPS[0] else None,
    )  # fmt: skip


def _contains(outer: Bbox, box: Bbox) -> bool:
    return bool(
        outer.x0 <= box.x0 and box.x1 <= outer.x1 and outer.y0 <= box.y0 and box.y1 <= outer.y1
    )


def _is_hit(box: Bbox, occupied: Floats) -> bool:
    x, y, radius = occupied.T
    reach = radius + _CLEAR
    across = (x + reach > box.x0) & (x - reach < box.x1)
    return bool((across & (y + reach > box.y0) & (y - reach < box.y1)).any())


def _occupied(ax: Axes) -> Iterator[Floats]:
    """Places of lines, markers and intervals in pixels, with their radius: float64 (places, 3)."""
    pixels = style.figure_of(ax).dpi / 72
    for line in ax.lines:
        if line.get_zorder() < _BACKGROUND:
            continue
        x, y = (np.asarray(values, np.float64) for values in line.get_data(orig=False))
        to_pixels = line.get_transform()
        if line.get_marker() not in ("None", "", " ", None):
            radius = (line.get_markersize() + line.get_markeredgewidth()) / 2 * pixels
            yield _with_radius(to_pixels.transform(np.column_stack([x, y])), radius)
        if line.get_linestyle() not in ("None", "", " "):
            steps = STEP_LOOKUP_MAP[line.get_drawstyle()](x, y)
            places = _dense(to_pixels.transform(np.column_stack(steps)))
            yield _with_radius(places, line.get_linewidth() / 2 * pixels)
    for collection in ax.collections:
        if isinstance(collection, LineCollection) and collection.get_zorder() >= _BACKGROUND:
            for path in collection.get_paths():
                yield _with_radius(_dense(collection.get_transform().transform(path.vertices)), 1.0)


def _with_radius(places: Floats, radius: float) -> Floats:
    places = places[np.isfinite(places).all(axis=1)]
    return np.column_stack([places, np.full(len(places), radius)])


def _dense(places: Floats) -> Floats:
    """Return places along a line, at most a step apart."""
    parts = [places[:0]]
    for start, end in pairwise(places):
        length = float(np.hypot(*(end - start)))
        if np.isfinite(length):
            number = min(int(length / _STEP), 2_000) + 2
            parts.append(np.linspace(start, end, number))
    return np.concatenate(parts)
