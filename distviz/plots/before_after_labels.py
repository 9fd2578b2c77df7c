"""What is written beside or below the signature figure: its numbers, and what lies beyond it."""

from __future__ import annotations

from collections.abc import Iterator

from distviz.plots import style
from distviz.plots.before_after_data import PairedBins, Panel
from distviz.plots.margin import Row, Tails
from distviz.results import number, percent

__all__ = ["RULED", "heads", "numbers", "tails"]

RULED = ("n", "moved")
"""Rows with a rule above."""


def heads(data: PairedBins) -> list[tuple[str, str]]:
    """Return the phases with their colours."""
    return [(panel.phase, style.LINE[panel.phase]) for panel in data.panels]


def numbers(data: PairedBins) -> Iterator[Row]:
    """Yield the main numbers of every panel."""
    shown = data.panels
    counts = [panel.count for panel in shown]
    same = len(set(counts)) == 1
    yield "n", [f"{count:,}" for count in (counts[:1] if same else counts)]
    yield "near zero", [percent(panel.near_zero) for panel in shown]
    yield "std", [number(panel.std) for panel in shown]
    yield "Gini", [number(panel.gini) for panel in shown]
    if any(panel.nonfinite for panel in shown):
        yield "NaN, inf", [f"{panel.nonfinite:,}" for panel in shown]
    if data.moved is not None:
        share = percent(data.moved / max(shown[0].count, 1))
        yield "moved", [f"k = {data.moved:,} ({share})"]


def tails(data: PairedBins, panel: Panel) -> Tails:
    """Return what lies outside of the window."""
    left, right = (count / max(panel.count, 1) for count in data.beyond(panel))
    return (left, panel.low), (right, panel.high)
