"""What number formats lose in the layers of a run: maps by layer, and the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distviz.plots import COST, LOSS
from distviz.reports import axes, charts
from distviz.reports.cells import data_table
from distviz.reports.page import Block, Chart, Section
from distviz.results import (
    LOST,
    TOKEN_LOST,
    format_kinds,
    format_losses_of,
    is_paired,
    kind_name,
    records,
)

if TYPE_CHECKING:
    from distviz.results import Run

_MAPS = {"sqnr_db": LOST, "token_sqnr_db": TOKEN_LOST, "zeroed": "share of values that become zero"}


def format_sections(run: Run) -> list[Section]:
    """Return a section per site with measured formats, and their table in the last."""
    sites = [
        site for site in dict.fromkeys(key.site for key in run.keys) if format_kinds(run, site)
    ]
    sections = []
    for site in sites:
        blocks: list[Block] = []
        when = ", before" * is_paired(run)
        for column, title in _MAPS.items():
            rows = _cells(run, site, column)
            if not rows:
                continue
            is_share = column == "zeroed"
            look = (axes.SHARE, COST) if is_share else (axes.NUMBER, LOSS)
            spec = charts.heatmap(rows, title, look[0], x="layer", y="format", colors=look[1])
            height = 80 + 19 * len(format_kinds(run, site))
            blocks.append(Chart(f"{title}{when}", spec, height))
        if site == sites[-1]:
            blocks.append(data_table("formats", run.formats))
        title = "Measured number formats" + (f": {site}" if len(sites) > 1 else "")
        sections.append(Section(title, blocks))
    return sections


def _cells(run: Run, site: str, column: str) -> list[dict[str, object]]:
    found = []
    for kind in format_kinds(run, site):
        name = kind_name(kind)
        for row in records(format_losses_of(run, site, kind)):
            if row[column] is not None:
                cell = {"layer": int(row["layer"]), "format": name, "value": row[column]}
                found.append(cell | {"name": f"layer {row['layer']}, {name}", "chosen": False})
    return found
