"""The sections of a comparison: pairs of layers, distances by depth, significance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from distviz.reports import charts
from distviz.reports.cells import data_table
from distviz.reports.elementwise import elementwise_section
from distviz.reports.histogram_charts import COMPARED
from distviz.reports.histogram_data import compared_frames, first_scales
from distviz.reports.page import Block, Browser, Chart, Part, Prose, Section
from distviz.reports.rendering import DISTANCES
from distviz.reports.repeat_command import compare_command
from distviz.reports.run import class_section, layer_section
from distviz.reports.summary import architecture_line, make_part
from distviz.reports.texts import text_section
from distviz.results import alignment, comparison_verdict, records, side_names
from distviz.stats import ALPHA

if TYPE_CHECKING:
    from distviz.plots import AxisChoice
    from distviz.results import Comparison

_SIDES = {"near_zero_a": ("A", "$before"), "near_zero_b": ("B", "$after")}
_TESTED = {
    "log_variance_ratio": "log variance ratio, ln(var B / var A), mean of documents",
    "near_zero_difference": "near-zero difference, B − A, points, mean of documents",
}


def comparison_part(
    comparison: Comparison, folder: str = "", choice: AxisChoice | None = None
) -> Part:
    """Return the part of a comparison.

    ``folder`` is for the command that repeats it; ``choice`` is that of `axes_of`.
    """
    a, b = side_names(comparison)
    manifest = comparison.manifest
    sides = [
        f"{side}: {name} · {architecture_line(comparison, f'_{side.lower()}')}"
        for side, name in (("A", a), ("B", b))
    ]
    changed = "after" in (manifest.get("phase_a"), manifest.get("phase_b"))
    sites = list(dict.fromkeys(pair.a.site for pair in comparison.pairs))
    layers = layer_section(comparison.a, sites, has_change=changed)
    frames, scales = compared_frames(comparison, choice), first_scales(comparison, choice)
    pairs = Browser("A and B", COMPARED, frames, scales)
    sections = [
        Section("The two sides", [Prose("\n".join(sides)), *layers.blocks]),
        *elementwise_section(comparison),
        Section("Pairs of layers", [pairs]),
        *_depth(comparison),
        Section("All distances", [data_table("compare", comparison.table)]),
        *_tables(comparison),
        *_texts(comparison),
    ]
    verdict = [
        line if line.partition(":")[0] in sites else line[:1].upper() + line[1:]
        for line in comparison_verdict(comparison).split("\n")
    ]
    return make_part(
        comparison,
        f"{a} against {b}",
        "\n".join(verdict),
        sections,
        compare_command(comparison, folder),
        alignment(comparison),
    )


def _depth(comparison: Comparison) -> list[Section]:
    sites = list(dict.fromkeys(comparison.table["site"]))
    found = []
    for site in sites:
        here = comparison.table[comparison.table["site"] == site]
        has_modules = bool(here["layer_a"].duplicated().any())
        rows = [
            {"place": row["layer_a"], "kind": row["module_a"] if has_modules else "", **row}
            for row in records(here)
        ]
        blocks: list[Block] = [
            Chart("near-zero share, |x| < ε of A", charts.by_depth(rows, _SIDES, share=True)),
            Chart("distances of the distributions", charts.by_depth(rows, DISTANCES)),
        ]
        blocks += _tested(comparison.inference, site)
        title = "By depth, with 95 % intervals" + (f": {site}" if len(sites) > 1 else "")
        note = f"Filled marks: adjusted p below {ALPHA:g}. Layers are those of A."
        found.append(Section(title, [*blocks, Prose(note)], grid=True))
    return found


def _tested(inference: pd.DataFrame, site: str) -> list[Chart]:
    if not len(inference):
        return []
    here = inference[inference["site"] == site]
    rows = {name: interval_rows(here[here["quantity"] == name], "layer_a") for name in _TESTED}
    return [
        Chart(_TESTED[name], charts.intervals(rows[name], "$ink", share="near_zero" in name))
        for name in rows
        if rows[name]
    ]


def interval_rows(table: pd.DataFrame, place: str) -> list[dict[str, Any]]:
    """Return rows of an inference table for `charts.intervals`; ``place`` names the x column."""
    return [
        {
            "place": row[place],
            "estimate": row["estimate"],
            "low": row["ci_low"],
            "high": row["ci_high"],
            "p": row["p_adjusted"],
            "significant": row["p_adjusted"] is not None and row["p_adjusted"] < ALPHA,
        }
        for row in records(table)
        if row["estimate"] is not None
    ]


def _class_marks(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": row["token_class"], "series": side}
        | {"value": row[f"near_zero_{side.lower()}"], "tokens": row[f"tokens_{side.lower()}"]}
        for side in "AB"
    ]


def _texts(comparison: Comparison) -> list[Section]:
    """Return the text of both sides, or of each where they differ."""
    a, b = comparison.a, comparison.b
    named = [("", a)] if a.texts == b.texts else [(" of A", a), (" of B", b)]
    found = [text_section(run, side) for side, run in named]
    return [section for section in found if section is not None]


def _tables(comparison: Comparison) -> list[Section]:
    found = []
    if len(comparison.inference):
        table = data_table("inference", comparison.inference)
        found.append(Section("Significance", [table]))
    if len(comparison.output_documents):
        table = data_table("output_documents", comparison.output_documents)
        found.append(Section("Output by document", [table]))
    if len(comparison.classes):
        keys = ["layer_a", "site", "module_a"]
        found.append(
            class_section(comparison.classes, keys, _class_marks, table_name="comparison classes")
        )
    if len(comparison.channels):
        table = data_table("channels", comparison.channels, table="comparison channels")
        found.append(Section("Channels that changed most", [table]))
    return found
