"""A filler study on the terminal: the verdict, changes by layer, by count and by distance."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console, Group, RenderableType
from rich.text import Text

from distviz.cli.views.console import Column, FittedTable, paragraph, percent_cell
from distviz.output import counted
from distviz.results import (
    QUANTITIES,
    distance_name,
    filler_name,
    measured_line,
    number,
    records,
)
from distviz.stats import ALPHA

if TYPE_CHECKING:
    from distviz.results import FillerStudy

_CHANGES = (
    Column("near-0 change", "points [95 %]", drop=1),
    Column("variance", "ratio"),
    Column("L1", "ratio", drop=4),
    Column("L2", "ratio", drop=3),
    Column("Gini", "change", drop=2),
)
_PLACES = ("filler_count", "layer", "distance_low", "distance_high", "stack", "site", "module")
_SHOWN = 3
"""Number of most changed layers to name."""


def summary(study: FillerStudy, console: Console | None = None) -> Group:
    """Return the findings: the verdict, tables by layer, by count and by distance."""
    last = study.counts[-1]
    text = study.runs[0].manifest.get("text") or {}
    sample = (
        f"{counted(text.get('counted', 0), 'own token')} in "
        f"{counted(text.get('documents', 0), 'prompt')}"
    )
    parts: list[RenderableType] = [
        paragraph(measured_line(study.runs[0], sample=sample), console, style="bold"),
        paragraph(filler_name(study), console),
        Text(),
        *(paragraph(line, console) for line in study.verdict.split("\n")),
        Text(),
        paragraph(
            f"{counted(last, 'filler token')} against none, the prompts' own tokens:", console
        ),
        changes_table(study, count=last),
        paragraph(_legend(study, last), console),
        *(paragraph(line, console) for line in _most_changed(study, last)),
    ]
    layer = study.most_changed(last)[0]
    if len(study.counts) > 1:
        title = f"By number of filler tokens, layer {layer}:"
        parts += [Text(), paragraph(title, console), changes_table(study, layer=layer)]
    title = f"By distance from {counted(last, 'filler token')}, layer {layer}:"
    parts += [Text(), paragraph(title, console), positions_table(study, last, layer)]
    return Group(*parts)


def changes_table(
    study: FillerStudy, *, count: int | None = None, layer: int | None = None
) -> FittedTable:
    """Return a row per layer (of one ``count``) or per count (of one ``layer``)."""
    table = study.table
    rows = table[table["filler_count"] == count if layer is None else table["layer"] == layer]
    by, heading = ("layer", "layer") if layer is None else ("filler_count", "tokens")
    first = Column(heading, kind="text")
    return _by_place(rows, first, lambda row: str(row[by]), "filler.csv", study.attention)


def positions_table(study: FillerStudy, count: int, layer: int) -> FittedTable:
    """Return a row per bin of distances to the filler, before and after it."""
    rows = study.positions
    rows = rows[(rows["filler_count"] == count) & (rows["layer"] == layer)]
    first = Column("own tokens", "away", kind="text")
    return _by_place(rows, first, distance_name, "filler_positions.csv")


def _by_place(
    rows: pd.DataFrame,
    first: Column,
    name: Callable[[dict[str, Any]], str],
    source: str,
    attention: pd.DataFrame | None = None,
) -> FittedTable:
    """Return a table of changes with all quantities of a place in one row."""
    places = [column for column in _PLACES if column in rows]
    extra = [column for column in ("stack", "site") if len(set(rows[column])) > 1]
    if rows.duplicated([*(set(places) - {"module"}), "quantity"]).any():
        extra.append("module")
    kept = [Column("attention", "kept", drop=5)] if attention is not None else []
    names = [first, *(Column(column, kind="name") for column in extra)]
    table = FittedTable([*names, *_CHANGES, *kept], source)
    for _, of_place in rows.groupby(places, sort=False):
        by_name = {str(row["quantity"]): row for row in records(of_place)}
        head = by_name[QUANTITIES[0]]
        cells = [name(head), *(str(head[column]) for column in extra), *_change_cells(by_name)]
        cells += [_kept(attention, head)] if attention is not None else []
        table.add_row(cells, "bold" if any(map(_is_sure, by_name.values())) else "")
    return table


def _change_cells(by_name: dict[str, dict[str, Any]]) -> Iterator[str]:
    for name in QUANTITIES:
        row = by_name[name]
        mark = "*" if _is_sure(row) else " "
        value = math.nan if row["estimate"] is None else row["estimate"]
        if name == "near_zero_difference":
            yield f"{_points(value)}{_points_interval(row)}{mark}"
        elif name == "gini_difference":
            yield f"{value:+z.4f}{mark}" if math.isfinite(value) else "–"
        else:
            yield f"{_ratio(value)}{mark}"


def _points(share: float) -> str:
    return f"{100 * share:+z.2f}" if math.isfinite(share) else "–"


def _points_interval(row: dict[str, Any]) -> str:
    if row["ci_low"] is None:
        return ""
    low, high = (f"{100 * row[name]:z.2f}" for name in ("ci_low", "ci_high"))
    return f" [{low}, {high}]"


def _ratio(logarithm: float) -> str:
    ratio = math.exp(logarithm) if math.isfinite(logarithm) else math.nan
    return f"{ratio:.3f}" if 0.01 <= ratio < 100 else number(ratio)


def _is_sure(row: dict[str, Any]) -> bool:
    return row["p_adjusted"] is not None and bool(row["p_adjusted"] < ALPHA)


def _kept(attention: pd.DataFrame, row: dict[str, Any]) -> str:
    same = attention[["filler_count", "layer"]] == [row["filler_count"], row["layer"]]
    found = attention.loc[same.all(axis=1), "attention_kept"]
    return percent_cell(found.iloc[0]) if len(found) else "–"


def _legend(study: FillerStudy, count: int) -> str:
    rows = study.table[study.table["filler_count"] == count]
    words = [f"* and bold: adjusted p < {ALPHA:g}", "near-0 by each prompt's own ε"]
    if rows["ci_low"].isna().all():
        words.append("intervals withheld")
    elif rows["approximate"].any():
        words.append("some intervals approximate")
    return " · ".join(words)


def _most_changed(study: FillerStudy, count: int) -> Iterator[str]:
    """Yield the layers that changed most in the near-zero share and in variance."""
    for quantity, name in (
        ("near_zero_difference", "near zero"),
        ("log_variance_ratio", "variance"),
    ):
        layers = study.most_changed(count, quantity=quantity)[:_SHOWN]
        rows: pd.DataFrame = study.changes(count, quantity)
        words = []
        for layer in layers:
            value = float(rows.loc[rows["layer"] == layer, "estimate"].iloc[0])
            if math.isnan(value):
                continue
            is_share = quantity == "near_zero_difference"
            words.append(f"layer {layer} {_points(value) if is_share else '×' + _ratio(value)}")
        if words:
            yield f"Most changed in {name}: {', '.join(words)}"
