"""A comparison on the terminal: the verdict, every pair of layers, what changed most."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console, Group, RenderableType
from rich.text import Text

from distviz.cli.views import elementwise
from distviz.cli.views.console import Column, FittedTable, p_cell, paragraph, percent_cell
from distviz.results import (
    GROUP_NAMES,
    PARTITIONS,
    alignment,
    measured_line,
    number,
    output_line,
    partition_rows,
    percent,
    records,
    side_names,
)
from distviz.stats import ALPHA

if TYPE_CHECKING:
    from distviz.results import Comparison

_QUANTITIES = ("log_variance_ratio", "near_zero_difference")
_PLACE = ["layer_a", "layer_b", "site", "module_a", "stack"]
_CHANNELS = 5
_PLACES = 4
_DISTANCES = (
    Column("near-0", "A", drop=3),
    Column("near-0", "B", drop=3),
    Column("std", "B / A"),
    Column("KS", drop=5),
    Column("W1 /", "std A", drop=4),
    Column("JS", "bits", drop=6),
    Column("p var.", "adj.", drop=1),
    Column("p near", "adj.", drop=2),
)


def summary(comparison: Comparison, console: Console | None = None) -> Group:
    """Return the findings: both sides, the verdict, tables of layers, channels, token classes."""
    names = side_names(comparison)
    parts: list[RenderableType] = [
        paragraph(f"{side}  {measured_line(run, name=name)}", console, style=style, indent=3)
        for side, run, name, style in (
            ("A", comparison.a, names[0], "bold blue"),
            ("B", comparison.b, names[1], "bold yellow"),
        )
    ]
    parts += [paragraph(alignment(comparison), console), Text()]
    if by_value := list(elementwise.blocks(comparison, console)):
        parts += [*by_value, Text()]
    first, *rest = str(comparison.manifest.get("verdict", "")).split("\n")
    parts.append(paragraph(first, console, style="bold"))
    parts += [paragraph(line, console) for line in (*rest, output_line(comparison)) if line]
    parts += [pairs_table(comparison), paragraph(_legend(comparison), console)]
    found = [*channel_lines(comparison), *class_lines(comparison)]
    if any(found):
        parts += [Text(), *(paragraph(line, console) for line in found if line)]
    return Group(*parts)


def pairs_table(comparison: Comparison) -> FittedTable:
    """Return one row per pair of layers."""
    rows = comparison.table
    is_aligned = bool((rows["layer_a"] == rows["layer_b"]).all())
    has_stacks, has_sites = (len(set(rows[name])) > 1 for name in ("stack", "site"))
    has_modules = bool(rows.duplicated(["layer_a", "site", "stack"]).any())
    names = ["stack"] * has_stacks + ["site"] * has_sites + ["module"] * has_modules
    table = FittedTable(
        [
            Column("layer", "" if is_aligned else "A / B", kind="text"),
            *(Column(name, kind="name") for name in names),
            *_DISTANCES,
        ],
        "compare.csv",
    )
    found = _p_values(comparison.inference)
    for row in records(rows):
        cells = [str(row["layer_a"]) + ("" if is_aligned else f" / {row['layer_b']}")]
        cells += [row["module_a" if name == "module" else name] for name in names]
        p_values = [found.get((quantity, *_place(row))) for quantity in _QUANTITIES]
        marked = any(p is not None and p < ALPHA for p in p_values)
        cells += [*_distance_cells(row), *map(p_cell, p_values)]
        table.add_row(cells, "bold" if marked else "")
    return table


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(str(row[name]) for name in _PLACE)


def _p_values(frame: pd.DataFrame) -> dict[tuple[Any, ...], float]:
    renamed = frame.rename(columns={"module": "module_a"})
    if not set(_PLACE) <= set(renamed):
        return {}
    return {(row["quantity"], *_place(row)): row["p_adjusted"] for row in records(renamed)}


def _distance_cells(row: dict[str, Any]) -> Iterator[str]:
    for side in "ab":
        yield percent_cell(row[f"near_zero_{side}"])
    ratio = row["std_ratio"]
    yield number(ratio) if ratio and ratio < 0.01 else _decimals(ratio)
    for name in ("ks", "wasserstein_normalized", "js_divergence"):
        yield _decimals(row[name])


def _decimals(value: float | None, places: int = _PLACES) -> str:
    """Format with fixed decimals; a value below the last one is shown as such, not as zero."""
    if value is None or value == 0 or value >= 10:
        return number(value)
    least = 10.0**-places
    return f"<{least:.{places}f}".replace("0.", ".") if value < least else f"{value:.{places}f}"


def _legend(comparison: Comparison) -> str:
    words = [f"* and bold: adjusted p < {ALPHA:g}", "near-0 by A's ε"]
    if len(comparison.inference) and comparison.inference["ci_low"].isna().all():
        words.append("intervals withheld")
    return " · ".join(words)


def _most_changed(comparison: Comparison, rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of the pair with the largest KS distance, of the pairs that have rows."""
    known = {_place(row) for row in records(rows)}
    pairs = [row for row in records(comparison.table) if _place(row) in known]
    if not pairs:
        return []
    most = _place(max(pairs, key=lambda row: row["ks"] or 0.0))
    return [row for row in records(rows) if _place(row) == most]


def channel_lines(comparison: Comparison) -> Iterator[str]:
    """Yield the channels that changed most in the most changed layer, and in all layers."""
    rows = comparison.channels.rename(columns={"module": "module_a"})
    changed = [row for row in _most_changed(comparison, rows) if row["change"] != 0]
    if not changed:
        return
    head = changed[0]
    yield f"Channels that changed most, layer {head['layer_a']} · {head['site']}:"
    for row in changed[:_CHANNELS]:
        yield _channel(row)
    first = max(records(rows), key=lambda row: math.inf if row["change"] is None else row["change"])
    if _place(first) != _place(head):
        yield f"and in all layers, layer {first['layer_a']} · {first['site']}:"
        yield _channel(first)


def _channel(row: dict[str, Any]) -> str:
    words = [
        f"{name} {number(row[f'{column}_a'])} → {number(row[f'{column}_b'])}"
        for name, column in (("std", "std"), ("mean", "mean"), ("max |x|", "absmax"))
    ]
    return f"  {row['channel']:>5}  {', '.join(words)}"


def class_lines(comparison: Comparison) -> Iterator[str]:
    """Yield the near-zero shares by token class, role and position, of the most changed layer."""
    for partition in PARTITIONS:
        rows = _most_changed(comparison, partition_rows(comparison.classes, partition))
        colon = ":" * (partition == "position")
        words = [
            f"{row['token_class']}{colon} {percent(row['near_zero_a'])} → "
            f"{percent(row['near_zero_b'])}"
            for row in rows
            if row["near_zero_a"] is not None or row["near_zero_b"] is not None
        ]
        if len(words) > 1:
            name = GROUP_NAMES[partition]
            yield f"Near zero by {name}, layer {rows[0]['layer_a']}: {', '.join(words)}"
