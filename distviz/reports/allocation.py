"""The sections of an allocation: what each layer gets, what the whole costs, all tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distviz.reports import charts
from distviz.reports.cells import data_table
from distviz.reports.page import Block, Command, Part, Prose, Section
from distviz.reports.repeat_command import allocation_command
from distviz.reports.summary import make_part
from distviz.results import model_name, records

if TYPE_CHECKING:
    import pandas as pd

    from distviz.results import Allocation


def allocation_part(found: Allocation) -> Part:
    """Return the part of an allocation."""
    sections = [
        Section("Apply it", [Command(found.command), Prose(_NOTE)]),
        Section("By layer", [*_by_layer(found)]),
        Section("What the whole costs", [data_table("allocation_curve", found.curve)]),
        Section(
            "Every place",
            [data_table("allocation", found.table), data_table("uniform", found.even)],
        ),
        Section("Every level alone", [data_table("allocation_costs", found.costs)]),
    ]
    title = f"{model_name(found)}: allocation"
    return make_part(found, title, found.verdict, sections, allocation_command(found))


_NOTE = (
    "FOLDER is the folder of this result. Thresholds and costs are of the text that was measured; "
    "measure another text with the command to see what holds there."
)


def _by_layer(found: Allocation) -> list[Block]:
    """Return what each layer gets at each site, and the cost of its levels alone."""
    column, name = ("zeros", "share of zeros") if found.is_of_zeros else ("bits", "bits")
    blocks = []
    for site in found.sites:
        sides = {"allocated": found.table, "uniform": found.even}
        curves = {kind: _points(table, site, column) for kind, table in sides.items()}
        blocks.append(charts.layer_curves(f"{name} at {site}", curves, share=found.is_of_zeros))
        if not found.is_of_zeros:
            groups = found.costs.groupby("format", sort=False)
            curves = {str(kind): _points(rows, site, "kl") for kind, rows in groups}
            title = f"KL of one layer alone, nats, at {site}"
            blocks.append(charts.layer_curves(title, curves, share=False))
    return [chart for chart in blocks if chart is not None]


def _points(table: pd.DataFrame, site: str, column: str) -> list[tuple[int, Any]]:
    return [(int(row["layer"]), row[column]) for row in records(table[table["site"] == site])]
