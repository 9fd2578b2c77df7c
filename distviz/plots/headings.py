"""What stands at the top of a figure: what was measured, in paragraphs as wide as the figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distviz.plots import style
from distviz.plots.text_fit import shortened, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COLORS", "EDGE", "Heading", "Line", "sides"]

EDGE = 0.15
"""Inches left free beside a heading."""
COLORS = {"A": style.LINE["before"], "B": style.LINE["after"]}
"""Of the two sides of a comparison."""
_LEAD = 0.22
_LONGEST = 52
_SPACING = 1.35
_PITCH = 1.28
"""Distance of the lines of a paragraph, in sizes; follows from the spacing."""


@dataclass(frozen=True)
class Line:
    """A paragraph; ``kind`` names a size of `PageFormat`, ``lead`` stands before it."""

    text: str
    kind: str = "caption"
    color: str = style.MUTED
    weight: str = "normal"
    gid: str | None = None
    lead: str = ""

    @classmethod
    def title(cls, text: str) -> Line:
        """Return the first line: what was measured."""
        return cls(text, "title", style.INK, "bold")


class Heading:
    """Paragraphs at the top of a figure, broken into lines where they are too wide.

    Parameters
    ----------
    lines
        Those without text are left out.
    width
        Of the figure, in inches.

    Attributes
    ----------
    height
        Inches from the top of the figure down to the last base line.
    """

    def __init__(self, lines: Sequence[Line], width: float) -> None:
        self.height = 0.09
        self._width = width
        self._placed: list[tuple[float, str, Line]] = []
        for line in lines:
            if not line.text:
                continue
            points = style.size(line.kind)
            room = width - 2 * EDGE - (_LEAD if line.lead else 0.0)
            text = wrapped(line.text, room, points, line.weight)
            self.height += 1.35 * points / 72 + 0.05 if self._placed else points / 72
            self.height += (len(text) - 1) * _PITCH * points / 72
            # Matplotlib places a paragraph by the base line of its last line.
            self._placed.append((self.height, "\n".join(text), line))

    def write(self, figure: Figure) -> None:
        """Write the paragraphs."""
        height = figure.get_figheight()
        for down, text, line in self._placed:
            left, y = EDGE, 1 - down / height
            look: dict[str, Any] = {
                "fontsize": style.size(line.kind),
                "color": line.color,
                "weight": line.weight,
            }
            if line.lead:
                first = text.count("\n") * _PITCH * style.size(line.kind) / 72 / height
                figure.text(left / self._width, y + first, line.lead, **look)
                left += _LEAD
            figure.text(left / self._width, y, text, gid=line.gid, linespacing=_SPACING, **look)


def sides(names: tuple[str, str], captions: Sequence[Line], width: float) -> Heading:
    """Return the heading of a comparison: both names in their colours, and captions."""
    room = width - 2 * EDGE - _LEAD
    lines = []
    for side, name in zip(COLORS, names, strict=True):
        shown = name if len(name) <= _LONGEST else f"{name[:33]}…{name[-18:]}"
        shown = shortened(shown, room, style.size("side"), "bold")
        lines.append(Line(shown, "side", COLORS[side], "bold", gid="side", lead=side))
    return Heading([*lines, *captions], width)
