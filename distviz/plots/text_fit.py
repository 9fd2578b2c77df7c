"""How wide texts are, and how they are broken or shortened to fit a width."""

from __future__ import annotations

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

__all__ = ["FAMILY", "shortened", "text_width", "wrapped"]

FAMILY = "DejaVu Sans"
"""The font of every figure: it comes with Matplotlib, so figures are the same everywhere."""
_KEPT = {" · ": "\N{NO-BREAK SPACE}· ", " %": "\N{NO-BREAK SPACE}%"}
"""Where a line is not broken: a dot between parts stays with what it ends."""


def text_width(text: str, points: float, weight: str = "normal") -> float:
    """Return how wide a text is, in inches."""
    font = FontProperties(family=FAMILY, size=points, weight=weight)
    width = text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]
    return float(width) / 72


def wrapped(text: str, width: float, points: float, weight: str = "normal") -> list[str]:
    """Break a text into lines of a width in inches; a word that is wider is cut."""
    if text_width(text, points, weight) <= width:
        return [text]
    for plain, kept in _KEPT.items():
        text = text.replace(plain, kept)
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
                end = _fitting(rest, width, points, weight)
                lines[-1], rest = rest[:end], rest[end:]
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def _fitting(word: str, width: float, points: float, weight: str) -> int:
    """Return how many characters of a word fit, at least one."""
    number = len(word)
    while number > 1 and text_width(word[:number], points, weight) > width:
        number -= 1
    return number


def shortened(text: str, width: float, points: float, weight: str = "normal") -> str:
    """Leave characters out of the middle of a text until it is no wider than a width in inches."""
    shown, kept = text, len(text)
    while kept > 3 and text_width(shown, points, weight) > width:
        kept -= 1
        behind = kept // 3
        shown = f"{text[: kept - behind]}…{text[-behind:]}"
    return shown
