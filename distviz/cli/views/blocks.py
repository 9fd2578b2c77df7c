"""Small pictures of block characters: histograms of one layer, courses over all layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text

from distviz.cli.views.console import is_unicode, width_of
from distviz.plots import AxisChoice, axes_of
from distviz.results import number, percent, records
from distviz.stats import bin_edges, statistics

if TYPE_CHECKING:
    from distviz.results import Run
    from distviz.sites import SiteKey
    from distviz.stats import Sketch, ValueScale

_BLOCKS = " ▁▂▃▄▅▆▇█"
_ASCII_BLOCKS = "  .::-=+#"
_BARS = "▁▂▃▄▅▆▇█"
_ASCII_BARS = "_.:-=+*#"
_ROWS = 4
"""Lines of a small histogram."""
_PEAKED = 0.1
"""Mean of the bars, of the tallest, up to which their heights are square roots."""
_POWER = 0.5
_LABEL = 8
"""Columns that stay free for the end of an axis whose zero is close to it."""
_BESIDE = 44
"""Columns beside a sparkline: its name and its range."""
_STYLES = {"before": ("blue", "bold bright_blue"), "after": ("yellow", "bold red")}
_STATISTICS = {"near_zero": "near-0", "std": "std", "gini": "Gini", "kurtosis": "kurtosis"}


def histogram_blocks(
    run: Run,
    layer: int,
    site: str = "act",
    width: int = 72,
    axes: AxisChoice | None = None,
    *,
    ascii_only: bool = False,
) -> Text:
    """Return small histograms of before and after on one scale, of at most ``width`` bins.

    They show the first module of the layer and site. The scale of the values, unless ``axes``
    names it, is that of all layers at the site; the window is that of this layer.

    Raises
    ------
    RequestError
        If the run has no such layer or site.
    """
    first = run.find(layer, site, next((k.phase for k in run.keys if k.layer == layer), "before"))
    found = {name: run.merged.get(first._replace(phase=name)) for name in ("before", "after")}
    sketches = {name: sketch for name, sketch in found.items() if sketch is not None}
    edges, scale = _small_edges(run, first, list(sketches.values()), width, axes or AxisChoice())
    bars = {name: _densities(sketch, edges, scale) for name, sketch in sketches.items()}
    peak = max(float(one.max()) for one in bars.values()) or 1.0
    power = 1.0 if min(map(_mean_of_filled, bars.values())) > _PEAKED * peak else _POWER
    shape = Text()
    for name, heights in bars.items():
        partner = run.merged.get(
            first._replace(phase={"before": "moved_before"}.get(name, "moved_after"))
        )
        rest = heights if partner is None else heights - _densities(partner, edges, scale)
        blocks = _ASCII_BLOCKS if ascii_only else _BLOCKS
        levels, rest_levels = (
            8 * _ROWS * (np.maximum(one, 0) / peak) ** power for one in (heights, rest)
        )
        for row in reversed(range(_ROWS)):
            is_named = row == _ROWS - 1 and len(bars) > 1
            shape.append(f"{name if is_named else '':<7}", style="bold")
            _append_row(shape, levels - 8 * row, rest_levels - 8 * row, blocks, name)
            shape.append("\n")
    shape.append(_small_axis(edges, scale))
    notes = ["axis: symmetric logarithmic"] * (scale.constant is not None)
    notes += ["height: square root of the count"] * (power != 1)
    if notes:
        shape.append(f"\n       {'; '.join(notes)}", style="dim")
    return shape


def _densities(
    sketch: Sketch, edges: NDArray[np.float64], scale: ValueScale
) -> NDArray[np.float64]:
    """Return the values per unit of the axis in each bin."""
    return statistics.histogram(sketch, edges) / np.diff(scale.forward(edges))


def _mean_of_filled(heights: NDArray[np.float64]) -> float:
    filled = heights[heights > 0]
    return float(filled.mean()) if filled.size else 0.0


def _append_row(
    shape: Text, heights: NDArray[Any], rests: NDArray[Any], blocks: str, phase: str
) -> None:
    """Append one line; moved values have the second style."""
    plain, strong = _STYLES[phase]
    levels = np.clip(np.round(heights), 0, 8).astype(int)
    for level, rest in zip(np.trim_zeros(levels, "b").tolist(), rests.tolist(), strict=False):
        shape.append(blocks[level], style=strong if rest < level / 2 else plain)


def _small_edges(
    run: Run, place: SiteKey, sketches: list[Sketch], width: int, asked: AxisChoice
) -> tuple[NDArray[np.float64], ValueScale]:
    """Return at most ``width`` bins over the values of this place, and their scale."""
    of_site = replace(asked, x_axis=axes_of(run, place, asked).x_axis)
    axes = axes_of(run, place, of_site, own=True)
    edges = bin_edges(sketches, max(width - _LABEL, 8), window=axes.window, scale=axes.scale)
    first, last = np.searchsorted(edges, axes.window)
    return edges[first : last + 1], axes.scale


def _small_axis(edges: NDArray[np.float64], scale: ValueScale) -> str:
    """Return the axis: both ends, the left one beside it, zero, and powers of ten if symlog."""
    left, right = number(edges[0]), number(edges[-1])
    bins = edges.size - 1
    line = [" "] * (7 + bins + _LABEL)
    zero = _column(edges, 0.0)
    starts = max(6 - len(left), 0), zero, max(7 + bins - len(right), zero + 2)
    for start, word in zip(starts, (left, "0", right), strict=True):
        line[start : start + len(word)] = word
    for tick in _powers(edges, scale):
        word = f"{tick:,g}"
        start = _column(edges, tick) - len(word) // 2
        around = line[start - 2 : start + len(word) + 2]
        if not "".join(around).strip():
            line[start : start + len(word)] = word
    return "".join(line).rstrip().replace("−", "-")


def _column(edges: NDArray[np.float64], value: float) -> int:
    """Return the column of the bin that a value is in."""
    return 7 + min(max(int(np.searchsorted(edges, value, "right")) - 1, 0), edges.size - 2)


def _powers(edges: NDArray[np.float64], scale: ValueScale) -> Iterator[float]:
    """Yield powers of ten and their negatives on a symmetric logarithmic axis, from outside."""
    if scale.constant is None:
        return
    reach = max(-edges[0], edges[-1])
    power = math.floor(math.log10(reach))
    while 10.0**power > scale.constant:
        yield from (tick for tick in (10.0**power, -(10.0**power)) if edges[0] < tick < edges[-1])
        power -= 1


def sparklines(run: Run, console: Console | None = None) -> list[str]:
    """Return one line for each site, statistic and phase, over all layers.

    The phases of a statistic share their scale. A mark is one layer, or the mean of several where
    the console is narrow. A run of one layer has no lines.
    """
    first = run.stats().drop_duplicates(["layer", "site", "phase", "stack"])
    found: list[str] = []
    for (_, site), here in first.groupby(["stack", "site"], sort=False):
        layers = sorted(set(here["layer"]))
        if len(layers) < 2:
            continue
        per_mark = math.ceil(len(layers) / max(width_of(console) - _BESIDE, 8))
        note = "" if per_mark == 1 else f", {per_mark} per mark"
        found.append(f"{site} by layer, {layers[0]} to {layers[-1]}{note}")
        for name, word in _STATISTICS.items():
            values = {
                phase: [row[name] for row in records(here[here["phase"] == phase])]
                for phase in ("before", "after")
            }
            write = percent if name == "near_zero" else number
            lines = _lines(values, per_mark, write, ascii_only=not is_unicode(console))
            found += [f"{word:<9}{line}" for line in lines]
    return found


def _lines(
    values: dict[str, list[float | None]],
    per_mark: int,
    write: Callable[[float], str],
    *,
    ascii_only: bool,
) -> Iterator[str]:
    """Yield a line per phase, on one scale, with its minimum and maximum.

    The only phase needs no name.
    """
    known = [value for course in values.values() for value in course if value is not None]
    is_paired = all(values.values())
    for phase, course in values.items():
        own = [value for value in course if value is not None]
        if own:
            bars = sparkline(means(course, per_mark), min(known), max(known), ascii_only=ascii_only)
            name = f"{phase:<7} " * is_paired
            yield f"{name}{bars}  {write(min(own))} … {write(max(own))}"


def means(course: Sequence[float | None], size: int) -> list[float | None]:
    """Return the means of so many neighbours each; None where all are missing."""
    groups = [course[start : start + size] for start in range(0, len(course), size)]
    known = [[value for value in group if value is not None] for group in groups]
    return [sum(group) / len(group) if group else None for group in known]


def sparkline(
    values: Sequence[float | None], low: float, high: float, *, ascii_only: bool = False
) -> str:
    """Return one block per value, from ``low`` to ``high``; a blank where there is none."""
    bars = _ASCII_BARS if ascii_only else _BARS
    span = (high - low) or 1.0
    steps = len(bars) - 1
    return "".join(
        " " if value is None else bars[round(steps * min(max((value - low) / span, 0.0), 1.0))]
        for value in values
    )
