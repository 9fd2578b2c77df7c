"""Style of every figure: colours (after Okabe and Ito), page formats, fonts, and text widths."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.textpath import text_to_path

from distviz.settings import OPTIONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FONT = "DejaVu Sans"
"""It comes with Matplotlib, so figures are the same everywhere."""
INK = "#1f2328"
MUTED = "#6a7178"
GRID = "#e4e7ea"
BAND = "#d9dcdf"
ZERO = "#b3b9bf"
"""Of the line at zero."""
LIGHT = {"before": "#7cb5d8", "arm_input": "#7cb5d8", "after": "#f2ab7c"}
"""Fill of a phase: tints of Okabe and Ito's blue and vermillion."""
LINE = {"before": "#0072b2", "arm_input": "#0072b2", "after": "#d55e00"}
DARK = {"before": "#00416b", "arm_input": "#00416b", "after": "#8f3a00"}
"""The same hue, darker: values that ARM moves."""

RC: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": [FONT],
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
"""Figures use Matplotlib's defaults and these settings; the user's matplotlibrc has no effect.

PDF embeds fonts as TrueType (42) because some publishers refuse Type 3. SVG draws text as
outlines: no font embedding works in every viewer, and another font would make texts overlap.
"""


@dataclass(frozen=True)
class PageFormat:
    """Width of a figure and sizes of its texts.

    Attributes
    ----------
    name
        ``"screen"``, ``"single"`` or ``"double"``.
    width
        Inches; None where every figure has its own width.
    sizes
        Points: ``title`` (of the figure), ``side`` (name of a side), ``caption``, ``panel``
        (title of a panel), ``label`` (of an axis), ``phase``, ``tick`` (also legends and
        tables), ``note``, ``bar`` (numbers on bars).
    """

    name: str
    width: float | None
    sizes: Mapping[str, float]

    @property
    def is_paper(self) -> bool:
        """Whether the format fixes the width."""
        return self.width is not None

    @property
    def is_narrow(self) -> bool:
        """Whether there is no space beside a panel."""
        return self.width is not None and self.width < 5

    @property
    def column(self) -> float:
        """Inches beside a panel for a column of numbers."""
        return 1.96 if self.width is None else 1.84

    @property
    def marks(self) -> float:
        """Factor for the sizes of markers."""
        return 0.65 if self.is_narrow else 1.0

    def or_width(self, own: float) -> float:
        """Return the width of the format, or else a figure's own."""
        return own if self.width is None else self.width


_KINDS = ("title", "side", "caption", "panel", "label", "phase", "tick", "note", "bar")


def _format(name: str, width: float | None, *points: float) -> PageFormat:
    return PageFormat(name, width, dict(zip(_KINDS, points, strict=True)))


_SCREEN = _format("screen", None, 10.5, 10.0, 8.0, 8.5, 8.5, 9.5, 8.0, 7.5, 6.5)
_PAPER = {
    "single": _format("single", 3.25, 8.0, 8.0, 7.0, 7.5, 7.0, 7.5, 7.0, 7.0, 7.0),
    "double": _format("double", 6.75, 9.0, 9.0, 7.5, 8.0, 7.5, 8.5, 7.5, 7.0, 7.0),
}
"""Widths of ICML (columns of 3.25 in, text of 6.75 in), the narrowest of the usual ones, so that a
figure fits elsewhere at its own size: CVPR 3.25 and 6.875 in, ACM 3.33 and 7 in, IEEE 3.5 and
7.16 in, Nature 89 and 183 mm (3.5 and 7.2 in). No text is smaller than 7 points."""

_DEFAULTS: dict[Any, Any] = {
    name: value for name, value in mpl.rcParamsDefault.items() if name != "backend"
}
_LOCK = threading.RLock()
_current = _SCREEN


@contextmanager
def styled(width: str | None = None) -> Iterator[PageFormat]:
    """Draw or save with the style of distviz only; one thread at a time.

    Matplotlib keeps its settings globally for all threads; the page format is one more of them.

    Parameters
    ----------
    width
        ``"single"`` or ``"double"``: the columns of a paper; None: for a screen.

    Raises
    ------
    RequestError
        If there is no such width.
    """
    global _current  # noqa: PLW0603 -- guarded by the lock, like Matplotlib's own settings
    OPTIONS["figure_width"].check(width)
    chosen = _SCREEN if width is None else _PAPER[width]
    sizes: dict[Any, Any] = {
        "font.size": chosen.sizes["label"],
        "axes.titlesize": chosen.sizes["panel"],
        "axes.labelsize": chosen.sizes["label"],
        "xtick.labelsize": chosen.sizes["tick"],
        "ytick.labelsize": chosen.sizes["tick"],
        "legend.fontsize": chosen.sizes["tick"],
    }
    with _LOCK, mpl.rc_context({**_DEFAULTS, **RC, **sizes}):
        previous, _current = _current, chosen
        try:
            yield chosen
        finally:
            _current = previous


def page_format() -> PageFormat:
    """Return the page format in use."""
    return _current


def size(kind: str) -> float:
    """Return a size in points in the page format in use, see `PageFormat`."""
    return _current.sizes[kind]


def label_size() -> float:
    """Return the size of labels beside data, in points."""
    return min(_current.sizes["note"], 7.0)


def figure_of(ax: Axes) -> Figure:
    """Return the figure that contains a panel."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure


def phase_name(phase: str) -> str:
    """Return a phase as figures print it."""
    return "ARM input" if phase == "arm_input" else phase


def short_count(value: float, _: object = None) -> str:
    """Format a count for an axis: 250 k, 1.5 M."""
    for limit, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{unit}"
    return f"{value:g}"


def text_width(text: str, points: float, weight: str = "normal") -> float:
    """Return the width of a text in inches."""
    font = FontProperties(family=FONT, size=points, weight=weight)
    width = text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]
    return float(width) / 72


def drawable(text: str) -> str:
    """Return a text with escapes for the characters that the font lacks, such as in tokens."""
    font = get_font(findfont(FontProperties(family=FONT)))
    return "".join(
        one if font.get_char_index(ord(one)) else one.encode("unicode_escape").decode()
        for one in text
    )


_DRAWN = 0.97
"""Letters are drawn on whole pixels, which makes long lines wider than they are measured."""
_UNBROKEN = {" · ": "\N{NO-BREAK SPACE}· ", " %": "\N{NO-BREAK SPACE}%"}
"""No line break here: a dot between two parts stays at the end of the first."""


def wrapped(text: str, width: float, points: float, weight: str = "normal") -> list[str]:
    """Break a text into lines of a width in inches; a longer word is broken, too."""
    width *= _DRAWN
    if text_width(text, points, weight) <= width:
        return [text]
    for plain, unbroken in _UNBROKEN.items():
        text = text.replace(plain, unbroken)
    lines = [""]
    for word in text.split(" "):
        rest = word
        while rest:
            longer = f"{lines[-1]} {rest}".strip(" ")
            if text_width(longer, points, weight) <= width:
                lines[-1], rest = longer, ""
            elif lines[-1]:
                lines.append("")
            else:
                end = len(rest)
                while end > 1 and text_width(rest[:end], points, weight) > width:
                    end -= 1
                lines[-1], rest = rest[:end], rest[end:]
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def shortened(text: str, width: float, points: float, weight: str = "normal") -> str:
    """Replace the middle of a text by an ellipsis until it fits a width in inches."""
    shown, length = text, len(text)
    while length > 3 and text_width(shown, points, weight) > width:
        length -= 1
        tail = length // 3
        shown = f"{text[: length - tail]}…{text[-tail:]}"
    return shown
