"""A training on the terminal: what changed, the first and the last snapshot of every place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.text import Text

from distviz.cli.views.blocks import means, sparkline
from distviz.cli.views.console import (
    Column,
    FittedTable,
    is_unicode,
    p_cell,
    paragraph,
    percent_cell,
)
from distviz.cli.views.run import module_labels
from distviz.results import TESTED, measured_line, nonfinite_line, number, records
from distviz.sites import SiteKey
from distviz.stats import ALPHA

if TYPE_CHECKING:
    from distviz.results import Training

_MARKS = 10
"""Marks of a course over the steps."""


def summary(training: Training, console: Console | None = None) -> Group:
    """Return the findings: the verdict, and a table for each site."""
    measured = measured_line(training, sample=training.sample)
    parts: list[RenderableType] = [paragraph(measured, console, style="bold")]
    if line := nonfinite_line(training.first_nonfinite):
        parts.append(paragraph(line, console, style="bold red"))
    parts += [paragraph(line, console) for line in training.verdict.split("\n")]
    for site in dict.fromkeys(key.site for key in training.keys):
        title = paragraph(f"{site}, {_span(training)}", console, style="bold")
        parts += [Text(), title, site_table(training, site, console)]
    return Group(*parts, paragraph(_LEGEND, console, style="dim"))


_LEGEND = (
    "course: std over the steps, each row on its own scale; near-0: abs(x) < ε of the snapshot; "
    f"dead: channels with only zeros; * and bold: adjusted p < {ALPHA:g}"
)


def _span(training: Training) -> str:
    first, last = training.steps[0], training.steps[-1]
    return f"step {first}" if first == last else f"step {first} → step {last}"


def _count(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:,.0f}"


_MEASURES: dict[str, tuple[str, Callable[[float], str], tuple[int, int]]] = {
    "std": ("std", number, (0, 0)),
    "near_zero": ("near-0", percent_cell, (4, 4)),
    "absmax": ("max |x|", number, (2, 2)),
    "dead_channels": ("dead", _count, (3, 3)),
    "nonfinite": ("NaN, inf", _count, (1, 1)),
}
"""Statistic -> heading, text, and the ranks in which its columns are left out."""
_P_VALUES = (Column("p var.", "adj.", 5), Column("p near", "adj.", 7), Column("p max", "adj.", 6))


def site_table(training: Training, site: str, console: Console | None = None) -> FittedTable:
    """Return a row per place: statistics of the first and the last snapshot, and what is shown."""
    keys = [key for key in training.keys if key.site == site]
    shown = [name for name in _MEASURES if _is_shown(training, name, keys)]
    labels = module_labels(keys)
    names = {
        "phase": len({key.phase for key in keys}) > 1,
        "module": len({(key.stack, key.layer, key.phase) for key in keys}) < len(keys),
    }
    ends = [f"{training.steps[0]}", f"{training.steps[-1]}"]
    columns = [Column("layer", kind="text"), *(Column(n, kind="name") for n in names if names[n])]
    for name in shown:
        heading, _, drops = _MEASURES[name]
        columns += [Column(heading, end, drop) for end, drop in zip(ends, drops, strict=True)]
        columns += [Column("course", kind="text", drop=1)] * (name == "std")
    table = FittedTable([*columns, *_P_VALUES], "timeline.csv and drift.csv")
    found = _p_values(training)
    for key in keys:
        stack = "" if key.stack == "decoder" else f"{key.stack} "
        cells = [f"{stack}{key.layer}" if key.layer >= 0 else f"{stack}outside"]
        cells += [key.phase] * names["phase"] + [labels[key]] * names["module"]
        cells += _measured(training, key, shown, ascii_only=not is_unicode(console))
        own = [found.get((name, key)) for name in TESTED]
        marked = any(p is not None and p < ALPHA for p in own)
        table.add_row([*cells, *map(p_cell, own)], "bold" if marked else "")
    return table


def _is_shown(training: Training, name: str, keys: list[SiteKey]) -> bool:
    """Whether a statistic has values; a number of what should not be there, if it is not 0."""
    curves = [training.curve(name, key) for key in keys]
    if name in ("dead_channels", "nonfinite"):
        return any((curve > 0).any() for curve in curves)
    return any(curve.notna().any() for curve in curves)


def _measured(
    training: Training, key: SiteKey, shown: list[str], *, ascii_only: bool
) -> Iterator[str]:
    ends = training.steps[0], training.steps[-1]
    for name in shown:
        curve = training.curve(name, key)
        yield from (_MEASURES[name][1](float(curve.get(step, math.nan))) for step in ends)
        if name == "std":
            yield _course(curve.dropna().tolist(), ascii_only=ascii_only)


def _course(values: list[float], *, ascii_only: bool) -> str:
    marks = means(values, math.ceil(len(values) / _MARKS) or 1)
    known = [mark for mark in marks if mark is not None]
    return sparkline(marks, min(known), max(known), ascii_only=ascii_only) if known else ""


def _p_values(training: Training) -> dict[tuple[str, SiteKey], float]:
    return {
        (row["quantity"], SiteKey(*(row[name] for name in SiteKey._fields))): row["p_adjusted"]
        for row in records(training.drift)
    }
