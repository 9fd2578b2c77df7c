"""One look for every figure: colours (after Okabe and Ito), fonts, and how numbers are written."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

__all__ = [
    "BAND",
    "DARK",
    "GRID",
    "INK",
    "LIGHT",
    "LINE",
    "MUTED",
    "blank",
    "short_count",
    "styled",
]

INK = "#1f2328"
MUTED = "#6a7178"
GRID = "#e4e7ea"
BAND = "#d9dcdf"
LIGHT = {"before": "#7cb5d8", "arriving": "#7cb5d8", "after": "#f2ab7c"}
"""Fill of a phase: tints of Okabe and Ito's blue and vermillion."""
LINE = {"before": "#0072b2", "arriving": "#0072b2", "after": "#d55e00"}
DARK = {"before": "#00416b", "arriving": "#00416b", "after": "#8f3a00"}
"""The same hue in dark: the mass that moves."""

RC: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.labelsize": 8.5,
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
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "ytick.minor.size": 1.5,
    "xtick.direction": "out",
    "legend.frameon": False,
    "legend.fontsize": 8,
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
"""Drawn with Matplotlib's defaults and these, whatever the user's own matplotlibrc says."""


_LOCK = threading.RLock()


@contextmanager
def styled() -> Iterator[None]:
    """Draw or save under the style of distviz and nobody else's; one thread at a time.

    Matplotlib keeps its settings in one place for all threads.
    """
    with _LOCK, mpl.rc_context({**_BASE, **RC}):
        yield


_BASE: dict[Any, Any] = {
    name: value for name, value in mpl.rcParamsDefault.items() if name != "backend"
}


def blank(width: float, height: float) -> Figure:
    """Return an empty figure, in inches."""
    return Figure(figsize=(width, height))


def short_count(value: float, _: object = None) -> str:
    """Write a count for an axis: 250 k, 1.5 M."""
    for limit, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{unit}"
    return f"{value:g}"
