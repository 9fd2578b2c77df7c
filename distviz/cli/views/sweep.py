"""A sweep on the terminal: the recommendation, every setting, by rich."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from distviz.cli.views.console import paragraph, plain_table, write
from distviz.results import NAMED, Sweep, number, pareto, percent

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["settings_table", "summary"]

_SHORT = {"redistribution": "kind", "layers": "layers", "c": "c", "p1": "p1", "mode": "mode"}
_SHORT |= {"preset": "preset"}
_WIDE = 104
"""Columns from which a table shows more."""


def summary(sweep: Sweep, console: Console | None = None) -> Group:
    """Return what was swept, every setting, and the one to take.

    Parameters
    ----------
    sweep
        What was measured.
    console
        Where it will be printed: its width and encoding decide what is shown; None means a
        standard terminal of 80 columns.
    """
    parts: list[RenderableType] = [Text(write(_measured(sweep), console), style="bold")]
    same = _shared(sweep.table)
    if same:
        parts.append(paragraph(same, console))
    if "evidence" in sweep.manifest:
        parts.append(paragraph(f"proposed: {sweep.manifest['evidence']}", console))
    parts += [settings_table(sweep, console), paragraph(_legend(sweep), console), Text()]
    found = sweep.recommendation
    if found.row is None:
        parts.append(paragraph(f"no recommendation: {found.reason}", console, style="bold"))
    else:
        parts.append(paragraph(f"recommended: {found.reason}", console, style="bold"))
        parts.append(Text(write(found.command, console)))
    return Group(*parts)


def _measured(sweep: Sweep) -> str:
    model, text = sweep.manifest["model"], sweep.manifest.get("text") or {}
    words = [str(model.get("name")), f"{len(sweep.table)} settings"]
    seeds = sweep.manifest.get("seeds") or [0]
    if len(seeds) > 1:
        words.append(f"{len(seeds)} seeds")
    if text.get("tokens"):
        words.append(f"{text['tokens']:,} tokens in {text['documents']:,} documents")
    loss = sweep.table["loss_before"].iloc[0]
    if not math.isnan(loss):
        words.append(f"loss {loss:.4f} nats")
    return " · ".join(words)


def _varied(table: pd.DataFrame) -> list[str]:
    found = [name for name in NAMED if len(table[name].drop_duplicates()) > 1]
    if "fraction" in found and "c" not in found:
        found.insert(found.index("fraction"), "c")
    return [name for name in found if name != "fraction"] or ["c", "p1"]


def _shared(table: pd.DataFrame) -> str:
    """Say what holds for all settings."""
    first, varied = table.iloc[0], _varied(table)
    words = []
    for name in ("redistribution", "layers", "c", "p1", "mode", "preset"):
        if name in varied or _is_usual(first[name]):
            continue
        words.append(f"layer {first[name]}" if name == "layers" else f"{name} {_cell(name, first)}")
    return f"all: {', '.join(words)}" if words else ""


def _is_usual(word: Any) -> bool:
    return word in ("arm", "replace", "")


def _cell(name: str, row: pd.Series[Any]) -> str:
    if name == "c" and not math.isnan(row["fraction"]):
        return f"f {row['fraction']:g}"
    return f"{row[name]:g}" if isinstance(row[name], float) else str(row[name])


def settings_table(sweep: Sweep, console: Console | None = None) -> Table:
    """Return one row a setting; it fits 80 columns."""
    table, rows = plain_table(console), sweep.table
    front, chosen = set(pareto(rows)), sweep.recommendation.row
    named = _varied(rows)
    for name in named:
        table.add_column(_SHORT[name], justify="right", no_wrap=True)
    columns = {**_COLUMNS, **_MORE} if console and console.width >= _WIDE else dict(_COLUMNS)
    if "preset" in named and len(columns) == len(_COLUMNS):
        del columns[_LEAST]  # its room is that of the names
    models = {name.partition(":")[0] for name in rows["preset"] if name}
    for heading in columns:
        table.add_column(write(heading, console), justify="right", no_wrap=True)
    table.add_column("")
    for index, row in rows.assign(preset=_short_presets(rows["preset"], models)).iterrows():
        mark = "<" if index == chosen else "*" if index in front else ""
        style = "bold green" if index == chosen else "" if row["kl"] <= sweep.budget_kl else "dim"
        cells = [*(_cell(name, row) for name in named), *(of(row) for of in columns.values()), mark]
        table.add_row(*(write(cell, console) for cell in cells), style=style)
    return table


def _short_presets(names: pd.Series[Any], models: set[str]) -> list[str]:
    """Return names that fit a column: without the model's where all share it."""
    short = [name.partition(":")[2] or name if len(models) == 1 else name for name in names]
    return [
        f"{name.partition(',')[0]},…" if "," in name and len(name) > _LONGEST else name
        for name in short
    ]


def _percent(name: str) -> Callable[[pd.Series[Any]], str]:
    return lambda row: percent(row[name]).replace(" %", "%")


def _number(name: str) -> Callable[[pd.Series[Any]], str]:
    return lambda row: number(row[name], 2)


def _loss_change(row: pd.Series[Any]) -> str:
    change = row["loss_after"] - row["loss_before"]
    return f"{change:+.3f}" if math.isfinite(change) else "–"


_LEAST = "W1\n/ std"
_LONGEST = 12

_COLUMNS: dict[str, Callable[[pd.Series[Any]], str]] = {
    "moved": _percent("fraction_moved"),
    "near-0\nbefore": _percent("near_zero_before"),
    "\nafter": _percent("near_zero_after"),
    _LEAST: _number("wasserstein_normalized"),
    "KL\nnats": _number("kl"),
    "loss\nchange": _loss_change,
    "top-1": _percent("top1_agreement"),
}
_MORE: dict[str, Callable[[pd.Series[Any]], str]] = {
    "std\nratio": lambda row: f"{row['std_ratio']:.3f}",
    "Gini\nafter": _number("gini_after"),
    "W1 / std\nlast layer": _number("last_wasserstein_normalized"),
}


def _legend(sweep: Sweep) -> str:
    words = [] if sweep.recommendation.row is None else ["<: recommended"]
    words += ["*: on the Pareto front of near-zero removed and KL"]
    if len(sweep.table) > int((sweep.table["kl"] <= sweep.budget_kl).sum()):
        words.append(f"dim: KL above the budget of {sweep.budget_kl:g}")
    if len(sweep.manifest.get("seeds") or [0]) > 1:
        words.append("means over seeds, spread in sweep.csv")
    return "; ".join(words)
