"""A run on the terminal: tables, a small histogram and the effect on the output, by rich.

Where the console's encoding is not a Unicode one, every character is ASCII.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from distviz.cli.views.console import is_unicode, plain_table, write
from distviz.results import (
    arm_layers,
    arm_settings,
    change_name,
    dtype_name,
    layer_name,
    model_name,
    number,
    percent,
)
from distviz.stats import statistics

if TYPE_CHECKING:
    from distviz.results import Run
    from distviz.sites import SiteKey
    from distviz.stats import Sketch

__all__ = ["effect_line", "histogram_blocks", "stats_table", "summary"]

_BLOCKS = " ▁▂▃▄▅▆▇█"
_ASCII_BLOCKS = "  .::-=+#"
_ROWS = 4
"""Lines of a small histogram."""
_WIDE = 110
"""Columns from which a table shows more."""
_STYLES = {"before": ("blue", "bold bright_blue"), "after": ("yellow", "bold red")}


def summary(run: Run, console: Console | None = None) -> Group:
    """Return the findings of a run: what was measured, the layers, ARM's first layer, the effect.

    Parameters
    ----------
    run
        What was measured.
    console
        Where it will be printed: its width and encoding decide what is shown; None means a
        standard terminal of 80 columns.
    """
    parts: list[RenderableType] = [Text(write(_measured(run), console), style="bold")]
    moved = _moved(run)
    if moved:
        parts.append(Text(write(moved, console)))
    parts.append(stats_table(run, console))
    for key in run.keys:
        if key.phase == "moved_after":
            width = min((console.width if console else 80) - 8, 96)
            title = f"{layer_name(run, key.layer, key.stack)} · {key.site}"
            shape = histogram_blocks(
                run, key.layer, key.site, width, ascii_only=not is_unicode(console)
            )
            parts += [Text(write(title, console), style="bold"), shape, Text()]
            break
    effect = effect_line(run)
    if effect:
        parts.append(Text(write(effect, console), style="bold"))
    return Group(*parts)


def _measured(run: Run) -> str:
    model, text = run.manifest.get("model") or {}, run.manifest.get("text") or {}
    layers = model.get("layers")
    words = [model_name(run)]
    if model.get("activation"):
        words.append(str(model["activation"]))
    if isinstance(layers, int):
        words.append(f"{layers} layer{'s' * (layers != 1)}")
    if text.get("tokens"):
        many = text.get("documents")
        words.append(f"{text['tokens']:,} tokens" + (f" in {many:,} documents" if many else ""))
    if dtype_name(run):
        words.append(dtype_name(run))
    return " · ".join(words)


def _moved(run: Run) -> str:
    layers = arm_layers(run)
    if not layers:
        return ""
    shown = ", ".join(map(str, layers[:6])) + ", …" * (len(layers) > 6)
    moved = sum(run.merged[key].count for key in run.keys if key.phase == "moved_before")
    behind = [key for key in run.keys if key.phase == "moved_before"]
    values = sum(run.merged[key._replace(phase="after")].count for key in behind)
    words = [
        f"{change_name(run)} in layer{'s' * (len(layers) > 1)} {shown}",
        arm_settings(run),
        f"moved {moved:,} values ({percent(moved / max(values, 1))})",
    ]
    return " · ".join(word for word in words if word)


def effect_line(run: Run) -> str:
    """Return what ARM does to the output, or an empty string where it was not measured."""
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
    """Return the main numbers by layer, before and after; 80 columns, more where there is room."""
    places = run.places()
    is_wide = bool(console) and console.width >= _WIDE if console else False
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
        row = [write(cell, console) for cell in (*names, *cells)]
        table.add_row(*row, style="bold" if has_arm else "")
    return table


def _module_labels(places: Iterable[SiteKey]) -> dict[SiteKey, str]:
    """Tell the modules of a layer's site apart by as few parts of their paths as it takes."""
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
        lambda sketch: percent(statistics.near_zero(sketch, eps)).replace(" %", "%"),
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
    """Return before and after as small histograms of block characters, on one scale.

    Parameters
    ----------
    run
        What was measured.
    layer, site
        The place; its first module.
    width
        Columns at most, beside the names.
    ascii_only
        Draw with ASCII characters.

    Raises
    ------
    RequestError
        If the run holds no such place.
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
    """Append one line; the mass that moves in the second style."""
    plain, strong = _STYLES[phase]
    levels = np.clip(np.round(heights), 0, 8).astype(int)
    for level, rest in zip(np.trim_zeros(levels, "b").tolist(), rests.tolist(), strict=False):
        shape.append(blocks[level], style=strong if rest < level / 2 else plain)


def _small_edges(sketches: list[Sketch], width: int) -> NDArray[np.float64]:
    """Return at most ``width`` equal bins, as wide as a power of two and centred on zero."""
    ends = [np.abs(one.quantile([0.005, 0.995])).max() for one in sketches if one.count]
    reach = float(max(ends, default=0.0)) or 1.0
    room = max(width, 8) - 1
    step = 2.0 ** max(math.ceil(math.log2(2 * reach / room)), -140)
    half = max(math.ceil(reach / step - 0.5), 1) + 0.5
    if 2 * half > room + 1:
        half -= 1
    return np.arange(-half, half + 1) * step


def _small_axis(edges: NDArray[np.float64]) -> str:
    """Return the line below: the ends and zero."""
    left, right = number(edges[0]), number(edges[-1])
    bins = edges.size - 1
    line = [" "] * (7 + bins)
    for start, word in ((7, left), (7 + bins // 2, "0"), (7 + bins - len(right), right)):
        line[start : start + len(word)] = word
    return "".join(line).replace("−", "-")
