"""The sections of a sweep: effect and cost of settings, their trade-off, the recommendation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pandas as pd

from distviz.output import counted
from distviz.plots import COST, GAIN
from distviz.reports import axes, charts
from distviz.reports.cells import data_table
from distviz.reports.page import Block, Chart, Command, Fold, Part, Prose, Section
from distviz.reports.repeat_command import sweep_command
from distviz.reports.summary import make_part
from distviz.results import (
    NAMED,
    SWEEP_QUANTITIES,
    band_names,
    disagreements,
    is_alone,
    model_name,
    pareto,
    records,
    setting_name,
    varied_columns,
)

if TYPE_CHECKING:
    from distviz.results import Sweep

_BLOCKS = ["redistribution", "layers", "at", "mode"]
"""Settings that differ in these have separate heatmaps."""
_HEATMAPS = {
    "near_zero_removed": ("near-zero share removed", axes.SHARE, GAIN),
    "kl": ("KL, nats", axes.NUMBER, COST),
}
_BY_LAYER = {
    "sqnr_db": ("SQNR at the place, dB", False),
    "near_zero_removed": ("near-zero share removed", True),
    "fraction_moved": ("share of the values that moved", True),
    "kl": ("KL divergence, nats", False),
    "top1_agreement": ("share with the same most likely token", True),
    "std_ratio": ("standard deviation, after over before", False),
    "wasserstein_normalized": ("Wasserstein-1 / std", False),
}


def sweep_part(sweep: Sweep) -> Part:
    """Return the part of a sweep."""
    found = sweep.recommendation
    sections = [_by_layer(sweep) if sweep.is_by_layer else _grid(sweep)]
    if found.command:
        sections.insert(0, Section("Recommended setting", [Command(found.command)]))
    sections += [_trade_off(sweep), _tables(sweep)]
    verdict = f"{counted(len(sweep.table), 'setting')} measured: {found.reason}."
    title = f"{model_name(sweep)}: sweep"
    return make_part(sweep, title, verdict, sections, sweep_command(sweep))


def _names(sweep: Sweep) -> list[str]:
    varied = varied_columns(sweep.table)
    return [setting_name(row, varied) for _, row in sweep.table.iterrows()]


def _grid(sweep: Sweep) -> Section:
    """Return two heatmaps for each combination of layers, mode and redistribution."""
    table = sweep.table.assign(name=_names(sweep))
    blocks: list[Block] = []
    for where, part in table.groupby(_BLOCKS, sort=False, dropna=False):
        words = [
            f"{column} {value}"
            for column, value in zip(_BLOCKS, where, strict=True)
            if len(table[column].drop_duplicates()) > 1
        ]
        for quantity, (title, kind, colors) in _HEATMAPS.items():
            rows = [
                _cell(index, row, quantity, sweep)
                for index, row in part.assign(band=band_names(part)).iterrows()
            ]
            height = 90 + 26 * max(len({row["band"] for row in rows}), 2)
            spec = charts.heatmap(rows, title, kind, x="p1", y="band", colors=colors)
            blocks.append(Chart(" · ".join([title, *words]), spec, height))
    note = Prose(f"Outlined: the recommended setting. Near-zero: {sweep.band_name}.")
    return Section("Effect and cost of each setting", [*blocks, note], grid=True)


def _cell(index: Any, row: pd.Series[Any], quantity: str, sweep: Sweep) -> dict[str, Any]:
    value = float(row[quantity])
    return {
        "band": row["band"],
        "p1": float(row["p1"]),
        "value": value if math.isfinite(value) else None,
        "name": row["name"],
        "chosen": index == sweep.recommendation.row,
    }


def _by_layer(sweep: Sweep) -> Section:
    """Return one chart per quantity: the same settings in each layer alone."""
    table = sweep.table[is_alone(sweep.table)]
    names = [name for name in varied_columns(table) if name != "layers"]
    labels = [setting_name(row, names) or "setting" for _, row in table.iterrows()]
    shown = list(dict.fromkeys(labels))
    found = []
    for quantity, (title, share) in _BY_LAYER.items():
        if quantity not in table:
            continue
        curves: dict[str, list[tuple[int, Any]]] = {label: [] for label in shown}
        for label, row in zip(labels, records(table), strict=True):
            if label in curves:
                curves[label].append((int(row["layers"]), row[quantity]))
        found.append(charts.layer_curves(title, curves, share=share))
    blocks: list[Block] = [chart for chart in found if chart is not None]
    blocks += [Prose(f"{text}.") for text in [*sweep.costs, *disagreements(sweep.table)]]
    return Section("By layer", blocks, grid=True)


def _trade_off(sweep: Sweep) -> Section:
    front = set(pareto(sweep.table))
    rows = [
        {
            "kl": row["kl"],
            "removed": row["near_zero_removed"],
            "loss": None if row["loss_after"] is None else row["loss_after"] - row["loss_before"],
            "name": name,
            "front": index in front,
            "chosen": index == sweep.recommendation.row,
        }
        for index, (name, row) in enumerate(zip(_names(sweep), records(sweep.table), strict=True))
        if row["kl"] is not None and row["near_zero_removed"] is not None
    ]
    if not rows:
        return Section("The trade-off", [Prose("No effect on the output was measured.")])
    title = (
        f"near-zero share removed ({sweep.band_name}) against KL; dashed: the budget of "
        f"{counted(f'{sweep.budget_kl:g}', 'nat')}"
    )
    note = "Filled: settings on the Pareto front; orange: the recommended setting. Hollow: others."
    spec = charts.trade_off(rows, sweep.budget_kl)
    return Section("The trade-off", [Chart(title, spec, 320), Prose(note)])


def _tables(sweep: Sweep) -> Section:
    lead = [*NAMED, "seeds", *SWEEP_QUANTITIES]
    columns = [name for name in lead if name in sweep.table]
    columns += [str(name) for name in sweep.table if name not in columns]
    blocks: list[Block] = [data_table("sweep", sweep.table, columns)]
    if len(sweep.seeds) > len(sweep.table):
        blocks.append(Fold("All seeds", [data_table("sweep_seeds", sweep.seeds)]))
    return Section("All settings", blocks)
