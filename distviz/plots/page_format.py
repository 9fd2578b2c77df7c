"""The sheet that a figure is drawn on: a screen, or one or two columns of a paper.

Widths are those of ICML (columns of 3.25 in, text of 6.75 in), the narrowest of the usual ones, so
that a figure fits at its own size elsewhere, too: CVPR 3.25 and 6.875 in, ACM 3.33 and 7 in, IEEE
3.5 and 7.16 in, Nature 89 and 183 mm (3.5 and 7.2 in). No text is smaller than 7 points.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from distviz.errors import RequestError, nearest

__all__ = ["DOUBLE", "SCREEN", "SINGLE", "WIDTHS", "PageFormat", "page_format_named"]


@dataclass(frozen=True)
class PageFormat:
    """How wide a figure is, and how large its text.

    Attributes
    ----------
    name
        ``"screen"``, ``"single"`` or ``"double"``.
    width
        Inches; None where every figure has a width of its own.
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
        """Whether the width is given from outside."""
        return self.width is not None

    @property
    def is_narrow(self) -> bool:
        """Whether nothing stands beside a panel."""
        return self.width is not None and self.width < 5

    @property
    def column(self) -> float:
        """Inches beside a panel for a column of numbers."""
        return 1.96 if self.width is None else 1.84

    @property
    def marks(self) -> float:
        """By what the sizes of marks are multiplied."""
        return 0.65 if self.is_narrow else 1.0

    def or_width(self, own: float) -> float:
        """Return the width of the sheet, or a figure's own."""
        return own if self.width is None else self.width


_SCREEN = {
    "title": 10.5, "side": 10.0, "caption": 8.0, "panel": 8.5, "label": 8.5, "phase": 9.5,
    "tick": 8.0, "note": 7.5, "bar": 6.5,
}  # fmt: skip
_SINGLE = {
    "title": 8.0, "side": 8.0, "caption": 7.0, "panel": 7.5, "label": 7.0, "phase": 7.5,
    "tick": 7.0, "note": 7.0, "bar": 7.0,
}  # fmt: skip
_DOUBLE = {
    "title": 9.0, "side": 9.0, "caption": 7.5, "panel": 8.0, "label": 7.5, "phase": 8.5,
    "tick": 7.5, "note": 7.0, "bar": 7.0,
}  # fmt: skip

SCREEN = PageFormat("screen", None, _SCREEN)
SINGLE = PageFormat("single", 3.25, _SINGLE)
DOUBLE = PageFormat("double", 6.75, _DOUBLE)
WIDTHS = {"single": SINGLE, "double": DOUBLE}
"""By the words of ``--figure-width``."""


def page_format_named(width: str | None) -> PageFormat:
    """Return the sheet of a width; None is the screen.

    Raises
    ------
    RequestError
        If there is no such width.
    """
    if width is None:
        return SCREEN
    if width not in WIDTHS:
        raise RequestError(
            f"--figure-width is '{width}'{nearest(width, WIDTHS)}", f"allowed: {', '.join(WIDTHS)}"
        )
    return WIDTHS[width]
