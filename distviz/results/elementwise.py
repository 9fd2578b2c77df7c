"""What a comparison value by value shows: where two models begin to differ, and where most."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from distviz.output import counted, listed
from distviz.results.columns import (
    Elementwise,
    ElementwiseChannel,
    ElementwiseDocument,
    ElementwiseToken,
    Row,
)
from distviz.results.labels import number, series_names
from distviz.sites import SiteKey, join_layers

ELEMENTWISE: dict[str, type[Row]] = {
    "elementwise.csv": Elementwise,
    "elementwise_documents.parquet": ElementwiseDocument,
    "elementwise_channels.csv": ElementwiseChannel,
    "elementwise_tokens.csv": ElementwiseToken,
}
"""Files of a comparison value by value, and their columns."""

ErrorRow = dict[str, Any]
"""A row of ``elementwise.csv`` as plain data, see `error_rows`."""

ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-9}
"""Unit roundoff: half the distance from 1 to the next number."""
_ROUNDINGS = 12
_MARGIN = 4.0
_AMPLIFIES = 2.0


def rounding_level(layer: int, dtypes: Sequence[str]) -> float:
    """Return the relative error up to which rounding explains a difference.

    Independent roundings add as the root of their number: 4 * u * sqrt(12 * (layer + 1)), with the
    unit roundoff u of the coarser dtype, 12 operations that round in a layer (norms, projections,
    attention, activation, product, sums), and a margin of 4 for what the layers amplify.
    """
    unit = max(ROUNDOFF.get(dtype, ROUNDOFF["bfloat16"]) for dtype in dtypes)
    return _MARGIN * unit * math.sqrt(_ROUNDINGS * (max(layer, 0) + 1))


def divergence(table: pd.DataFrame, dtypes: Sequence[str]) -> dict[str, Any]:
    """Return where two models differ, from ``elementwise.csv`` and the dtypes of both.

    Returns
    -------
    ``first``: the first place whose relative error exceeds `rounding_level`, None if there is none;
    ``jump``: where it grows most from one layer to the next at a site; ``worst``: the place of the
    lowest SQNR; ``amplifying``: layers that make the error they inherit at least twice as large,
    known if each layer's own error was measured; ``left_out``: the first place with pairs that are
    not compared because a value is not finite, and how many there are in all; ``verdict``: these in
    words.
    """
    rows = error_rows(table, dtypes)
    first = next((row for row in rows if row["relative_error"] > row["level"]), None)
    jump = max(_jumps(rows), key=lambda one: one["factor"], default=None)
    worst = worst_place(rows)
    found = {
        "first": first and _named(first, "relative_error", "level"),
        "jump": _named(jump, "from_layer", "factor") if first and jump else None,
        "worst": _named(worst, "sqnr_db", "sqnr_low", "sqnr_high", "relative_error")
        if first and worst
        else None,
        "amplifying": _amplifying(rows),
        "left_out": _left_out(table),
    }
    return found | {"verdict": _verdict(found, rows)}


def value_verdict(manifest: Mapping[str, Any]) -> str:
    """Return what a comparison value by value found, as a sentence; empty without one."""
    note = manifest.get("elementwise")
    return f"Value by value: {note['verdict']}" if note else ""


def error_rows(table: pd.DataFrame, dtypes: Sequence[str]) -> list[ErrorRow]:
    """Return the rows of ``elementwise.csv`` that have values, each with its `rounding_level`.

    The relative error is infinite where A is zero and B is not, NaN in the file. ``level`` is the
    new column.
    """
    rows: list[ErrorRow] = []
    for found in table[table["sqnr_db"].notna()].to_dict("records"):
        row: ErrorRow = {str(name): value for name, value in found.items()}
        for name in ("relative_error", "local_relative_error"):
            if name in row and math.isnan(row[name]):
                row[name] = math.inf
        rows.append(row | {"level": rounding_level(row["layer"], dtypes)})
    return rows


def worst_of_layers(rows: Iterable[ErrorRow]) -> list[ErrorRow]:
    """Return of each layer (of each stack) the row of the largest relative error."""
    worst: dict[tuple[str, int], ErrorRow] = {}
    for row in rows:
        layer = (row["stack"], row["layer"])
        if layer not in worst or row["relative_error"] > worst[layer]["relative_error"]:
            worst[layer] = row
    return list(worst.values())


def worst_place(rows: Iterable[ErrorRow]) -> ErrorRow | None:
    """Return the row of the lowest SQNR; None where all values are equal."""
    different = [row for row in rows if row["relative_error"] > 0]
    return min(different, key=lambda row: row["sqnr_db"], default=None)


def error_series(rows: Iterable[ErrorRow]) -> dict[str, list[ErrorRow]]:
    """Return the rows of each line of a chart, by its name: the same site in every layer.

    The name is the site, with the stack unless that is the decoder, and with the module (the index
    of its layer replaced by ``*``) where a site has several.
    """
    keys = {_key(row): row for row in rows}
    modules = series_names(keys)
    kinds: dict[tuple[str, str], list[str]] = {}
    for key, module in modules.items():
        kinds.setdefault((key.stack, key.site), []).append(module)
    found: dict[str, list[ErrorRow]] = {}
    for key, row in keys.items():
        words = [key.stack] * (key.stack != "decoder") + [key.site]
        words += [modules[key]] * (len(set(kinds[key.stack, key.site])) > 1)
        found.setdefault(" ".join(words), []).append(row)
    return {name: sorted(group, key=lambda row: row["layer"]) for name, group in found.items()}


def _key(row: Mapping[str, Any]) -> SiteKey:
    return SiteKey(row["layer"], row["stack"], row["site"], "before", row["module"])


def worst_channels(table: pd.DataFrame, most: int) -> tuple[str, pd.DataFrame]:
    """Return a site and the channels with the largest shares of the error there, by layer.

    The site is ``residual`` where it is there, because its channels are the same in every layer;
    otherwise the first. Rows are channels, the largest first; columns are layers; NaN where a
    channel is not listed. Of several modules or stacks in a layer the largest share counts.
    """
    sites = list(dict.fromkeys(table["site"]))
    if not sites:
        return "", pd.DataFrame()
    site = "residual" if "residual" in sites else sites[0]
    shares = table[table["site"] == site].pivot_table(
        index="channel", columns="layer", values="error_share", aggfunc="max"
    )
    order = shares.max(axis=1).sort_values(ascending=False, kind="stable").index[:most]
    chosen = shares.loc[order]
    return site, chosen.loc[:, chosen.notna().any()]


def rows_of(table: pd.DataFrame, place: ErrorRow) -> pd.DataFrame:
    """Return the rows of another table of the comparison at the place of a row."""
    same = [table[name] == place[name] for name in ("layer", "site", "module", "stack")]
    return table[np.logical_and.reduce(same)]


def _named(row: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return some columns as plain JSON; None where a number is not finite."""
    found = {name: row[name] for name in ("layer", "site", "module")}
    return found | {name: row[name] if math.isfinite(row[name]) else None for name in names}


