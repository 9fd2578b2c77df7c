"""The sections of a filler study: changes by layer and by number of fillers, and attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distviz.output import counted
from distviz.reports import charts
from distviz.reports.cells import data_table
from distviz.reports.comparison import interval_rows
from distviz.reports.page import Block, Chart, Fold, Part, Prose, Section
from distviz.reports.repeat_command import filler_command
from distviz.reports.run import layer_section
from distviz.reports.summary import make_part
from distviz.reports.texts import text_section
from distviz.results import QUANTITIES, filler_name, model_name, records
from distviz.stats import ALPHA

if TYPE_CHECKING:
    import pandas as pd

    from distviz.results import FillerStudy

_TITLES = dict(
    zip(
        QUANTITIES,
        (
            "near-zero share, change in percentage points",
            "variance, log ratio",
            "L1, log ratio",
            "L2, log ratio",
            "Gini coefficient of |x|, change",
        ),
        strict=True,
    )
)
_NOTE = Prose(f"Bars: 95 % intervals over prompts. Filled marks: adjusted p below {ALPHA:g}.")


def filler_part(study: FillerStudy, texts: str | None = None) -> Part:
    """Return the part of a filler study; ``texts`` is the file of its prompts, if saved."""
    sites = list(dict.fromkeys(study.table["site"]))
    sections = [layer_section(study.runs[0], has_change=False)]
    for site in sites:
        named = f": {site}" if len(sites) > 1 else ""
        sections += [_by_layer(study, site, named), *_by_count(study, site, named)]
    sections.append(Section("All changes", [data_table("filler", study.table)]))
    if len(study.attention):
        sections.append(Section("Attention", [data_table("attention", study.attention)]))
    texts_shown = text_section(study.runs[0], " without filler")
    sections += [texts_shown] if texts_shown is not None else []
    title = f"{model_name(study.runs[0])}: {filler_name(study)}"
    return make_part(study, title, study.verdict, sections, filler_command(study, texts))


def _by_layer(study: FillerStudy, site: str, named: str) -> Section:
    """Return the charts of the largest number of fillers; the others are folded."""
    *others, last = study.counts
    blocks: list[Block] = [*_layer_charts(study, last, site)]
    blocks += [
        Fold(counted(count, "filler token"), _layer_charts(study, count, site), grid=True)
        for count in reversed(others)
    ]
    blocks.append(_NOTE)
    return Section(
        f"{counted(last, 'filler token')} against none, by layer{named}", blocks, grid=True
    )


def _layer_charts(study: FillerStudy, count: int, site: str) -> list[Chart]:
    attention = study.attention[study.attention["filler_count"] == count]
    rows = study.table[(study.table["filler_count"] == count) & (study.table["site"] == site)]
    return _charts(rows, attention, "layer")


def _by_count(study: FillerStudy, site: str, named: str) -> list[Section]:
    """Return the most changed layer by the number of fillers, if there are several."""
    if len(study.counts) < 2:
        return []
    layer = study.most_changed(study.counts[-1], site)[0]
    rows = study.table[(study.table["layer"] == layer) & (study.table["site"] == site)]
    attention = study.attention[study.attention["layer"] == layer]
    blocks: list[Block] = [*_charts(rows, attention, "filler_count"), _NOTE]
    title = f"By number of filler tokens, layer {layer}, which changes most{named}"
    return [Section(title, blocks, grid=True)]


def _charts(rows: pd.DataFrame, attention: pd.DataFrame, place: str) -> list[Chart]:
    axis = "layer" if place == "layer" else "filler tokens"
    found = []
    for quantity, title in _TITLES.items():
        here = interval_rows(rows[rows["quantity"] == quantity], place)
        if here:
            share = "near_zero" in quantity
            spec = charts.intervals(here, "$after", axis=axis, share=share)
            found.append(Chart(title, spec))
    values = [
        {"place": row[place], "kind": row["module"], "kept": row["attention_kept"]}
        for row in records(attention)
    ]
    if values:
        if len({row["place"] for row in values}) == len(values):
            values = [row | {"kind": ""} for row in values]
        series = {"kept": ("attention kept", "$before")}
        spec = charts.by_depth(values, series, share=True, axis=axis)
        found.append(Chart("attention on the prompt's own tokens", spec))
    return found
