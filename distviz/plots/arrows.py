"""The arrows of the signature figure: from the mass that moves to where it lands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.patches import FancyArrowPatch
from matplotlib.path import Path as Outline
from numpy.typing import NDArray

from distviz.plots import style
from distviz.plots.before_after_data import PairedBins, Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_arrows"]

_MOST_ARROWS = 3
"""On either side."""


def draw_arrows(figure: Figure, axes: list[Axes], data: PairedBins, floor: float) -> None:
    """Lead from the dark tip of the bars before to where the moved values are after.

    ``floor`` is the count at which bars begin.
    """
    above, below = axes
    source, target = data.panels
    if source.moved is None or target.moved is None:
        return
    tip = int(np.argmax(data.inside(source.moved))) + data.first
    base, height = source.counts[tip] - source.moved[tip], source.counts[tip]
    ends = above.transData.transform([(0, max(base, floor)), (0, height)])[:, 1]
    lift = figure.bbox.height * 0.012
    for side in (-1, 1):
        start_x = above.transData.transform((_middle(data, tip) + side * data.width / 2, 1))[0]
        for rank, (place, weight) in enumerate(_landing_places(data, target, side)):
            start = np.array([start_x, ends[1] - (0.12 + 0.13 * rank) * (ends[1] - ends[0])])
            bar = max(target.counts[place], source.counts[place], 1)
            end = below.transData.transform((_middle(data, place), bar)) + np.array([0, lift])
            _arrow(figure, start, end, weight)


def _arrow(
    figure: Figure, start: NDArray[np.float64], end: NDArray[np.float64], weight: float
) -> None:
    """One curve: out sideways, down from above; in parts of the figure, so it scales with it."""
    across, down = end - start
    controls = [start + np.array([0.45 * across, 0]), start + np.array([across, 0.12 * down])]
    places = figure.transFigure.inverted().transform([start, *controls, end])
    path = Outline(places, [Outline.MOVETO] + 3 * [Outline.CURVE4])
    figure.add_artist(
        FancyArrowPatch(
            path=path,
            transform=figure.transFigure,
            arrowstyle="-|>",
            mutation_scale=7,
            linewidth=0.6 + 0.6 * weight,
            color=style.INK,
            alpha=0.8,
            gid="arrow",
            shrinkA=0,
            shrinkB=0,
            capstyle="round",
        )
    )


def _middle(data: PairedBins, place: int) -> float:
    return float(data.edges[place] + data.edges[place + 1]) / 2


def _landing_places(data: PairedBins, panel: Panel, side: int) -> Iterator[tuple[int, float]]:
    """Yield bins that stand for equal parts of what lands on a side, outermost first.

    Each comes with the side's share of all that lands. A side of few pixels gets fewer arrows.
    """
    assert panel.moved is not None
    centers = (data.edges[:-1] + data.edges[1:]) / 2
    beside = (centers * side > data.width) & (np.abs(centers) < data.window[1])
    landed = np.where(beside, panel.moved, 0)
    total = int(landed.sum())
    if not total:
        return
    reach = float(np.average(np.abs(centers), weights=landed)) * 2
    arrows = min(_MOST_ARROWS, max(1, round(reach / data.window[1] * 6)))
    running = np.cumsum(landed[::side])
    share = total / max(int(panel.moved.sum()), 1)
    for index in range(arrows):
        wanted = (arrows - index - 0.5) / arrows * total
        place = int(np.searchsorted(running, wanted, side="left"))
        yield (place if side > 0 else landed.size - 1 - place), share
