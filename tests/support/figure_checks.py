"""What makes a drawn figure hard to read: texts over data, edges, repeated ticks, empty halves.

Everything is measured in pixels on the artists as Matplotlib draws them. Artists behind the data
(zorder below 1) are backgrounds and may lie under texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.cbook import STEP_LOOKUP_MAP
from matplotlib.collections import LineCollection, PathCollection, QuadMesh
from matplotlib.patches import Patch
from matplotlib.path import Path
from matplotlib.transforms import Bbox, BboxTransformTo

from support import legibility
from support.legibility import Shown, texts_shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

MOST_EMPTY = 1 / 3
NEAREST_EDGE = 0.015
"""Inches between a text and the edge of the figure."""
BACKGROUND = 1.0
_SLACK = 1.0


def problems(figure: Figure, least_points: float = 7.0) -> list[str]:
    """Say in words what is wrong with a figure, drawn once; nothing if all is right."""
    shown = texts_shown(figure)
    return [
        *legibility.problems(figure, shown, least_points),
        *texts_over_data(figure, shown),
        *texts_at_the_edge(figure, shown),
        *repeated_ticks(figure, shown),
        *touching_ticks(figure, shown),
        *empty_sides(figure),
    ]


def texts_over_data(figure: Figure, shown: Shown) -> list[str]:
    """Texts that lie over lines, markers, bars or cells of heatmaps other than their own."""
    found = []
    drawn = [one for ax in figure.axes for one in _drawn(ax)]
    extents = np.array([one.extents() for one in drawn]).reshape(-1, 4)
    cells = np.concatenate([np.zeros((0, 4)), *map(_cells, figure.axes)])
    for text, box in shown:
        slack = min(_SLACK, box.width / 4, box.height / 4)
        inner = Bbox.from_extents(box.x0 + slack, box.y0 + slack, box.x1 - slack, box.y1 - slack)
        name = repr(text.get_text())
        if any(drawn[near].meets(inner) for near in np.flatnonzero(_touch(extents, inner))):
            found.append(f"{name} lies over data")
        within = cells[_touch(cells, inner)]
        if len(within) and not _hold(within, inner).any():
            found.append(f"{name} lies over cells of a heatmap")
    return found


def _touch(boxes: Any, box: Bbox) -> Any:
    """Which rows x0, y0, x1, y1 have a point in common with a box."""
    x0, y0, x1, y1 = boxes.T
    return (x0 <= box.x1) & (box.x0 <= x1) & (y0 <= box.y1) & (box.y0 <= y1)


def _hold(boxes: Any, box: Bbox) -> Any:
    """Which rows x0, y0, x1, y1 hold a whole box."""
    x0, y0, x1, y1 = boxes.T
    return (x0 <= box.x0) & (box.x1 <= x1) & (y0 <= box.y0) & (box.y1 <= y1)


@dataclass(frozen=True)
class _Outline:
    """A drawn shape in pixels; it is seen in an area only if it is cut at its panel."""

    path: Path
    is_filled: bool
    area: Bbox | None

    @classmethod
    def of(cls, artist: Any, path: Path, *, filled: bool) -> _Outline:
        return cls(path, filled, artist.axes.bbox if artist.get_clip_on() else None)

    def extents(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 of all its points; curves lie within their control points."""
        places = self.path.vertices
        if not len(places):
            return np.nan, np.nan, np.nan, np.nan
        return (*np.fmin.reduce(places), *np.fmax.reduce(places))

    def meets(self, box: Bbox) -> bool:
        seen = box if self.area is None else Bbox.intersection(box, self.area)
        if seen is None or not len(self.path.vertices):
            return False
        return bool(self.path.intersects_bbox(seen, filled=self.is_filled))


def _drawn(ax: Axes) -> Iterator[_Outline]:
    """Outlines of the data."""
    if not ax.get_visible() or ax.get_label() == "<colorbar>":
        return
    for line in ax.lines:
        if line.get_visible() and line.get_zorder() >= BACKGROUND:
            yield from _line_paths(line)
    for patch in ax.patches:
        if patch.get_visible() and patch.get_zorder() >= BACKGROUND:
            path = patch.get_transform().transform_path(patch.get_path())
            yield _Outline.of(patch, path, filled=patch.get_fill())
    for collection in ax.collections:
        if collection.get_zorder() < BACKGROUND or isinstance(collection, QuadMesh):
            continue
        if isinstance(collection, PathCollection):
            places = collection.get_offset_transform().transform(collection.get_offsets())
            radius = np.sqrt(np.max(collection.get_sizes(), initial=0)) / 2 * _pixels(ax)
            for x, y in np.ma.filled(places, np.nan):
                yield _Outline.of(collection, _square(x, y, radius), filled=True)
            continue
        for path in collection.get_paths():
            moved = collection.get_transform().transform_path(path)
            filled = not isinstance(collection, LineCollection)
            yield _Outline.of(collection, moved, filled=filled)


