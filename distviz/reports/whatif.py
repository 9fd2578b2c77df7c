"""The sections of what-if answers: what number formats lose and what zeros keep, by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distviz.reports import depth_charts
from distviz.reports.cells import data_table
from distviz.reports.page import Block, Chart, Part, Section
from distviz.reports.provenance import provenance
from distviz.reports.repeat_command import whatif_command
from distviz.reports.summary import measured
from distviz.results import records

if TYPE_CHECKING:
    import pandas as pd

    from distviz.results import WhatIf

__all__ = ["whatif_part"]

_COLORS = ("$before", "$after", "$ks", "$w1", "$js", "$muted")
Curves = dict[str, "pd.DataFrame"]


def whatif_part(answers: WhatIf, place: str = "") -> Part:
    """Return everything the page says of what-if answers; ``place`` names their folder."""
    name = str((answers.manifest.get("model") or {}).get("name") or "model")
    sections = []
    for site in answers.sites:
        named = f": {site}" if len(answers.sites) > 1 else ""
        blocks = _blocks(answers, site)
        if blocks:
            sections.append(Section(f"By layer{named}", blocks, grid=True))
    sections.append(Section("Every answer", [data_table("whatif", answers.table)]))
    sections.append(provenance(answers.manifest, whatif_command(answers)))
    title = f"{name}: what if" + (f" · {place}" if place else "")
    n = len(answers.table)
    verdict = (
        f"{n:,} answer{'s' * (n != 1)} from the counts of a saved run: what its values would lose "
        "in fewer bits, and what would be left of them with more zeros. No model was run."
    )
    warnings = [str(one) for one in answers.manifest.get("warnings") or []]
    return Part(title, measured(answers.manifest), verdict, sections, warnings)


def _blocks(answers: WhatIf, site: str) -> list[Block]:
    phase = answers.phases(site)[0]
    formats = {
        " ".join(filter(None, kind)): answers.losses(site, *kind, phase)
        for kind in answers.kinds(site)
    }
    zeros = {
        f"{level:.0%} zeros": answers.thinned(site, level, phase) for level in answers.levels(site)
    }
    cuts = {f"|x| < {edge:g}": answers.cut(site, edge, phase) for edge in answers.thresholds(site)}
    return [
        *_charts(f"signal over quantization noise, dB, {phase}", formats, "sqnr_db", share=False),
        *_charts(f"share of the energy kept, {phase}", zeros, "l2_kept", share=True),
        *_charts(f"energy kept below a threshold, {phase}", cuts, "l2_kept", share=True),
    ]


def _charts(title: str, curves: Curves, column: str, *, share: bool) -> list[Chart]:
    """Return charts of six curves at most; there are only so many colours to tell apart."""
    names = list(curves)
    parts = [names[start : start + len(_COLORS)] for start in range(0, len(names), len(_COLORS))]
    found = []
    for number, part in enumerate(parts, start=1):
        heading = title if len(parts) == 1 else f"{title} ({number} of {len(parts)})"
        shown = {name: curves[name] for name in part}
        found.append(_chart(heading, shown, column, share=share))
    return [chart for chart in found if chart is not None]


def _chart(title: str, curves: Curves, column: str, *, share: bool) -> Chart | None:
    """Return one curve a question; None where there is nothing finite to draw."""
    rows: dict[int, dict[str, Any]] = {}
    for name in curves:
        for row in records(curves[name]):
            layer = int(row["layer"])
            rows.setdefault(layer, {"place": layer, "kind": ""})[name] = row[column]
    ordered = [rows[layer] for layer in sorted(rows)]
    if not any(row.get(name) is not None for row in ordered for name in curves):
        return None
    colors = zip(curves, _COLORS, strict=False)
    series = {name: (name, color) for name, color in colors}
    return Chart(title, depth_charts.by_depth(ordered, series, share=share), 230)
