"""A comparison value by value on the terminal: the verdict, a line a layer, channels and tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType

from distviz.cli.views.console import Column, FittedTable, paragraph
from distviz.results import (
    ErrorRow,
    decibels,
    error_rows,
    number,
    percent,
    place_name,
    rows_of,
    value_verdict,
    worst_of_layers,
    worst_place,
)

if TYPE_CHECKING:
    from distviz.results import Comparison

_WORST = 3
_DECIMALS = 6


def blocks(comparison: Comparison, console: Console | None = None) -> Iterator[RenderableType]:
    """Yield the verdict, the table of layers, the worst channels and tokens; nothing without."""
    note = comparison.manifest.get("elementwise")
    if not note or not comparison.elementwise:
        return
    rows = error_rows(comparison.elementwise["elementwise"], note["dtypes"])
    yield paragraph(value_verdict(comparison.manifest), console, style="bold")
    if not rows:
        return
    yield layers_table(rows)
    yield paragraph(_legend(rows), console)
    place = worst_place(rows)
    if place is not None:
        yield from (paragraph(line, console) for line in _worst(comparison, place))


def layers_table(rows: Sequence[ErrorRow]) -> FittedTable:
    """Return one row per layer: the place of its largest relative error."""
    has_sites, has_stacks = (len({row[name] for row in rows}) > 1 for name in ("site", "stack"))
    has_own = "local_relative_error" in rows[0]
    has_interval = any(math.isfinite(row["sqnr_low"]) for row in rows)
    table = FittedTable(
        [
            Column("layer", kind="text"),
            *[Column("stack", kind="name")] * has_stacks,
            *[Column("site", kind="name")] * has_sites,
            Column("relative", "error"),
            *[Column("own", "error")] * has_own,
            Column("SQNR", "dB"),
            *[Column("95 %", "interval", drop=1)] * has_interval,
            Column("cosine", drop=2),
            Column("largest", "|b − a|", drop=3),
        ],
        "elementwise.csv",
    )
    for row in worst_of_layers(rows):
        is_equal, is_marked = row["relative_error"] == 0, row["relative_error"] > row["level"]
        cells = [str(row["layer"]) if row["layer"] >= 0 else "outside"]
        cells += [row["stack"]] * has_stacks + ["all" if is_equal else row["site"]] * has_sites
        cells.append(_error(row["relative_error"]) + ("*" if is_marked else " "))
        cells += [_error(row["local_relative_error"])] if has_own else []
        cells.append(decibels(row["sqnr_db"]))
        cells += [_interval(row)] if has_interval else []
        cells += [_cosine(row["cosine"]), number(row["max_abs_difference"])]
        table.add_row(cells, "bold" if is_marked else "")
    return table


def _error(value: float) -> str:
    return "inf" if math.isinf(value) else number(value)


def _interval(row: ErrorRow) -> str:
    ends = [row["sqnr_low"], row["sqnr_high"]]
    return f"{decibels(ends[0])} to {decibels(ends[1])}" if all(map(math.isfinite, ends)) else "–"


def _cosine(value: float) -> str:
    """Format with fixed decimals; what is not 1 is not shown as 1."""
    if math.isnan(value):
        return "–"
    text = f"{value:.{_DECIMALS}f}"
    return ">." + "9" * _DECIMALS if float(text) == 1 and value != 1 else text


def _legend(rows: Sequence[ErrorRow]) -> str:
    words = ["* and bold: a relative error that rounding does not explain"]
    if any(row["approximate"] for row in rows):
        words.append("intervals are approximate")
    if len({row["site"] for row in rows}) > 1:
        words.append("site: that of the layer's largest error")
    if "local_relative_error" in rows[0]:
        words.append("own error: with A's input to the layer")
    return " · ".join(words)


def _worst(comparison: Comparison, place: ErrorRow) -> Iterator[str]:
    """Yield the channels and tokens with the largest share of the error at a place."""
    where = f"layer {place_name(place)} · {place['site']}"
    channels, tokens = (
        rows_of(comparison.elementwise[name], place).head(_WORST).to_dict("records")
        for name in ("elementwise_channels", "elementwise_tokens")
    )
    if channels:
        yield f"Channels with most of the error, {where}:"
    for row in channels:
        yield f"  {row['channel']:>5}  {_share(row)} (of the energy {percent(row['energy_share'])})"
    if tokens:
        yield f"Tokens with most of the error, {where} (document/window/position):"
    for row in tokens:
        at = "/".join(str(row[name]) for name in ("document", "window", "position"))
        yield f"  {at}  “{row['token']}”  {_share(row)}"


def _share(row: Mapping[Any, Any]) -> str:
    error = "A is zero" if math.isnan(row["relative_error"]) else _error(row["relative_error"])
    return f"{percent(row['error_share'])} of the error, relative error {error}"
