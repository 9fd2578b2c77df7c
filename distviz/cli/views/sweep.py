"""A sweep on the terminal: every setting and the recommendation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console, Group, RenderableType
from rich.text import Text

from distviz.arm import has_bounds, has_selection
from distviz.cli.views.console import Column, FittedTable, command, paragraph, percent_cell
from distviz.output import counted
from distviz.results import disagreements, measured_line, number, pareto, varied_columns
from distviz.sites import ACT

if TYPE_CHECKING:
    from collections.abc import Callable

    from distviz.results import Sweep

_SHORT = {
    "redistribution": "kind",
    "layers": "layers",
    "at": "at",
    "c": "c",
    "p1": "p1",
    "mode": "mode",
}
_SHORT |= {"preset": "preset"}


def summary(sweep: Sweep, console: Console | None = None) -> Group:
    """Return the findings: the sample, every setting and the recommended one."""
    parts: list[RenderableType] = [paragraph(measured_line(sweep), console, style="bold")]
    parts.append(paragraph(_setup(sweep), console))
    if "evidence" in sweep.manifest:
        parts.append(paragraph(f"proposed: {sweep.manifest['evidence']}", console))
    parts += [settings_table(sweep), paragraph(_legend(sweep), console), Text()]
    parts += [paragraph(text, console, style="bold") for text in sweep.costs]
    parts += [paragraph(text, console) for text in disagreements(sweep.table)]
    found = sweep.recommendation
    if not _is_selecting(sweep):
        return Group(*parts)
    if found.row is None:
        parts.append(paragraph(f"no recommendation: {found.reason}", console, style="bold"))
    else:
        parts.append(paragraph(f"recommended: {found.reason}", console, style="bold"))
        parts.append(command(found.command, console))
    return Group(*parts)


def _setup(sweep: Sweep) -> str:
    """Return how many settings were measured, the loss without them, and what they share."""
    words = [counted(len(sweep.table), "setting")]
    seeds = sweep.manifest.get("seeds") or [0]
    if len(seeds) > 1:
        words.append(counted(len(seeds), "seed"))
    loss = sweep.table["loss_before"].iloc[0]
    if not math.isnan(loss):
        words.append(f"loss {loss:.4f} nats")
    return " · ".join([*words, *_shared(sweep.table)])


def _named_columns(table: pd.DataFrame) -> list[str]:
    """Return the columns that differ; c and fraction share one."""
    names = ("c" if name == "fraction" else name for name in varied_columns(table))
    return list(dict.fromkeys(names))


def _shared(table: pd.DataFrame) -> list[str]:
    """Return the parameters that all settings share, without defaults."""
    first, varied = table.iloc[0], _named_columns(table)
    words = []
    for name in _SHORT:
        is_idle = name in ("c", "p1") and not has_selection(first["redistribution"])
        if name not in varied and first[name] not in ("arm", "replace", "", ACT) and not is_idle:
            word = "layer" if name == "layers" else name
            words.append(f"{word} {_cell(name, first)}")
    return [f"all: {', '.join(words)}"] if words else []


def _cell(name: str, row: pd.Series[Any]) -> str:
    if name == "c" and not math.isnan(row["fraction"]):
        return f"f {row['fraction']:g}"
    if name in ("p1", "mode") and not has_bounds(row["redistribution"]):
        return "–"
    return f"{row[name]:g}" if isinstance(row[name], float) else str(row[name])


def settings_table(sweep: Sweep) -> FittedTable:
    """Return one row per setting; marks say which is recommended, and which are on the front."""
    rows = sweep.table
    front, chosen = set(_front(sweep)), sweep.recommendation.row
    named = _named_columns(rows)
    heads = [Column(_SHORT[name], kind="name" if name == "preset" else "number") for name in named]
    columns = _columns(sweep)
    table = FittedTable([*heads, *columns, Column("")], "sweep.csv")
    models = {name.partition(":")[0] for name in rows["preset"] if name}
    for index, row in rows.assign(preset=_short_presets(rows["preset"], models)).iterrows():
        mark = "<" if index == chosen else "*" if index in front else ""
        style = "bold green" if index == chosen else "" if row["kl"] <= sweep.budget_kl else "dim"
        cells = [*(_cell(name, row) for name in named), *(of(row) for of in columns.values())]
        table.add_row([*cells, mark], style)
    return table


def _short_presets(names: pd.Series[Any], models: set[str]) -> list[str]:
    """Return names without the model's name if all share it."""
    return [name.partition(":")[2] or name if len(models) == 1 else name for name in names]


def _percent(name: str) -> Callable[[pd.Series[Any]], str]:
    return lambda row: percent_cell(row[name])


def _number(name: str) -> Callable[[pd.Series[Any]], str]:
    return lambda row: number(row[name], 2)


def _interval(row: pd.Series[Any]) -> str:
    ends = [row.get(f"kl_{end}", math.nan) for end in ("low", "high")]
    return "–".join(number(end, 2) for end in ends) if not any(map(math.isnan, ends)) else "–"


def _loss_change(row: pd.Series[Any]) -> str:
    change = row["loss_after"] - row["loss_before"]
    return f"{change:+.3f}" if math.isfinite(change) else "–"


_COLUMNS: dict[Column, Callable[[pd.Series[Any]], str]] = {
    Column("SQNR", "dB", drop=3): _number("sqnr_db"),
    Column("moved", drop=4): _percent("fraction_moved"),
    Column("near-0", "before", drop=2): _percent("near_zero_before"),
    Column("near-0", "after", drop=2): _percent("near_zero_after"),
    Column("W1", "/ std", drop=5): _number("wasserstein_normalized"),
    Column("KL", "nats"): _number("kl"),
    Column("KL", "95 %", drop=4): _interval,
    Column("loss", "change", drop=1): _loss_change,
    Column("top-1", drop=3): _percent("top1_agreement"),
    Column("std", "ratio", drop=6): lambda row: f"{row['std_ratio']:.3f}",
    Column("Gini", "after", drop=7): _number("gini_after"),
    Column("W1 / std", "last layer", drop=8): _number("last_wasserstein_normalized"),
}


def _columns(sweep: Sweep) -> dict[Column, Callable[[pd.Series[Any]], str]]:
    """Return the columns: near-zero where values are selected by it, else the SQNR."""
    left_out = ("SQNR",) if _is_selecting(sweep) else ("near-0", "moved")
    return {column: of for column, of in _COLUMNS.items() if column.heading not in left_out}


def _is_selecting(sweep: Sweep) -> bool:
    return any(map(has_selection, sweep.table["redistribution"]))


def _front(sweep: Sweep) -> list[int]:
    return pareto(sweep.table) if _is_selecting(sweep) else []


def _legend(sweep: Sweep) -> str:
    words = [] if sweep.recommendation.row is None else ["<: recommended"]
    if _is_selecting(sweep):
        words += ["*: on the Pareto front of near-zero removed and KL"]
        words += [f"near-0: {sweep.band_name}"]
    else:
        words += ["SQNR: the values that arrive over their change, mean over places"]
    if len(sweep.table) > int((sweep.table["kl"] <= sweep.budget_kl).sum()):
        words.append(f"dim: KL above the budget of {sweep.budget_kl:g}")
    if len(sweep.manifest.get("seeds") or [0]) > 1:
        words.append("means over seeds, spread in sweep.csv")
    return "; ".join(words)
