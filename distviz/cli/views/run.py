"""A run on the terminal: main statistics, histograms, sparklines, effect on the output."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from distviz.cli.views.console import encode, is_unicode, percent_cell, plain_table, width_of
from distviz.results import (
    arm_layers,
    arm_settings,
    change_name,
    layer_name,
    layer_names,
    measured_line,
    moved_values,
    number,
    percent,
    records,
)
from distviz.stats import statistics

if TYPE_CHECKING:
    from distviz.results import Run
    from distviz.sites import SiteKey
    from distviz.stats import Sketch

_BLOCKS = " ▁▂▃▄▅▆▇█"
_ASCII_BLOCKS = "  .::-=+#"
_BARS = "▁▂▃▄▅▆▇█"
_ASCII_BARS = "_.:-=+*#"
_ROWS = 4
"""Lines of a small histogram."""
_WIDE = 110
"""Columns from which a table shows more."""
_BESIDE = 44
"""Columns beside a sparkline: its name and its range."""
_STYLES = {"before": ("blue", "bold bright_blue"), "after": ("yellow", "bold red")}
_STATISTICS = {"near_zero": "near-0", "std": "std", "gini": "Gini", "kurtosis": "kurtosis"}


def summary(run: Run, console: Console | None = None) -> Group:
    """Return the findings of a run: the sample, the layers, ARM's first layer, the effect.

    The console's width and encoding decide what is shown; None is a standard terminal of 80
    columns, here and in the other views.
    """
    parts: list[RenderableType] = [Text(encode(measured_line(run), console), style="bold")]
    layers = arm_layers(run)
    if layers:
        words = [f"{change_name(run)} in {layer_names(layers)}", arm_settings(run)]
        words.append(f"moved {moved_values(run)}")
        parts.append(Text(encode(" · ".join(filter(None, words)), console)))
    parts.append(stats_table(run, console))
    first = next((key for key in run.keys if key.phase == "moved_after"), None)
    if first is not None:
        parts += [*_titled_histogram(run, first, console), Text()]
    effect = effect_line(run)
    if effect:
        parts.append(Text(encode(effect, console), style="bold"))
    return Group(*parts)


def layer_details(run: Run, part: Run | None = None, console: Console | None = None) -> Group:
    """Return sparklines of all layers of a run, and histograms of the layers of a part of it.

    The layer that `summary` shows is left out; without a part there are no histograms.
    """
    parts: list[RenderableType] = []
    lines = sparklines(run, console)
    if lines:
        parts += [Text(), *(Text(encode(line, console)) for line in lines)]
    for key in _not_shown(part) if part is not None else ():
        parts += [Text(), *_titled_histogram(run, key, console)]
    return Group(*parts)


def _not_shown(part: Run) -> Iterator[SiteKey]:
    """Yield the first module of each layer and site, except those of the summary."""
    seen = {next(((k.layer, k.site) for k in part.keys if k.phase == "moved_after"), None)}
    for key in part.places():
        if (key.layer, key.site) not in seen:
            seen.add((key.layer, key.site))
            yield key


def _titled_histogram(run: Run, key: SiteKey, console: Console | None) -> list[RenderableType]:
    title = f"{layer_name(run, key.layer, key.stack)} · {key.site}"
    width = min(width_of(console) - 8, 96)
    ascii_only = not is_unicode(console)
    shape = histogram_blocks(run, key.layer, key.site, width, ascii_only=ascii_only)
    return [Text(encode(title, console), style="bold"), shape]


def effect_line(run: Run) -> str:
    """Return the effect of ARM on the output, or an empty string if it was not measured."""
    effect: dict[str, Any] = run.manifest.get("effect") or {}
    before, after = effect.get("loss_before"), effect.get("loss_after")
    if before is None:
        return ""
    if after is None:
        return f"loss {before:.4f} nats"
    words = [f"loss {before:.4f} → {after:.4f} nats ({after - before:+.4f})"]
    if effect.get("kl") is not None:
        words.append(f"KL {number(effect['kl'])}")
    if effect.get("top1_agreement") is not None:
        words.append(f"top-1 agreement {percent(effect['top1_agreement'])}")
    return " · ".join(words)


def stats_table(run: Run, console: Console | None = None) -> Table:
    """Return the main statistics by layer, before and after; a wide console shows more."""
    places = run.places()
    is_wide = width_of(console) >= _WIDE
    is_paired = any(key.phase == "after" for key in run.keys)
    has_sites = len({key.site for key in places}) > 1
    has_modules = len({(key.stack, key.layer, key.site) for key in places}) < len(places)
    table = plain_table(console)
    table.add_column("layer", no_wrap=True)
    if has_sites:
        table.add_column("site", no_wrap=True)
    if has_modules:
        table.add_column("module", overflow="ellipsis", no_wrap=True)
    labels = _module_labels(places)
    has_ends = is_wide or not has_modules
    for heading in _headings(is_paired=is_paired, is_wide=is_wide, has_ends=has_ends):
        table.add_column(heading, justify="right", no_wrap=True)
    marked = {key._replace(phase="") for key in run.keys if key.phase == "moved_after"}
    for key in places:
        has_arm = key._replace(phase="") in marked
        name = "" if key.stack == "decoder" else f"{key.stack} "
        names = [f"{name}{key.layer}" + f" {change_name(run)}" * has_arm]
        names += [key.site] * has_sites + [labels[key]] * has_modules
        cells = _cells(run, key, is_paired=is_paired, is_wide=is_wide, has_ends=has_ends)
        row = [encode(cell, console) for cell in (*names, *cells)]
        table.add_row(*row, style="bold" if has_arm else "")
    return table


def _module_labels(places: Iterable[SiteKey]) -> dict[SiteKey, str]:
    """Return the shortest parts of the module paths that distinguish them within a layer."""
    labels: dict[SiteKey, str] = {}
    groups: dict[tuple[str, int, str], list[SiteKey]] = {}
    for key in places:
        groups.setdefault((key.stack, key.layer, key.site), []).append(key)
    for keys in groups.values():
        paths = [key.module.split(".") for key in keys]
        same = next(
            (i for i, parts in enumerate(zip(*paths, strict=False)) if len({*parts}) > 1), 0
        )
        for length in range(len(keys) > 1, max(map(len, paths)) + 1):
            found = [".".join(path[same : same + length]) for path in paths]
            if len({*found}) == len(keys):
                break
        labels |= dict(zip(keys, found, strict=True))
    return labels


def _headings(*, is_paired: bool, is_wide: bool, has_ends: bool) -> Iterator[str]:
    if is_wide:
        yield "values"
    for name in ("near-0", "std", "Gini"):
        yield f"{name}\nbefore"
        if is_paired:
            yield "\nafter"
    for name in ("min", "max") if has_ends else ():
        if is_wide or not is_paired:
            yield f"{name}\nbefore"
        if is_paired:
            yield f"{name}\nafter" if not is_wide else "\nafter"
    if is_paired:
        yield "W1\n/ std"


def _cells(
    run: Run, key: SiteKey, *, is_paired: bool, is_wide: bool, has_ends: bool
) -> Iterator[str]:
    """Yield the cells of one place, in the order of `_headings`."""
    before = run.merged.get(key._replace(phase="before"))
    after = run.merged.get(key._replace(phase="after"))
    sketches = [before, after] if is_paired else [before]
    eps = run.bands[key]
    if is_wide:
        counted = before if before is not None else after
        yield f"{counted.count:,}" if counted is not None else "–"
    measures: tuple[Callable[[Sketch], str], ...] = (
        lambda sketch: percent_cell(statistics.near_zero(sketch, eps)),
        lambda sketch: number(sketch.std()),
        lambda sketch: number(statistics.gini(sketch)),
    )
    for measure in measures:
        yield from ("–" if sketch is None else measure(sketch) for sketch in sketches)
    for name in ("min", "max") if has_ends else ():
        shown = sketches if is_wide else sketches[-1:]
        yield from ("–" if one is None else number(getattr(one, name)) for one in shown)
    if is_paired:
        yield number(_distance(before, after))


def _distance(before: Sketch | None, after: Sketch | None) -> float:
    if before is None or after is None:
        return math.nan
    spread = before.std()
    return statistics.wasserstein(before, after) / spread if spread > 0 else math.nan


def histogram_blocks(
    run: Run, layer: int, site: str = "act", width: int = 72, *, ascii_only: bool = False
) -> Text:
    """Return small histograms of before and after on one scale, of at most ``width`` bins.

    They show the first module of the layer and site.

    Raises
    ------
    RequestError
        If the run has no such layer or site.
    """
    first = run.find(layer, site, next((k.phase for k in run.keys if k.layer == layer), "before"))
    found = {name: run.merged.get(first._replace(phase=name)) for name in ("before", "after")}
    sketches = {name: sketch for name, sketch in found.items() if sketch is not None}
    edges = _small_edges(list(sketches.values()), width)
    counts = {name: statistics.histogram(sketch, edges) for name, sketch in sketches.items()}
    peak = max(1, *(int(bars.max()) for bars in counts.values()))
    shape = Text()
    for name, bars in counts.items():
        partner = run.merged.get(
            first._replace(phase={"before": "moved_before"}.get(name, "moved_after"))
        )
        rest = bars if partner is None else bars - statistics.histogram(partner, edges)
        blocks = _ASCII_BLOCKS if ascii_only else _BLOCKS
        for row in reversed(range(_ROWS)):
            shape.append(f"{name if row == _ROWS - 1 else '':<7}", style="bold")
            scale = 8 * _ROWS / peak
            _append_row(shape, bars * scale - 8 * row, rest * scale - 8 * row, blocks, name)
            shape.append("\n")
    shape.append(_small_axis(edges))
    return shape


def _append_row(
    shape: Text, heights: NDArray[Any], rests: NDArray[Any], blocks: str, phase: str
) -> None:
    """Append one line; moved values have the second style."""
    plain, strong = _STYLES[phase]
    levels = np.clip(np.round(heights), 0, 8).astype(int)
    for level, rest in zip(np.trim_zeros(levels, "b").tolist(), rests.tolist(), strict=False):
        shape.append(blocks[level], style=strong if rest < level / 2 else plain)


def _small_edges(sketches: list[Sketch], width: int) -> NDArray[np.float64]:
    """Return at most ``width`` equal bins around zero; their width is a power of two."""
    ends = [np.abs(one.quantile([0.005, 0.995])).max() for one in sketches if one.count]
    reach = float(max(ends, default=0.0)) or 1.0
    most = max(width, 8) - 1
    step = 2.0 ** max(math.ceil(math.log2(2 * reach / most)), -140)
    half = max(math.ceil(reach / step - 0.5), 1) + 0.5
    if 2 * half > most + 1:
        half -= 1
    return np.arange(-half, half + 1) * step


def _small_axis(edges: NDArray[np.float64]) -> str:
    """Return the axis: both ends and zero."""
    left, right = number(edges[0]), number(edges[-1])
    bins = edges.size - 1
    line = [" "] * (7 + bins)
    for start, word in ((7, left), (7 + bins // 2, "0"), (7 + bins - len(right), right)):
        line[start : start + len(word)] = word
    return "".join(line).replace("−", "-")


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
    """Yield a line per phase, on one scale, with its minimum and maximum."""
    known = [value for course in values.values() for value in course if value is not None]
    for phase, course in values.items():
        own = [value for value in course if value is not None]
        if own:
            means = _means(course, per_mark)
            bars = sparkline(means, min(known), max(known), ascii_only=ascii_only)
            yield f"{phase:<7} {bars}  {write(min(own))} … {write(max(own))}"


def _means(course: Sequence[float | None], size: int) -> list[float | None]:
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
