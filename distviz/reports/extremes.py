"""The largest values of a run with their tokens: beside their layer, and as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distviz.output import counted
from distviz.reports.cells import data_table
from distviz.reports.channels import Place
from distviz.reports.page import Block, Prose, Section
from distviz.results import DEFINITION, is_massive, is_paired, massive_lines, number, records

if TYPE_CHECKING:
    import pandas as pd

    from distviz.results import Run

_BESIDE, _ROWS = 6, 60
_HEADS = ["value", "token", "position", "document", "channel", "× median |x|"]


def _before(run: Run) -> pd.DataFrame:
    table = run.extremes
    return table[table["phase"] == "before"] if len(table) else table


def largest_values(run: Run) -> dict[Place, list[list[str]]]:
    """Return by place a table of the largest values before any change, with token and channel."""
    found: dict[Place, list[list[str]]] = {}
    for row in records(_before(run)):
        lines = found.setdefault((row["stack"], row["site"], row["layer"], row["module"]), [_HEADS])
        if len(lines) <= _BESIDE:
            where = [row["token"] or "–", *(f"{row[name]:,}" for name in ("position", "document"))]
            where.append(str(row["channel"]))
            lines.append([number(row["value"], 4), *where, number(row["ratio"])])
    return found


def extreme_section(run: Run) -> Section | None:
    """Return the massive activations and the largest values of all layers."""
    table = _before(run)
    if table.empty:
        return None
    blocks: list[Block] = [
        Prose(f"Massive activations ({DEFINITION}) at {line}") for line in massive_lines(run)
    ]
    order = table["ratio"].to_numpy().argsort(kind="stable")[::-1][:_ROWS]
    ranked = table.iloc[order]
    names = ["layer", "stack", "site", "value", "ratio", "token", "document", "window", "position"]
    names += ["channel", "expert", "massive", "module"]
    title = f"the {counted(len(ranked), 'value')} of largest ratio to the median |x|"
    title += ", before" * is_paired(run)
    blocks.append(
        data_table(title, ranked.assign(massive=is_massive(ranked)), names, table="extremes")
    )
    return Section("Largest values", blocks)
