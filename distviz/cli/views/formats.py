"""Number formats measured in a run on the terminal: a line per site and format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console, RenderableType

from distviz.cli.views.console import Column, FittedTable, paragraph, percent_cell
from distviz.results import (
    decibels,
    format_kinds,
    format_losses_of,
    is_paired,
    kind_name,
)

if TYPE_CHECKING:
    from distviz.results import Run

_TITLE = "Measured number formats{when}: median and worst layer, and the mean over layers of zeros"
_LEGEND = (
    "SQNR: error of the values in dB, not a cost to the model; in tokens: of each token's own "
    "energy, the mean over tokens"
)


def format_lines(run: Run, console: Console | None = None) -> list[RenderableType]:
    """Return the table of formats and what it shows; nothing if none were measured."""
    sites = [
        site for site in dict.fromkeys(key.site for key in run.keys) if format_kinds(run, site)
    ]
    if not sites:
        return []
    table = FittedTable(
        [
            *[Column("site", kind="name")] * (len(sites) > 1),
            Column("format", kind="name"),
            Column("SQNR", "median"),
            Column("SQNR", "worst"),
            Column("in", "layer", kind="text", drop=2),
            Column("in tokens", "median"),
            Column("in tokens", "worst"),
            Column("in tokens", "in layer", kind="text", drop=1),
            Column("zeroed", drop=3),
        ],
        "formats.csv",
    )
    for site in sites:
        for kind in format_kinds(run, site):
            rows = format_losses_of(run, site, kind)
            cells = [site] * (len(sites) > 1) + [kind_name(kind)]
            for column in ("sqnr_db", "token_sqnr_db"):
                known = rows.dropna(subset=column)
                if known.empty:
                    cells += ["–"] * 3
                    continue
                worst = known.sort_values(column, kind="stable").iloc[0]
                stack = "" if worst["stack"] == "decoder" else f"{worst['stack']} "
                median = decibels(float(known[column].median()))
                cells += [median, decibels(float(worst[column])), f"{stack}{worst['layer']}"]
            cells.append(percent_cell(float(rows["zeroed"].mean())))
            table.add_row(cells)
    title = _TITLE.format(when=", before" * is_paired(run))
    return [
        paragraph(title, console, style="bold"),
        table,
        paragraph(_LEGEND, console, style="dim"),
    ]
