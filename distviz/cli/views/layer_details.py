"""A run looked at closely on the terminal: sparklines by depth, small histograms of some layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.text import Text

from distviz.cli.views import run as tables
from distviz.cli.views.console import is_unicode, write
from distviz.results import layer_name, number, percent, records

if TYPE_CHECKING:
    from distviz.results import Run
    from distviz.sites import SiteKey

__all__ = ["layer_details", "sparkline", "sparklines"]

_BARS = "▁▂▃▄▅▆▇█"
_ASCII_BARS = "_.:-=+*#"
_STATISTICS = {"near_zero": "near-0", "std": "std", "gini": "Gini", "kurtosis": "kurtosis"}
_PHASES = ("before", "after")
_BESIDE = 44
"""Columns beside a sparkline: what it is, and its ends."""


def layer_details(whole: Run, part: Run | None = None, console: Console | None = None) -> Group:
    """Return sparklines of a whole run, and histograms of the layers of a part of it.

    Parameters
    ----------
    whole
        What was measured; its sparklines run through all layers.
    part
        Its layers are shown as histograms, but for the one that `tables.summary` shows already;
        None shows none.
    console
        Where it will be printed: its width and encoding decide what is shown; None means a
        standard terminal of 80 columns.
    """
    parts: list[RenderableType] = []
    lines = sparklines(whole, console)
    if lines:
        parts += [Text(), *(Text(write(line, console)) for line in lines)]
    width = min((console.width if console else 80) - 8, 96)
    for key in _not_shown(part) if part is not None else ():
        title = f"{layer_name(whole, key.layer, key.stack)} · {key.site}"
        shape = tables.histogram_blocks(
            whole, key.layer, key.site, width, ascii_only=not is_unicode(console)
        )
        parts += [Text(), Text(write(title, console), style="bold"), shape]
    return Group(*parts)


def _not_shown(part: Run) -> Iterator[SiteKey]:
    """Yield a place for each layer and site, but for the one of the summary."""
    shown = next(((k.layer, k.site) for k in part.keys if k.phase == "moved_after"), None)
    seen = {shown}
    for key in part.places():
        if (key.layer, key.site) not in seen:
            seen.add((key.layer, key.site))
            yield key


def sparklines(run: Run, console: Console | None = None) -> list[str]:
    """Return one line for each site, statistic and phase: its course through the layers.

    The phases of a statistic share their scale. One mark is a layer, or the mean of several where
    the console is narrow. None is returned for a run of one layer.
    """
    stats = run.stats()
    first = stats.drop_duplicates(["layer", "site", "phase", "stack"])
    room = max((console.width if console else 80) - _BESIDE, 8)
    found: list[str] = []
    for (_, site), here in first.groupby(["stack", "site"], sort=False):
        layers = sorted(set(here["layer"]))
        if len(layers) < 2:
            continue
        each = math.ceil(len(layers) / room)
        every = "" if each == 1 else f", {each} a mark"
        found.append(f"{site} by layer, {layers[0]} to {layers[-1]}{every}")
        for name, word in _STATISTICS.items():
            values = {
                phase: [row[name] for row in records(here[here["phase"] == phase])]
                for phase in _PHASES
            }
            found += _lines(word, values, each, is_share=name == "near_zero", console=console)
    return found


def _lines(
    word: str,
    values: dict[str, list[float | None]],
    each: int,
    *,
    is_share: bool,
    console: Console | None,
) -> Iterator[str]:
    """Yield a line a phase, on one scale, with the least and the largest value."""
    known = [v for course in values.values() for v in course if v is not None]
    if not known:
        return
    say = percent if is_share else number
    for phase, course in values.items():
        own = [value for value in course if value is not None]
        if own:
            bars = sparkline(
                _means(course, each), min(known), max(known), ascii_only=not is_unicode(console)
            )
            yield f"{word:<9}{phase:<7} {bars}  {say(min(own))} … {say(max(own))}"


def _means(course: Sequence[float | None], each: int) -> list[float | None]:
    groups = [course[start : start + each] for start in range(0, len(course), each)]
    known = [[value for value in group if value is not None] for group in groups]
    return [sum(group) / len(group) if group else None for group in known]


def sparkline(
    values: Sequence[float | None], low: float, high: float, *, ascii_only: bool = False
) -> str:
    """Return one block a value, from ``low`` to ``high``; a blank where there is none."""
    bars = _ASCII_BARS if ascii_only else _BARS
    span = (high - low) or 1.0
    steps = len(bars) - 1
    return "".join(
        " " if value is None else bars[round(steps * min(max((value - low) / span, 0.0), 1.0))]
        for value in values
    )
