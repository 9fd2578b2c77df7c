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
    TOP,
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

_NEXT = {"2nd": 7, "3rd": 8}
"""Columns of the next worst layers, and the ranks in which they are left out."""
_REST = f" (rest: without {TOP})"


def summary(results: WhatIf, console: Console | None = None) -> Group:
    """Return the findings: for each site the formats and the zeros, with the worst layers."""
    line = measured_line(results)
    if results.manifest.get("arm") and "after" in results.manifest.get("phases", []):
        line += f" · {change_name(results)} {arm_settings(results)}".rstrip()
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
        title = f"{site}: SQNR, dB, by number format (error of the values, not a cost)"
        yield paragraph(title, console, style="bold")
        yield formats_table(results, site)
        note = f"top: energy in {TOP}; rest: without them; zeroed: values that become zero"
        yield paragraph(note, console, style="dim")
    if results.levels(site):
        title = f"{', '.join(filter(None, named))}; worst: least L2 energy{_REST}"
        yield paragraph(title, console, style="bold")
        yield zeros_table(results, site)
    if results.thresholds(site):
        title = f"{site}: abs(x) <= threshold made zero; worst: least L2 energy{_REST}"
        yield paragraph(title, console, style="bold")
        yield zeros_table(results, site, thresholds=True)


def formats_table(results: WhatIf, site: str) -> FittedTable:
    """Return a row per format and range: the worst and the best layer, medians over layers."""
    first, *others = results.phases(site)
    table = FittedTable(
        [
            Column("format", kind="text"),
            Column("range", kind="text"),
            *_place("worst", (2, 3)),
            *_more_places(),
            *_place("best", (1, 1)),
            Column("worst", "rest", kind="text"),
            Column("median", results.named_phase(site), drop=4),
            *(Column("median", phase, drop=5) for phase in others[:1]),
            Column("median", "clipped", drop=6),
        ],
        "whatif.csv",
    )
    last = ""
    for name, range_ in results.kinds(site):
        rows = results.losses(site, name, range_, first)
        rest = results.losses(site, name, range_, first, "sqnr_rest_db")
        cells = [name if name != last else "", range_]
        cells += [*_first(rows, "sqnr_db"), *_ranked(rows, "sqnr_db", decibels)[1:]]
        cells += _first(rows, "sqnr_db", is_reversed=True)
        cells += _ranked(rest, "sqnr_rest_db", decibels)[:1]
        cells.append(decibels(_median(rows["sqnr_db"])))
        others_losses = [results.losses(site, name, range_, phase) for phase in others[:1]]
        cells += [decibels(_median(part["sqnr_db"])) for part in others_losses]
        cells.append(percent_cell(_median(rows["clipped"])))
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
            Column("worst", results.named_phase(site), kind="text"),
            *_more_places(),
            Column("worst", "rest", kind="text"),
            *(Column("L2 energy", phase, drop=3) for phase in others[:1]),
        ],
        "whatif.csv",
    )
    for value in results.thresholds(site) if thresholds else results.levels(site):
        rows, rest = find(site, value, first), find(site, value, first, "l2_kept_rest")
        if thresholds:
            cells = [number(value), percent_cell(_median(rows["zeros"]))]
        else:
            cells = [f"{100 * value:g} %", number(_median(rows["threshold"]))]
        cells += [percent_cell(_median(rows[column])) for column in ("l1_kept", "l2_kept")]
        cells += _ranked(rows, "l2_kept", percent_cell)
        cells += _ranked(rest, "l2_kept_rest", percent_cell)[:1]
        cells += [percent_cell(_median(find(site, value, p)["l2_kept"])) for p in others[:1]]
        table.add_row(cells)
    return table


def _place(heading: str, drops: tuple[int, int]) -> Iterator[Column]:
    """Yield the columns of a layer: its SQNR, share zeroed, and energy in the largest values."""
    yield Column(heading, "SQNR", kind="text")
    for name, drop in zip(("zeroed", "top"), drops, strict=True):
        yield Column(name, "there", drop)


def _more_places() -> Iterator[Column]:
    """Yield the columns of the next worst layers."""
    yield from (Column("worst", part, drop, "text") for part, drop in _NEXT.items())


def _first(rows: pd.DataFrame, column: str, *, is_reversed: bool = False) -> list[str]:
    """Return the cells of `_place` for the layer where a column is least, or largest."""
    cells = _ranked(rows, column, decibels, is_reversed=is_reversed)[:1]
    found = least_first(rows, column, 1, is_reversed=is_reversed)
    beside = [percent_cell(row[name]) for row in found for name in ("zeroed", "top_energy")]
    return cells + (beside or ["", ""])


def _ranked(
    rows: pd.DataFrame, column: str, words: Callable[[float], str], *, is_reversed: bool = False
) -> list[str]:
    """Return the layers where a column is least, or largest."""
    most = 1 + len(_NEXT)
    least = least_first(rows, column, most, is_reversed=is_reversed)
    found = [f"{place_name(row)} {words(row[column])}" for row in least]
    return found + [""] * (most - len(found))


def _median(column: pd.Series[float]) -> float:
    return float(column.median()) if len(column.dropna()) else math.nan
