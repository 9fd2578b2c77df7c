"""The section of two models compared value by value: errors by layer, channels, tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from distviz.output import counted
from distviz.plots import COST
from distviz.reports import axes, charts
from distviz.reports.cells import data_table
from distviz.reports.page import Block, Chart, Prose, Section, Spec
from distviz.results import error_rows, error_series, worst_channels

if TYPE_CHECKING:
    from distviz.results import Comparison, ErrorRow

_CHANNELS = 8
_RANKS = 3
_LEVEL = "rounding explains up to"
_EXPLAINED = (
    "a is a value of A, b the value of B at the same document, position and channel. Rounding of "
    "the coarser dtype explains errors up to the dotted line."
)
_INTERVALS = "Bars are 95 % intervals with documents as the unit."
_APPROXIMATE = "They are approximate; inference.csv says how much they cover."
_OWN = "Dashed: the error that a layer makes itself, with A's input to the layer."
_EQUAL = "Hollow marks: an error of exactly 0; all values are equal in {} of {}."
_APART = 5
"""Pixels between the marks of several curves at one layer."""


def elementwise_section(comparison: Comparison) -> Iterator[Section]:
    """Yield the section of a comparison value by value, if there is one."""
    note = comparison.manifest.get("elementwise")
    if not note or not comparison.elementwise:
        return
    tables = comparison.elementwise
    rows = error_rows(tables["elementwise"], note["dtypes"])
    verdict = str(note["verdict"])
    blocks: list[Block] = [Prose(f"{verdict[:1].upper()}{verdict[1:]}.")]
    if errors := _errors(error_series(rows)):
        sentences = [_EXPLAINED]
        sentences += [_INTERVALS] * any(math.isfinite(row["sqnr_low"]) for row in rows)
        sentences += [_APPROXIMATE] * any(row["approximate"] for row in rows)
        sentences += [_OWN] * ("local_relative_error" in rows[0])
        equal = sum(row["relative_error"] == 0 for row in rows)
        sentences += [_EQUAL.format(equal, counted(len(rows), "place"))] * bool(equal)
        blocks += [errors, Prose(" ".join(sentences))]
    blocks += _channels(tables["elementwise_channels"])
    blocks.append(data_table("elementwise", tables["elementwise"]))
    for name, title in (
        ("elementwise_channels", f"{_RANKS} channels with most of the error at each place"),
        ("elementwise_tokens", f"{_RANKS} tokens with most of the error at each place"),
    ):
        worst = tables[name][tables[name]["rank"] <= _RANKS]
        blocks += [data_table(title, worst, table=name)] if len(worst) else []
    yield Section("Value by value", blocks)


def _errors(series: Mapping[str, list[ErrorRow]]) -> Chart | None:
    """Return the relative errors by layer, own errors, intervals and what rounding explains."""
    curves: dict[str, list[tuple[int, Any]]] = {}
    lines: dict[str, charts.Line] = {}
    for index, (name, rows) in enumerate(series.items()):
        curves[name] = _points(rows, "relative_error")
        lines[name] = charts.line_of(index, name, "solid")
        if "local_relative_error" in rows[0]:
            own = f"{name}, own"
            curves[own] = _points(rows, "local_relative_error")
            lines[own] = lines[name]._replace(title=own, dash="dashed")
    levels = {row["layer"]: row["level"] for rows in series.values() for row in rows}
    curves[_LEVEL] = sorted(levels.items())
    lines[_LEVEL] = charts.Line(_LEVEL, "$muted", "dotted")
    errors = [value for name in curves if name != _LEVEL for _, value in curves[name]]
    title = "relative error, ‖b − a‖ / ‖a‖" + ": 0 everywhere" * (set(errors) == {0.0})
    chart = charts.layer_curves(title, curves, share=False, height=260, lines=lines)
    if chart is not None:
        for index, name in enumerate(curves):
            _add_intervals(chart.spec, series.get(name, []), f"v{index}", lines[name].color)
            _add_zeros(chart.spec, index, len(curves) - 1, lines[name].color)
    return chart


def _points(rows: list[ErrorRow], column: str) -> list[tuple[int, Any]]:
    """Return layers and values; None, a gap, where A is zero and B is not."""
    return [(row["layer"], row[column] if math.isfinite(row[column]) else None) for row in rows]


def _add_intervals(spec: Spec, rows: list[ErrorRow], key: str, color: str) -> None:
    """Add the intervals of a curve, drawn and hidden with it; they are those of the SQNR."""
    ends = {
        row["layer"]: [10 ** (-row[end] / 20) for end in ("sqnr_high", "sqnr_low")]
        for row in rows
        if math.isfinite(row["sqnr_low"])
    }
    if not ends:
        return
    for row in spec["data"]["values"]:
        if row["place"] in ends:
            row[f"{key}low"], row[f"{key}high"] = ends[row["place"]]
    (line,) = (one for one in spec["layer"] if one.get("name") == key)
    x, y = line["encoding"]["x"], line["encoding"]["y"]
    place = {"x": x, "y": y | {"field": f"{key}low"}, "y2": {"field": f"{key}high"}}
    bars = charts.marks(place, f"isValid(datum.{key}low)", type="rule", color=color)
    spec["layer"].insert(0, {"name": f"{key}-interval", **bars})


def _add_zeros(spec: Spec, index: int, n_curves: int, color: str) -> None:
    """Add a hollow mark for each exact zero of a curve, beside those of the others."""
    key = f"v{index}"
    if not any(row.get(key) == 0 for row in spec["data"]["values"]):
        return
    (line,) = (one for one in spec["layer"] if one.get("name") == key)
    place = {name: line["encoding"][name] for name in "xy"}
    place["xOffset"] = {"value": _APART * (index - (n_curves - 1) / 2)}
    look = {"type": "point", "size": 60, "color": color, "fill": "$ground", "clip": False}
    found = charts.marks(place, f"datum.{key} === 0", **look, strokeWidth=1.6)
    spec["layer"].insert(-1, {"name": f"{key}-zero", **found})


def _channels(table: pd.DataFrame) -> list[Block]:
    """Return a map of the channels with the largest shares of the error."""
    site, shares = worst_channels(table, _CHANNELS)
    if not len(shares):
        return []
    cells = [
        {"layer": layer, "channel": str(channel), "value": share, "chosen": False}
        | {"name": f"layer {layer}, channel {channel}"}
        for channel, row in zip(shares.index, shares.to_numpy().tolist(), strict=True)
        for layer, share in zip(shares.columns.tolist(), row, strict=True)
        if not math.isnan(share)
    ]
    title = f"share of the error at {site} by channel"
    spec = charts.heatmap(cells, title, axes.SHARE, x="layer", y="channel", colors=COST)
    return [Chart(title, spec, 80 + 19 * len(shares))]
