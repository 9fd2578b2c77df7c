"""The sections of what-if results: what number formats and zeros lose, by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distviz.output import counted
from distviz.reports import charts
from distviz.reports.cells import data_table
from distviz.reports.page import Chart, Part, Section
from distviz.reports.repeat_command import whatif_command
from distviz.reports.summary import make_part
from distviz.results import model_name, records

if TYPE_CHECKING:
    import pandas as pd

    from distviz.results import WhatIf


def whatif_part(results: WhatIf) -> Part:
    """Return the part of what-if results."""
    sections = []
    for site in results.sites:
        blocks = _site_charts(results, site)
        if blocks:
            title = "By layer" + (f": {site}" if len(results.sites) > 1 else "")
            sections.append(Section(title, [*blocks], grid=True))
    sections.append(Section("All results", [data_table("whatif", results.table)]))
    verdict = (
        f"{counted(len(results.table), 'result')} from the counts of a saved run: the error of its "
        "values in fewer bits, and their energy with the smallest set to zero. No model was run."
    )
    title = f"{model_name(results)}: what if"
    return make_part(results, title, verdict, sections, whatif_command(results))


def _site_charts(results: WhatIf, site: str) -> list[Chart]:
    phase = results.phases(site)[0]
    formats = {
        " ".join(filter(None, kind)): results.losses(site, *kind, phase)
        for kind in results.kinds(site)
    }
    zeros = {
        f"{level:.0%} zeros": results.thinned(site, level, phase) for level in results.levels(site)
    }
    cuts = {f"|x| < {edge:g}": results.cut(site, edge, phase) for edge in results.thresholds(site)}
    return [
        *_charts(f"signal over quantization noise, dB, {phase}", formats, "sqnr_db", share=False),
        *_charts(f"share of the energy kept, {phase}", zeros, "l2_kept", share=True),
        *_charts(f"energy kept below a threshold, {phase}", cuts, "l2_kept", share=True),
    ]


def _charts(
    title: str, tables: dict[str, pd.DataFrame], column: str, *, share: bool
) -> list[Chart]:
    """Return charts with as many curves each as there are colours."""
    curves = {
        name: [(int(row["layer"]), row[column]) for row in records(table)]
        for name, table in tables.items()
    }
    names, size = list(curves), len(charts.COLORS)
    groups = [names[start : start + size] for start in range(0, len(names), size)]
    found = []
    for number, group in enumerate(groups, start=1):
        heading = title if len(groups) == 1 else f"{title} ({number} of {len(groups)})"
        part = {name: curves[name] for name in group}
        found.append(charts.layer_curves(heading, part, share=share, height=230))
    return [chart for chart in found if chart is not None]
