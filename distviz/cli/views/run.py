"""A run on the terminal: effect on the output, main statistics, histograms, sparklines."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from distviz.cli.views.blocks import histogram_blocks, sparklines
from distviz.cli.views.console import (
    Column,
    FittedTable,
    command,
    encode,
    is_unicode,
    paragraph,
    percent_cell,
    width_of,
)
from distviz.cli.views.formats import format_lines
from distviz.results import (
    ADVICE,
    DEFINITION,
    arm_layers,
    arm_settings,
    change_name,
    layer_name,
    layer_names,
    massive_lines,
    measured_line,
    moved_values,
    number,
    output_verdict,
    records,
)
from distviz.sites import SiteKey
from distviz.stats import statistics

if TYPE_CHECKING:
    from distviz.plots import AxisChoice
    from distviz.results import Run


def summary(
    run: Run,
    console: Console | None = None,
    axes: AxisChoice | None = None,
    whole: Run | None = None,
) -> Group:
    """Return the findings of a run: the sample, the effect, the layers, ARM's first layer.

    The console's width and encoding decide what is shown; None is a standard terminal of 80
    columns, here and in the other views. ``axes`` are those asked for, of the histogram;
    ``whole`` is the run whose layers have them, if this is a part of it.
    """
    verdict = output_verdict(run)
    sample: list[RenderableType] = [paragraph(measured_line(run), console, style="bold")]
    layers = arm_layers(run)
    if layers:
        words = [f"{change_name(run)} in {layer_names(layers)}", arm_settings(run)]
        words += [f"moved {moved}"] if (moved := moved_values(run)) else []
        sample.append(paragraph(" · ".join(filter(None, words)), console))
    parts: list[RenderableType]
    if verdict is not None and verdict.commands:
        parts = [paragraph(verdict.text, console, style="bold red"), paragraph(ADVICE, console)]
        parts += [*(command(f"  {one}", console) for one in verdict.commands), Text(), *sample]
    else:
        effect = loss_line(run) if verdict is None else verdict.text
        parts = [*sample, *[paragraph(effect, console, style="bold")] * bool(effect)]
    parts += _massive(run, console)
    parts += [stats_table(run), paragraph(_legend(run), console, style="dim")]
    parts += format_lines(run, console)
    first = next((key for key in run.keys if key.phase == "moved_after"), None)
    if first is not None:
        parts += [Text(), *_titled_histogram(whole or run, first, console, axes)]
    return Group(*parts)


def _massive(run: Run, console: Console | None) -> list[RenderableType]:
    """Return a line for each site with massive activations, below their definition."""
    lines = massive_lines(run)
    if not lines:
        return []
    title = paragraph(f"Massive activations ({DEFINITION})", console, style="bold")
    return [title, *(paragraph(f"  {line}", console, indent=2) for line in lines)]


def layer_details(
    run: Run,
    part: Run | None = None,
    console: Console | None = None,
    axes: AxisChoice | None = None,
) -> Group:
    """Return sparklines of all layers of a run, and histograms of the layers of a part of it.

    The layer that `summary` shows is left out; without a part there are no histograms.
    """
    parts: list[RenderableType] = []
    lines = sparklines(run, console)
    if lines:
        parts += [Text(), *(paragraph(line, console) for line in lines)]
    for key in _not_shown(part) if part is not None else ():
        parts += [Text(), *_titled_histogram(run, key, console, axes)]
    return Group(*parts)


def _not_shown(part: Run) -> Iterator[SiteKey]:
    """Yield the first module of each layer and site, except those of the summary."""
    seen = {next(((k.layer, k.site) for k in part.keys if k.phase == "moved_after"), None)}
    for key in part.places():
        if (key.layer, key.site) not in seen:
            seen.add((key.layer, key.site))
            yield key


def _titled_histogram(
    run: Run, key: SiteKey, console: Console | None, axes: AxisChoice | None
) -> list[RenderableType]:
    title = f"{layer_name(run, key.layer, key.stack)} · {key.site}"
    width = min(width_of(console) - 8, 96)
    ascii_only = not is_unicode(console)
    shape = histogram_blocks(run, key.layer, key.site, width, axes, ascii_only=ascii_only)
    return [Text(encode(title, console), style="bold"), shape]


def loss_line(run: Run) -> str:
    """Return the loss of a model without redistribution, empty if it was not measured."""
    effect: dict[str, Any] = run.manifest.get("effect") or {}
    loss = effect.get("loss_before")
    return "" if loss is None or arm_layers(run) else f"loss {loss:.4f} nats"


def stats_table(run: Run) -> FittedTable:
    """Return the main statistics by layer, before and after."""
    places = run.places()
    has_sites = len({key.site for key in places}) > 1
    has_modules = len({(key.stack, key.layer, key.site) for key in places}) < len(places)
    names = ["site"] * has_sites + ["module"] * has_modules
    phases = [phase for phase in ("before", "after") if any(k.phase == phase for k in run.keys)]
    is_paired = len(phases) > 1
    table = FittedTable(
        [
            Column("layer", kind="text"),
            *(Column(name, kind="name") for name in names),
            Column("values", drop=_FIRST),
            *(
                Column(one, phase * is_paired, drop)
                for one, (drop, _) in _MEASURES.items()
                for phase in phases
            ),
            *[Column("W1", "/ std", drop=2)] * is_paired,
            *[Column("change", "mean / std", drop=5)] * bool(run.mean_changes),
        ],
        "stats.csv",
    )
    labels = module_labels(places)
    marked = {key._replace(phase="") for key in run.keys if key.phase == "moved_after"}
    rows = {SiteKey(*(row[name] for name in SiteKey._fields)): row for row in records(run.stats())}
    for key in places:
        has_arm = key._replace(phase="") in marked
        stack = "" if key.stack == "decoder" else f"{key.stack} "
        cells = [f"{stack}{key.layer}" + f" {change_name(run)}" * has_arm]
        cells += [key.site] * has_sites + [labels[key]] * has_modules
        of_phases = [rows.get(key._replace(phase=phase)) for phase in phases]
        counted = next((row["count"] for row in of_phases if row is not None), None)
        cells.append("–" if counted is None else f"{counted:,}")
        cells += [
            "–" if row is None else write(row)
            for _, write in _MEASURES.values()
            for row in of_phases
        ]
        cells += [number(_distance(run, key))] * is_paired
        cells += [number(_mean_change(run, key))] * bool(run.mean_changes)
        table.add_row(cells, "bold" if has_arm else "")
    return table


def _outlier(row: Mapping[str, Any]) -> float:
    """Return the largest magnitude in standard deviations."""
    low, high, std = row["min"], row["max"], row["std"]
    return max(abs(low), abs(high)) / std if std and None not in (low, high) else math.nan


_FIRST = 9
"""Rank of the columns that are left out first."""
_MEASURES: dict[str, tuple[int, Callable[[Mapping[str, Any]], str]]] = {
    "near-0": (0, lambda row: percent_cell(row["near_zero"])),
    "std": (1, lambda row: number(row["std"])),
    "max/std": (3, lambda row: number(_outlier(row))),
    "Gini": (4, lambda row: number(row["gini"])),
    "kurtosis": (6, lambda row: number(row["kurtosis"])),
    "max": (7, lambda row: number(row["max"])),
    "min": (8, lambda row: number(row["min"])),
}
"""Rank in which the columns of a statistic are left out, and its text."""


def _legend(run: Run) -> str:
    words = ["near-0: abs(x) < ε", "max/std: largest abs(x) in std"]
    if any(key.phase == "after" for key in run.keys):
        words.append(f"W1{', change' * bool(run.mean_changes)}: before to after")
    return "; ".join(words)


def module_labels(places: Iterable[SiteKey]) -> dict[SiteKey, str]:
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


def _distance(run: Run, key: SiteKey) -> float:
    """Return the Wasserstein-1 distance in standard deviations."""
    before, after = (run.merged.get(key._replace(phase=phase)) for phase in ("before", "after"))
    if before is None or after is None:
        return math.nan
    spread = before.std()
    return statistics.wasserstein(before, after) / spread if spread > 0 else math.nan


def _mean_change(run: Run, key: SiteKey) -> float:
    """Return the mean movement of a value in standard deviations."""
    change = run.mean_changes.get(key._replace(phase="after"), math.nan)
    before = run.merged.get(key._replace(phase="before"))
    spread = math.nan if before is None else before.std()
    return change / spread if spread > 0 else math.nan
