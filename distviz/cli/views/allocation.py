"""An allocation on the terminal: every place, the cost of the whole, and the verdict."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from distviz.cli.views.console import Column, FittedTable, command, paragraph, percent_cell
from distviz.output import counted
from distviz.results import measured_line, number

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from distviz.results import Allocation


def summary(found: Allocation, console: Console | None = None) -> Group:
    """Return the findings: the sample, every place, the curve, the verdict and the command."""
    parts: list[RenderableType] = [paragraph(measured_line(found), console, style="bold")]
    parts += [paragraph(_setup(found), console), places_table(found)]
    parts += [paragraph(_legend(found), console), curve_table(found), Text()]
    parts += [paragraph(found.verdict, console, style="bold"), command(found.command, console)]
    return Group(*parts)


def _setup(found: Allocation) -> str:
    manifest, n = found.manifest, len(found.costs)
    budget, loss = manifest.get("budget_kl"), found.chosen()["loss_before"]
    words = [f"{counted(n, 'level')} in {counted(found.n_places, 'place')} alone"]
    words += [f"at {', '.join(found.sites)}", f"loss {counted(number(loss), 'nat')}"]
    if budget is not None:
        words.append(f"budget {counted(f'{budget:g}', 'nat')}")
    return " · ".join(words)


def _amount(found: Allocation, row: Mapping[Hashable, Any]) -> list[str]:
    """Return the cells that say what a place gets."""
    if found.is_of_zeros:
        return [percent_cell(row["zeros"]), number(row["threshold"], 3)]
    return [str(row["format"])]


def places_table(found: Allocation) -> FittedTable:
    """Return one row per place: what it gets, its cost alone, and what uniform gives it."""
    columns = [Column("layer"), *[Column("site", kind="name")] * (len(found.sites) > 1)]
    if found.is_of_zeros:
        columns += [Column("zeros", "in all"), Column("zeros up to", "|x|")]
        columns += [Column("uniform", "zeros", drop=1), Column("uniform", "|x|", drop=2)]
    else:
        columns += [Column("format", kind="name"), Column("uniform", "", drop=1, kind="name")]
    columns += [Column("KL alone", "nats", drop=3)]
    table = FittedTable(columns, "allocation.csv")
    rows = zip(found.table.to_dict("records"), found.even.to_dict("records"), strict=True)
    for own, even in rows:
        where = [str(own["layer"]), *[str(own["site"])] * (len(found.sites) > 1)]
        cells = [*where, *_amount(found, own), *_amount(found, even), _number(own["kl_alone"])]
        table.add_row(cells, "")
    return table


def curve_table(found: Allocation) -> FittedTable:
    """Return what the whole costs by its mean, allocated and uniform."""
    mean = Column("zeros" if found.is_of_zeros else "bits", "mean")
    columns = [mean, Column("KL allocated", "nats"), Column("KL allocated", "95 %", drop=2)]
    columns += [Column("KL uniform", "nats"), Column("saved", "95 %")]
    columns += [
        Column("loss change", "allocated", drop=3),
        Column("loss change", "uniform", drop=3),
    ]
    columns += [Column("top-1", "allocated", drop=4), Column("top-1", "uniform", drop=4)]
    table = FittedTable([*columns, Column("")], "allocation_curve.csv")
    sides = (found.curve[found.curve["kind"] == kind] for kind in ("allocated", "uniform"))
    for own, even in zip(*(side.to_dict("records") for side in sides), strict=True):
        name = percent_cell(own["mean"]) if found.is_of_zeros else number(own["mean"], 3)
        cells = [name, _number(own["kl"]), _ends(own, "kl"), _number(even["kl"])]
        cells += [_ends(own, "kl_saved")]
        cells += [_signed(own["loss_change"]), _signed(even["loss_change"])]
        cells += [percent_cell(own["top1_agreement"]), percent_cell(even["top1_agreement"])]
        mark = "<" if own["is_chosen"] else ""
        table.add_row([*cells, mark], "bold green" if mark else "")
    return table


def _number(value: float) -> str:
    return number(value, 2) if math.isfinite(value) else "–"


def _signed(value: float) -> str:
    return f"{value:+.3f}" if math.isfinite(value) else "–"


def _ends(row: Mapping[Hashable, Any], name: str) -> str:
    ends = [row.get(f"{name}_{end}", math.nan) for end in ("low", "high")]
    return " to ".join(number(end, 2) for end in ends) if all(map(math.isfinite, ends)) else "–"


def _legend(found: Allocation) -> str:
    words = "KL alone: of this level in this place only"
    if found.is_of_zeros:
        words += "; zeros in all: share of zeros with all places changed"
    return f"{words}. Below: the whole after some steps, <: chosen; saved: KL uniform - allocated"
