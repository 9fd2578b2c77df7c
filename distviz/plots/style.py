"""One look for every figure: colours (after Okabe and Ito), fonts, and how numbers are written."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

from distviz.plots.page_format import SCREEN, PageFormat, page_format_named
from distviz.plots.text_fit import FAMILY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "BAND",
    "DARK",
    "GRID",
    "INK",
    "LIGHT",
    "LINE",
    "MUTED",
    "blank",
    "figure_of",
    "sheet",
    "short_count",
    "size",
    "styled",
]

INK = "#1f2328"
MUTED = "#6a7178"
GRID = "#e4e7ea"
BAND = "#d9dcdf"
LIGHT = {"before": "#7cb5d8", "arm_input": "#7cb5d8", "after": "#f2ab7c"}
"""Fill of a phase: tints of Okabe and Ito's blue and vermillion."""
LINE = {"before": "#0072b2", "arm_input": "#0072b2", "after": "#d55e00"}
DARK = {"before": "#00416b", "arm_input": "#00416b", "after": "#8f3a00"}
"""The same hue in dark: the mass that moves."""

RC: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": [FAMILY],
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "axes.formatter.use_mathtext": False,
    "text.color": INK,
    "text.usetex": False,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "ytick.minor.size": 1.5,
    "xtick.direction": "out",
    "legend.frameon": False,
    "figure.facecolor": "white",
    "figure.dpi": 150,
    "savefig.dpi": 150,
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "distviz",
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "path.simplify": True,
}
"""Drawn with Matplotlib's defaults and these, whatever the user's own matplotlibrc says.

Fonts go into PDF as TrueType (42), not as Type 3, which some publishers refuse. In SVG text is
drawn as outlines: an SVG has no way to carry a font that every viewer takes, and with another
font in its place words would run into each other.
"""

_LOCK = threading.RLock()
_sheet = SCREEN


@contextmanager
def styled(width: str | None = None) -> Iterator[PageFormat]:
    """Draw or save under the style of distviz and nobody else's; one thread at a time.

    Matplotlib keeps its settings in one place for all threads; the sheet is one more of them.

    Parameters
    ----------
    width
        ``"single"`` or ``"double"``: the columns of a paper; None: for a screen.

    Raises
    ------
    RequestError
        If there is no such width.
    """
    global _sheet  # noqa: PLW0603 -- guarded by the lock, like Matplotlib's own settings
    chosen = page_format_named(width)
    with _LOCK, mpl.rc_context({**_BASE, **RC, **_sizes(chosen)}):
        before, _sheet = _sheet, chosen
        try:
            yield chosen
        finally:
            _sheet = before


def sheet() -> PageFormat:
    """Return the sheet that is drawn on."""
    return _sheet


def size(kind: str) -> float:
    """Return a size in points on the sheet that is drawn on, see `PageFormat`."""
    return _sheet.sizes[kind]


def _sizes(chosen: PageFormat) -> dict[Any, Any]:
    sizes = chosen.sizes
    return {
        "font.size": sizes["label"],
        "axes.titlesize": sizes["panel"],
        "axes.labelsize": sizes["label"],
        "xtick.labelsize": sizes["tick"],
        "ytick.labelsize": sizes["tick"],
        "legend.fontsize": sizes["tick"],
    }


_BASE: dict[Any, Any] = {
    name: value for name, value in mpl.rcParamsDefault.items() if name != "backend"
}


def blank(width: float, height: float) -> Figure:
    """Return an empty figure, in inches."""
    return Figure(figsize=(width, height))


def figure_of(ax: Axes) -> Figure:
    """Return the figure that a panel stands in."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure


def short_count(value: float, _: object = None) -> str:
    """Write a count for an axis: 250 k, 1.5 M."""
    for limit, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{unit}"
    return f"{value:g}"