def _line_paths(line: Line2D) -> Iterator[_Outline]:
    x, y = (np.asarray(part, float) for part in line.get_data(orig=False))
    places = line.get_transform().transform(np.column_stack([x, y]))
    if line.get_marker() not in (None, "None", "none", "", " "):
        radius = line.get_markersize() / 2 * _pixels(line.axes)
        for across, up in places[np.isfinite(places).all(axis=1)]:
            yield _Outline.of(line, _square(across, up, radius), filled=True)
    if line.get_linestyle() not in ("None", "none", "", " "):
        steps = STEP_LOOKUP_MAP[line.get_drawstyle()](x, y)
        path = line.get_transform().transform_path(Path(np.column_stack(steps)))
        yield _Outline.of(line, path.cleaned(remove_nans=True), filled=False)


def _square(x: float, y: float, radius: float) -> Path:
    box = Bbox.from_extents(x - radius, y - radius, x + radius, y + radius)
    return Path.unit_rectangle().transformed(BboxTransformTo(box))


def _pixels(ax: Any) -> float:
    return float(ax.get_figure(root=True).dpi) / 72


def _cells(ax: Axes) -> Any:
    """The cells of the heatmaps of a panel that hold a value: rows x0, y0, x1, y1 in pixels."""
    found = [np.zeros((0, 4))]
    for values, x, y in _maps(ax) if ax.get_label() != "<colorbar>" else ():
        row, column = np.nonzero(np.isfinite(values))
        first = ax.transData.transform(np.column_stack([x[column], y[row]]))
        last = ax.transData.transform(np.column_stack([x[column + 1], y[row + 1]]))
        found.append(np.hstack([np.minimum(first, last), np.maximum(first, last)]))
    return np.concatenate(found)


def _maps(ax: Axes) -> Iterator[tuple[Any, Any, Any]]:
    """Values, edges of columns and edges of rows of each heatmap."""
    for image in ax.images:
        values = np.ma.filled(np.ma.asarray(image.get_array(), float), np.nan)
        left, right, bottom, top = image.get_extent()
        rows, columns = values.shape[:2]
        first, last = (top, bottom) if image.origin == "upper" else (bottom, top)
        yield values, np.linspace(left, right, columns + 1), np.linspace(first, last, rows + 1)
    for mesh in ax.collections:
        if isinstance(mesh, QuadMesh):
            places = mesh.get_coordinates()
            shape = (places.shape[0] - 1, places.shape[1] - 1)
            values = np.ma.filled(np.ma.asarray(mesh.get_array(), float), np.nan).reshape(shape)
            yield values, places[0, :, 0], places[:, 0, 1]


def texts_at_the_edge(figure: Figure, shown: Shown) -> list[str]:
    """Texts inside the figure that (nearly) touch its edge."""
    least = NEAREST_EDGE * figure.dpi
    width, height = figure.bbox.width, figure.bbox.height
    return [
        f"{text.get_text()!r} is at the edge"
        for text, box in shown
        if min(box.x0, box.y0, width - box.x1, height - box.y1) < least
    ]


def _labels(figure: Figure, shown: Shown) -> Iterator[tuple[str, list[tuple[str, Bbox]]]]:
    """The tick labels of every axis that are drawn, in order: 'x' or 'y', texts and boxes."""
    boxes = {id(text): box for text, box in shown}
    for ax in figure.axes:
        for name, axis in (("x", ax.xaxis), ("y", ax.yaxis)):
            found = [
                (label.get_text(), boxes[id(label)])
                for label in axis.get_ticklabels(which="both")
                if id(label) in boxes
            ]
            yield name, sorted(found, key=lambda one: (one[1].x0, one[1].y0))


def repeated_ticks(figure: Figure, shown: Shown) -> list[str]:
    """Numbers that two ticks of one axis bear."""
    found = []
    for _, labels in _labels(figure, shown):
        texts = [text for text, _ in labels]
        found += [
            f"two ticks say {text!r}" for text in dict.fromkeys(texts) if texts.count(text) > 1
        ]
    return found


