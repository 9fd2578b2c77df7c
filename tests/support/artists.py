"""What the artists of a figure hold: texts, lines and bars, by their gid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from support.legibility import texts_shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def panels(figure: Figure) -> list[Any]:
    """The axes of a figure without its strip."""
    return [axes for axes in figure.axes if axes.get_gid() != "strip"]


def artists(axes: Any, gid: str) -> list[Any]:
    return [artist for artist in axes.get_children() if artist.get_gid() == gid]


def stairs(axes: Any, gid: str = "bars") -> tuple[Any, Any, Any]:
    """Heights, edges and baselines of the bars with a gid."""
    (artist,) = artists(axes, gid)
    values, edges, baseline = artist.get_data()
    return np.asarray(values), np.asarray(edges), np.broadcast_to(baseline, np.shape(values))


def texts_of(figure: Figure) -> list[str]:
    """Texts of the figure, its panels and its legends; not titles and labels."""
    found = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        found += [text.get_text() for text in axes.texts]
        legend = axes.get_legend()
        found += [text.get_text() for text in legend.get_texts()] if legend else []
    for legend in figure.legends:
        found += [text.get_text() for text in legend.get_texts()]
    return found


def shown_text(figure: Figure) -> str:
    """Every text that is drawn, on one line."""
    return " ".join(" ".join(text.get_text().split()) for text, _ in texts_shown(figure))


def lines_by_gid(figure: Figure) -> dict[str, Any]:
    return {line.get_gid(): line for ax in figure.axes for line in ax.get_lines() if line.get_gid()}


def line_data(figure: Figure, gid: str) -> tuple[list[float], list[float]]:
    """x and y of the first line with a gid."""
    for axes in figure.axes:
        for line in axes.get_lines():
            if line.get_gid() == gid:
                return list(line.get_xdata()), list(line.get_ydata())
    raise AssertionError(gid)


def heatmap_cells(figure: Figure, gid: str) -> tuple[list[str], Any]:
    """Labels of the rows of a heatmap, and its numbers."""
    for axes in figure.axes:
        for mesh in artists(axes, gid):
            return [label.get_text() for label in axes.get_yticklabels()], mesh.get_array()
    raise AssertionError(gid)


def counted(values: Any, edges: Any) -> Any:
    """Return the number of values in each drawn bin; all of them are open at the right."""
    # One more edge: the last bin of numpy.histogram is closed.
    return np.histogram(values, np.append(edges, np.inf))[0][:-1]