def _jumps(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield how much the error grows from one layer to the next, above rounding."""
    before: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        place = (row["stack"], row["site"])
        last = before.get(place)
        before[place] = row
        if last is None or row["layer"] != last["layer"] + 1:
            continue
        if row["relative_error"] > row["level"]:
            factor = row["relative_error"] / max(last["relative_error"], last["level"])
            yield row | {"from_layer": last["layer"], "factor": factor}


def _amplifying(rows: Sequence[dict[str, Any]]) -> list[int]:
    """Return layers that at least double the error they inherit, above rounding."""
    found = []
    before: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["site"] != "residual" or "local_relative_error" not in row:
            continue
        last = before.get(row["stack"])
        before[row["stack"]] = row
        if last is None or last["relative_error"] <= last["level"]:
            continue
        inherited = math.sqrt(
            max(0.0, row["relative_error"] ** 2 - row["local_relative_error"] ** 2)
        )
        if inherited >= _AMPLIFIES * last["relative_error"]:
            found.append(row["layer"])
    return found


def _left_out(table: pd.DataFrame) -> dict[str, Any] | None:
    """Return the first place with pairs that were left out, and the number of all."""
    rows = table[table["left_out"] > 0]
    if rows.empty:
        return None
    first = {name: rows[name].tolist()[0] for name in ("layer", "site", "module")}
    return first | {"pairs": int(rows["left_out"].sum())}


def _verdict(found: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    text, left_out = _differences(found, rows), found["left_out"]
    if left_out is None:
        return text
    pairs = counted(left_out["pairs"], "pair")
    return f"{text}; {pairs} of values left out because one is not finite, first at {_at(left_out)}"


def _differences(found: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return "no pair of finite values was compared"
    if all(row["relative_error"] == 0 for row in rows):
        return "all finite values are equal" if found["left_out"] else "all values are equal"
    first, jump, worst = found["first"], found["jump"], found["worst"]
    if first is None:
        most = max(row["relative_error"] for row in rows)
        return f"no place differs by more than rounding (relative error up to {most:.2g})"
    error, lowest = _shown(first["relative_error"]), worst["sqnr_db"]
    parts = [f"A and B first differ by more than rounding at {_at(first)}"]
    parts[0] += f" (relative error {error}, rounding explains up to {first['level']:.2g})"
    if lowest is None:
        parts.append(f"A is zero and B is not at {_at(worst)}")
    else:
        parts.append(f"the lowest SQNR is {lowest:.1f} dB{_interval(worst)} at {_at(worst)}")
    if jump is not None and (jump["factor"] is None or jump["factor"] >= _AMPLIFIES):
        factor = jump["factor"]
        times = "infinite" if factor is None else number(factor, 2)
        if factor is not None and factor >= 100:
            times = f"{factor:,.0f}"
        parts.append(
            f"the error grows most, {counted(times, 'time')}, from layer "
            f"{jump['from_layer']} to {jump['layer']} at {jump['site']}"
        )
    if found["amplifying"]:
        layers = listed("layer", join_layers(found["amplifying"]))
        parts.append(f"an inherited error at least doubles in {layers}")
    return "; ".join(parts)


def _interval(place: Mapping[str, Any]) -> str:
    """Return the 95 % interval of the SQNR in brackets; empty without one."""
    low, high = place["sqnr_low"], place["sqnr_high"]
    return "" if low is None or high is None else f" [{low:.1f}, {high:.1f}]"


def _at(place: dict[str, Any]) -> str:
    return f"layer {place['layer']}, {place['site']}"


def _shown(value: float | None) -> str:
    return "infinite" if value is None else format(value, ".2g")
