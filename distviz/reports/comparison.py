"""The sections of a comparison: pairs of layers, distances by depth, what is more than noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from distviz.reports import class_charts, depth_charts, distribution_charts
from distviz.reports.cells import data_table
from distviz.reports.histogram_data import compared_frames
from distviz.reports.page import Block, Browser, Chart, Part, Prose, Section
from distviz.reports.palette import DISTANCES
from distviz.reports.provenance import provenance
from distviz.reports.repeat_command import compare_command
from distviz.reports.run import layer_section
from distviz.reports.summary import measured
from distviz.results import alignment, records, side_names
from distviz.stats import ALPHA

if TYPE_CHECKING:
    from distviz.results import Comparison

__all__ = ["comparison_part", "interval_rows"]

_SIDES = {"near_zero_a": ("A", "$before"), "near_zero_b": ("B", "$after")}
_TESTED = {
    "log_variance_ratio": "log variance ratio, ln(var B / var A), mean of documents",
    "near_zero_difference": "near-zero difference, B − A, mean of documents",
}
_CLASS_SIDES = {"A": "$before", "B": "$after"}


def comparison_part(comparison: Comparison, place: str = "", folder: str = "") -> Part:
    """Return everything the page says of a comparison.

    Parameters
    ----------
    comparison
        What was compared.
    place
        The folder's name, to tell it from others.
    folder
        Where it lies, for the command that repeats it; empty where it is not known.
    """
    a, b = side_names(comparison)
    manifest = comparison.manifest
    sides = f"A: {a} · {measured(manifest, '_a')}\nB: {b} · {measured(manifest, '_b')}"
    changed = "after" in (manifest.get("phase_a"), manifest.get("phase_b"))
    layers = layer_section(comparison.a, has_change=changed)
    sections = [
        Section("The two sides", [Prose(sides), *layers.blocks]),
        Section(
            "Pair by pair",
            [Browser("A and B", distribution_charts.COMPARED, compared_frames(comparison))],
        ),
        *_depth(comparison),
        Section("Every distance", [data_table("compare", comparison.table)]),
        *_rest(comparison),
        provenance(manifest, compare_command(manifest, folder)),
    ]
    title = f"{a} against {b}" + (f" · {place}" if place else "")
    warnings = [str(one) for one in manifest.get("warnings") or []]
    verdict = str(manifest.get("verdict") or "")
    verdict = verdict[:1].upper() + verdict[1:]
    return Part(title, alignment(comparison), verdict, sections, warnings)


def _depth(comparison: Comparison) -> list[Section]:
    sites = list(dict.fromkeys(comparison.table["site"]))
    found = []
    for site in sites:
        here = comparison.table[comparison.table["site"] == site]
        rows = [{"place": row["layer_a"], "kind": row["module_a"], **row} for row in records(here)]
        if not here["layer_a"].duplicated().any():
            rows = [row | {"kind": ""} for row in rows]
        blocks: list[Block] = [
            Chart("near-zero share, |x| < ε of A", depth_charts.by_depth(rows, _SIDES, share=True)),
            Chart("distances of the distributions", depth_charts.by_depth(rows, DISTANCES)),
        ]
        blocks += _tested(comparison.inference, site)
        title = "By depth, with 95 % intervals" + (f": {site}" if len(sites) > 1 else "")
        note = "Filled marks: adjusted p below 0.05. Layers are named as in A."
        found.append(Section(title, [*blocks, Prose(note)], grid=True))
    return found


def _tested(inference: pd.DataFrame, site: str) -> list[Chart]:
    found = []
    for quantity, title in _TESTED.items():
        if not len(inference):
            continue
        here = inference[(inference["site"] == site) & (inference["quantity"] == quantity)]
        rows = interval_rows(here, "layer_a")
        if rows:
            found.append(Chart(title, depth_charts.intervals(rows, "$ink")))
    return found


def interval_rows(table: pd.DataFrame, place: str) -> list[dict[str, Any]]:
    """Return the rows of a table of inference as `depth_charts.intervals` takes them."""
    return [
        {
            "place": row[place],
            "estimate": row["estimate"],
            "low": row["ci_low"],
            "high": row["ci_high"],
            "p": row["p_adjusted"],
            "sure": row["p_adjusted"] is not None and row["p_adjusted"] < ALPHA,
        }
        for row in records(table)
        if row["estimate"] is not None
    ]


def _rest(comparison: Comparison) -> list[Section]:
    found = []
    if len(comparison.inference):
        table = data_table("inference", comparison.inference)
        found.append(Section("Is it more than noise?", [table]))
    if len(comparison.classes):
        found.append(_classes(comparison.classes))
    if len(comparison.channels):
        table = data_table("channels", comparison.channels)
        found.append(Section("Channels that changed most", [table]))
    return found


def _classes(table: pd.DataFrame) -> Section:
    first = table.iloc[0]
    here = table[(table["layer_a"] == first["layer_a"]) & (table["site"] == first["site"])]
    here = here[here["module_a"] == first["module_a"]]
    rows = [
        {"name": row["token_class"], "series": side, "tokens": row[f"tokens_{side.lower()}"]}
        | {"value": row[f"near_zero_{side.lower()}"]}
        for row in records(here)
        for side in _CLASS_SIDES
    ]
    title = f"near-zero share by token class, layer {first['layer_a']}, {first['site']}"
    chart = Chart(title, class_charts.dots(rows, _CLASS_SIDES), 190)
    return Section("Token classes", [chart, data_table("classes", table)])
