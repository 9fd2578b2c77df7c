"""What-if results on the terminal: the loss of number formats and of zeros, worst layers first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pandas as pd
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from distviz.cli.views.console import (
    encode,
    encode_lines,
    paragraph,
    percent_cell,
    plain_table,
    width_of,
)
from distviz.results import (
    arm_settings,
    change_name,
    decibels,
    least_first,
    measured_line,
    number,
    place_name,
)

if TYPE_CHECKING:
    from distviz.results import WhatIf

_WIDE = 96
"""Columns from which a third layer is named."""


def summary(results: WhatIf, console: Console | None = None) -> Group:
    """Return the findings: for each site the formats and the zeros, with the worst layers."""
    line = measured_line(results)
    if arm_settings(results) and "after" in results.manifest.get("phases", []):
        line += f" · {change_name(results)} {arm_settings(results)}"
    parts: list[RenderableType] = [paragraph(line, console, style="bold")]
    if results.manifest.get("is_rounded"):
        note = "fp32 values were counted rounded to bf16: results are for the rounded values."
        parts.append(paragraph(note, console))
    for site in results.sites:
        parts += [Text(), *_of_site(results, site, console)]
    return Group(*parts)


def _of_site(results: WhatIf, site: str, console: Console | None) -> Iterator[RenderableType]:
    phase = results.phases(site)[0]
    if results.kinds(site):
        title = f"{site}: signal to noise (SQNR, dB) by number format, worst layers first"
        yield paragraph(title, console, style="bold")
        yield formats_table(results, site, console)
    if results.levels(site):
        title = f"{site}: the smallest magnitudes made zero, {phase}"
        yield paragraph(title, console, style="bold")
        yield zeros_table(results, site, console)
    if results.thresholds(site):
        yield paragraph(f"{site}: abs(x) <= threshold made zero", console, style="bold")
        yield zeros_table(results, site, console, thresholds=True)


def formats_table(results: WhatIf, site: str, console: Console | None = None) -> Table:
    """Return a row per format and range: worst layers, medians over layers; 80 columns."""
    first, *others = results.phases(site)
    table = plain_table(console)
    table.add_column("format", no_wrap=True)
    table.add_column("range", no_wrap=True)
    table.add_column(encode_lines(f"worst layers\n{first}", console), no_wrap=True)
    for phase in (first, *others[:1]):
        table.add_column(f"median\n{phase}", justify="right", no_wrap=True)
    for heading in ("median\nclipped", "median\nzeroed"):
        table.add_column(heading, justify="right", no_wrap=True)
    last = ""
    for name, range_ in results.kinds(site):
        rows = results.losses(site, name, range_, first)
        cells = [name if name != last else "", range_]
        cells.append(_least(rows, "sqnr_db", decibels, console))
        cells.append(decibels(_median(rows["sqnr_db"])))
        others_losses = [results.losses(site, name, range_, phase) for phase in others[:1]]
        cells += [decibels(_median(part["sqnr_db"])) for part in others_losses]
        cells += [percent_cell(_median(rows[column])) for column in ("clipped", "zeroed")]
        table.add_row(*(encode(cell, console) for cell in cells))
        last = name
    return table


def zeros_table(
    results: WhatIf, site: str, console: Console | None = None, *, thresholds: bool = False
) -> Table:
    """Return a row per level of zeros, or per threshold: medians, and the worst layers."""
    first, *others = results.phases(site)
    find = results.cut if thresholds else results.thinned
    table = plain_table(console)
    heads = ("threshold", "median\nzeros") if thresholds else ("zeros", "median\nthreshold")
    for heading in (*heads, "L1 kept\nmedian", "L2 energy\nmedian"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column(encode_lines(f"least energy in layers\n{first}", console), no_wrap=True)
    for phase in others[:1]:
        table.add_column(f"L2 energy\n{phase}", justify="right", no_wrap=True)
    for value in results.thresholds(site) if thresholds else results.levels(site):
        rows = find(site, value, first)
        if thresholds:
            cells = [number(value), percent_cell(_median(rows["zeros"]))]
        else:
            cells = [f"{100 * value:g} %", number(_median(rows["threshold"]))]
        cells += [percent_cell(_median(rows[column])) for column in ("l1_kept", "l2_kept")]
        cells.append(_least(rows, "l2_kept", percent_cell, console))
        cells += [percent_cell(_median(find(site, value, p)["l2_kept"])) for p in others[:1]]
        table.add_row(*(encode(cell, console) for cell in cells))
    return table


def _least(
    rows: pd.DataFrame, column: str, words: Callable[[float], str], console: Console | None
) -> str:
    """Return the layers where a column is least; a wide console shows three."""
    least = least_first(rows, column, 3 if width_of(console) >= _WIDE else 2)
    return "  ".join(f"{place_name(row)} {words(row[column])}" for row in least)


def _median(column: pd.Series[float]) -> float:
    return float(column.median()) if len(column.dropna()) else math.nan
