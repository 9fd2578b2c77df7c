"""The sections of what-if results: what number formats and zeros lose, by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distviz.output import counted
from distviz.plots import COST, LOSS
from distviz.reports import axes, charts
from distviz.reports.cells import data_table
from distviz.reports.page import Block, Chart, Part, Section
from distviz.reports.repeat_command import whatif_command
from distviz.reports.summary import make_part
from distviz.results import RANGES, TOP, evenly, model_name, records, whatif_verdict

if TYPE_CHECKING:
    import pandas as pd

    from distviz.results import WhatIf


_FEW = 4


def whatif_part(results: WhatIf) -> Part:
    """Return the part of what-if results."""
    sections = []
    for site in results.sites:
        blocks = _site_blocks(results, site)
        if blocks:
            title = "By layer" + (f": {site}" if len(results.sites) > 1 else "")
            sections.append(Section(title, blocks))
    sections.append(Section("All results", [data_table("whatif", results.table)]))
    verdict = (
        f"{whatif_verdict(results)} {counted(len(results.table), 'result')} from the counts of "
        "a saved run: the error of its values in fewer bits, and their energy with the smallest "
        "set to zero. No model was run."
    )
    title = f"{model_name(results)}: what if"
    return make_part(results, title, verdict, sections, whatif_command(results))


def _site_blocks(results: WhatIf, site: str) -> list[Block]:
    """Return what each question answers: a map of all layers, and the curves one chooses."""
    phase = results.phases(site)[0]
    kinds = results.kinds(site)
    preferred = next((range_ for range_ in RANGES if range_ in {kind[1] for kind in kinds}), "")
    formats = {" ".join(filter(None, kind)): results.losses(site, *kind, phase) for kind in kinds}
    first = [" ".join(filter(None, kind)) for kind in kinds if kind[1] == preferred]
    zeros = {
        f"{level:.0%} zeros".replace("%", " %"): results.thinned(site, level, phase)
        for level in results.levels(site)
    }
    cuts = {f"|x| < {edge:g}": results.cut(site, edge, phase) for edge in results.thresholds(site)}
    held = {"energy": next(iter(formats.values()))} if formats else {}
    of = f", {phase}" * bool(results.named_phase(site))
    ratio, rest = f"SQNR (error of the values, not a cost), dB{of}", f"without {TOP}"
    kept, cut = f"share of the energy kept{of}", f"energy kept below a threshold{of}"
    few, few_cuts = evenly([*zeros], _FEW), evenly([*cuts], _FEW)
    return [
        *_question(ratio, formats, "sqnr_db", first),
        *_question(f"SQNR, dB, {rest}{of}", formats, "sqnr_rest_db", first),
        *_question(f"share of the values that become zero{of}", formats, "zeroed", first),
        *_question(f"share of the energy in {TOP}{of}", held, "top_energy", []),
        *_question(kept, zeros, "l2_kept", few),
        *_question(f"{kept}, {rest}", zeros, "l2_kept_rest", few),
        *_question(cut, cuts, "l2_kept", few_cuts),
        *_question(f"{cut}, {rest}", cuts, "l2_kept_rest", few_cuts),
    ]


def _question(
    title: str, tables: dict[str, pd.DataFrame], column: str, first: list[str]
) -> list[Block]:
    """Return a heatmap of layers and answers, and curves of which ``first`` are shown."""
    curves = {
        name: [(int(row["layer"]), row[column]) for row in records(table)]
        for name, table in tables.items()
    }
    share = not column.startswith("sqnr")
    lines = charts.layer_curves(
        f"{title}, by layer", curves, share=share, height=230, scale="linear", chosen=first
    )
    if lines is None:
        return []
    rows = [
        {"layer": layer, "answer": name, "value": value, "name": f"layer {layer}, {name}"}
        | {"chosen": False}
        for name, points in curves.items()
        for layer, value in points
    ]
    kind = axes.SHARE if share else axes.NUMBER
    colors = COST if column in ("zeroed", "top_energy") else LOSS
    spec = charts.heatmap(rows, title, kind, x="layer", y="answer", colors=colors)
    return [Chart(title, spec, 80 + 19 * len(curves)), lines]