def touching_ticks(figure: Figure, shown: Shown) -> list[str]:
    """Neighbouring tick labels without space between them."""
    found = []
    for name, labels in _labels(figure, shown):
        ends = ("x0", "x1") if name == "x" else ("y0", "y1")
        spans = sorted((*(getattr(box, end) for end in ends), text) for text, box in labels)
        least = 0.02 * figure.dpi if name == "x" else -2 * _SLACK
        for (_, end, first), (start, _, second) in pairwise(spans):
            if start - end < least:
                found.append(f"ticks {first!r} and {second!r} touch")
    return found


def empty_sides(figure: Figure) -> list[str]:
    """Panels whose data leave a third of one side free, and heatmaps without values there."""
    found = []
    for ax in figure.axes:
        if not ax.axison or ax.get_label() == "<colorbar>" or not ax.get_visible():
            continue
        name = ax.get_title(loc="left") or ax.get_title() or ax.get_ylabel()
        box = _extent(ax)
        if box is not None:
            for side, free, across in zip(
                ("left", "bottom", "right", "top"), box, (*box[2:], *box[:2]), strict=True
            ):
                if free - max(across, 0) >= MOST_EMPTY:
                    found.append(f"{name!r}: {100 * free:.0f} % empty at the {side}")
        for values, *_ in _maps(ax):
            # A row of zeros stands where another map of the same rows has values.
            alike = [one for other in figure.axes for one, *_ in _maps(other)]
            alike = [np.nan_to_num(one) for one in alike if one.shape == values.shape]
            found += [f"{name!r}: {what}" for what in _blank(np.abs(alike).max(axis=0))]
    return found


def _extent(ax: Axes) -> tuple[float, float, float, float] | None:
    """Shares of the panel that are free left, below, right and above; None without data."""
    places = [
        _where(line, ax, np.column_stack(line.get_data(orig=False)).astype(float))
        for line in ax.lines
    ]
    for patch in ax.patches:
        if isinstance(patch, Patch) and patch.get_zorder() >= BACKGROUND:
            path = patch.get_transform().transform_path(patch.get_path())
            places.append(_kept(ax, patch.get_transform(), path.vertices))
    for collection in ax.collections:
        transform = collection.get_transform()
        if isinstance(collection, PathCollection):
            offsets = np.ma.filled(np.ma.asarray(collection.get_offsets(), float), np.nan)
            places.append(collection.get_offset_transform().transform(offsets))
            continue
        places += [
            _kept(ax, transform, transform.transform(path.vertices))
            for path in collection.get_paths()
        ]
    for image in ax.images:
        left, right, bottom, top = image.get_extent()
        places.append(ax.transData.transform([(left, bottom), (right, top)]))
    every = np.concatenate(places) if places else np.zeros((0, 2))
    area = ax.bbox
    ends = []
    for column, (low, high) in enumerate(((area.x0, area.x1), (area.y0, area.y1))):
        own = every[:, column]
        own = np.clip(own[np.isfinite(own)], low, high)
        if not own.size:
            return None
        ends.append(((own.min() - low) / (high - low), (high - own.max()) / (high - low)))
    return ends[0][0], ends[1][0], ends[0][1], ends[1][1]


def _where(artist: Any, ax: Axes, places: Any) -> Any:
    transform = artist.get_transform()
    return _kept(ax, transform, transform.transform(places))


def _kept(ax: Axes, transform: Any, pixels: Any) -> Any:
    """Keep the coordinates that are data; a line through the whole panel has but one."""
    pixels = np.array(pixels, dtype=float)
    for column, is_data in enumerate(transform.contains_branch_seperately(ax.transData)):
        if not is_data:
            pixels[:, column] = np.nan
    return pixels


def _blank(values: Any) -> list[str]:
    """Sides of a heatmap of which a third or more of the columns or rows have one value or none."""
    found = []
    for axis, (before, behind) in enumerate((("top", "bottom"), ("left", "right"))):
        lines = np.moveaxis(values, axis, 0)
        blank = [bool(np.isnan(line).all() or (np.nan_to_num(line) == 0).all()) for line in lines]
        if all(blank):
            continue
        for side, order in ((before, blank), (behind, blank[::-1])):
            length = order.index(False)
            if length >= MOST_EMPTY * len(blank):
                found.append(f"{length} of {len(blank)} rows or columns blank at the {side}")
    return found
