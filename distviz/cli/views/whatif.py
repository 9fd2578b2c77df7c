"""What-if results on the terminal: the loss of number formats and of zeros, worst layers first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pandas as pd
from rich.console import Console, Group, RenderableType
from rich.text import Text

from distviz.cli.views.console import Column, FittedTable, paragraph, percent_cell
from distviz.results import (
    arm_settings,
    change_name,
    decibels,
    least_first,
    measured_line,
    number,
    place_name,
    whatif_verdict,
)

if TYPE_CHECKING:
    from distviz.results import WhatIf

_WORST = {"": 0, "2nd": 5, "3rd": 6}
"""Columns of the worst layers, and the ranks in which they are left out."""


def summary(results: WhatIf, console: Console | None = None) -> Group:
    """Return the findings: for each site the formats and the zeros, with the worst layers."""
    line = measured_line(results)
    if arm_settings(results) and "after" in results.manifest.get("phases", []):
        line += f" · {change_name(results)} {arm_settings(results)}"
    parts: list[RenderableType] = [paragraph(line, console, style="bold")]
    if results.manifest.get("is_rounded"):
        note = "fp32 values were counted rounded to bf16: results are for the rounded values."
        parts.append(paragraph(note, console))
    if verdict := whatif_verdict(results):
        parts.append(paragraph(verdict, console, style="bold"))
    for site in results.sites:
        parts += [Text(), *_of_site(results, site, console)]
    return Group(*parts)


def _of_site(results: WhatIf, site: str, console: Console | None) -> Iterator[RenderableType]:
    named = [f"{site}: the smallest magnitudes made zero", results.named_phase(site)]
    if results.kinds(site):
        title = f"{site}: signal to noise (SQNR, dB) by number format"
        yield paragraph(title, console, style="bold")
        yield formats_table(results, site)
    if results.levels(site):
        title = f"{', '.join(filter(None, named))}; worst: least L2 energy"
        yield paragraph(title, console, style="bold")
        yield zeros_table(results, site)
    if results.thresholds(site):
        title = f"{site}: abs(x) <= threshold made zero; worst: least L2 energy"
        yield paragraph(title, console, style="bold")
        yield zeros_table(results, site, thresholds=True)


def formats_table(results: WhatIf, site: str) -> FittedTable:
    """Return a row per format and range: the worst layers, medians over layers."""
    first, *others = results.phases(site)
    table = FittedTable(
        [
            Column("format", kind="text"),
            Column("range", kind="text"),
            *_worst(results.named_phase(site)),
            Column("median", results.named_phase(site), drop=1),
            *(Column("median", phase, drop=3) for phase in others[:1]),
            Column("median", "clipped", drop=4),
            Column("median", "zeroed", drop=4),
        ],
        "whatif.csv",
    )
    last = ""
    for name, range_ in results.kinds(site):
        rows = results.losses(site, name, range_, first)
        cells = [name if name != last else "", range_, *_least(rows, "sqnr_db", decibels)]
        cells.append(decibels(_median(rows["sqnr_db"])))
        others_losses = [results.losses(site, name, range_, phase) for phase in others[:1]]
        cells += [decibels(_median(part["sqnr_db"])) for part in others_losses]
        cells += [percent_cell(_median(rows[column])) for column in ("clipped", "zeroed")]
        table.add_row(cells)
        last = name
    return table


def zeros_table(results: WhatIf, site: str, *, thresholds: bool = False) -> FittedTable:
    """Return a row per level of zeros, or per threshold: medians, and the worst layers."""
    first, *others = results.phases(site)
    find = results.cut if thresholds else results.thinned
    heads = ("threshold", "zeros") if thresholds else ("zeros", "threshold")
    table = FittedTable(
        [
            Column(heads[0]),
            Column("median", heads[1], drop=2),
            Column("L1 kept", "median", drop=4),
            Column("L2 energy", "median", drop=1),
            *_worst(results.named_phase(site)),
            *(Column("L2 energy", phase, drop=3) for phase in others[:1]),
        ],
        "whatif.csv",
    )
    for value in results.thresholds(site) if thresholds else results.levels(site):
        rows = find(site, value, first)
        if thresholds:
            cells = [number(value), percent_cell(_median(rows["zeros"]))]
        else:
            cells = [f"{100 * value:g} %", number(_median(rows["threshold"]))]
        cells += [percent_cell(_median(rows[column])) for column in ("l1_kept", "l2_kept")]
        cells += _least(rows, "l2_kept", percent_cell)
        cells += [percent_cell(_median(find(site, value, p)["l2_kept"])) for p in others[:1]]
        table.add_row(cells)
    return table


def _worst(phase: str) -> Iterator[Column]:
    """Yield the columns of the worst layers."""
    yield from (Column("worst", part or phase, drop, "text") for part, drop in _WORST.items())


def _least(rows: pd.DataFrame, column: str, words: Callable[[float], str]) -> list[str]:
    """Return the layers where a column is least."""
    least = least_first(rows, column, len(_WORST))
    found = [f"{place_name(row)} {words(row[column])}" for row in least]
    return found + [""] * (len(_WORST) - len(found))


def _median(column: pd.Series[float]) -> float:
    return float(column.median()) if len(column.dropna()) else math.nan
