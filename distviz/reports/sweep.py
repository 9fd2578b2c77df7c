"""The sections of a sweep: what settings remove and cost, the trade-off, which to take."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pandas as pd

from distviz.reports import depth_charts, setting_charts
from distviz.reports.cells import data_table
from distviz.reports.page import Block, Chart, Command, Fold, Part, Prose, Section
from distviz.reports.provenance import provenance
from distviz.reports.repeat_command import sweep_command
from distviz.reports.summary import measured
from distviz.results import (
    NAMED,
    SWEEP_QUANTITIES,
    band_names,
    pareto,
    records,
    setting_name,
    varied_columns,
)

if TYPE_CHECKING:
    from distviz.results import Sweep

__all__ = ["sweep_part"]

_APART = ["redistribution", "layers", "mode"]
_HEATMAPS = {"near_zero_removed": ("near-zero share removed", ".2%"), "kl": ("KL, nats", ".3~g")}
_BY_LAYER = {
    "near_zero_removed": ("near-zero share removed", True),
    "fraction_moved": ("share of the values that moved", True),
    "kl": ("KL divergence, nats", False),
    "top1_agreement": ("share with the same most likely token", True),
    "std_ratio": ("standard deviation, after over before", False),
    "wasserstein_normalized": ("Wasserstein-1 / std", False),
}
_COLORS = ("$before", "$after", "$ks", "$w1", "$js", "$muted")


def sweep_part(sweep: Sweep, place: str = "") -> Part:
    """Return everything the page says of a sweep; ``place`` names its folder among others."""
    found = sweep.recommendation
    sections = [_by_layer(sweep) if sweep.is_by_layer else _grid(sweep)]
    if found.command:
        sections.insert(0, Section("The setting to take", [Command(found.command)]))
    sections += [_trade_off(sweep), _tables(sweep)]
    sections.append(provenance(sweep.manifest, sweep_command(sweep)))
    name = str((sweep.manifest.get("model") or {}).get("name") or "model")
    title = f"{name}: sweep" + (f" · {place}" if place else "")
    n = len(sweep.table)
    verdict = f"{n} setting{'s' * (n != 1)} tried: {found.reason}."
    warnings = [str(one) for one in sweep.manifest.get("warnings") or []]
    return Part(title, measured(sweep.manifest), verdict, sections, warnings)


def _names(sweep: Sweep) -> list[str]:
    columns = varied_columns(sweep.table)
    return [setting_name(row, columns) for _, row in sweep.table.iterrows()]


def _grid(sweep: Sweep) -> Section:
    """Return two heatmaps for each alternative of layers, mode and redistribution."""
    table = sweep.table.assign(name=_names(sweep))
    blocks: list[Block] = []
    for where, part in table.groupby(_APART, sort=False, dropna=False):
        words = [
            f"{column} {value}"
            for column, value in zip(_APART, where, strict=True)
            if len(table[column].drop_duplicates()) > 1
        ]
        for quantity, (title, form) in _HEATMAPS.items():
            rows = [
                _cell(index, row, quantity, sweep)
                for index, row in part.assign(band=band_names(part)).iterrows()
            ]
            spec = setting_charts.heatmap(rows, title, form)
            blocks.append(Chart(" · ".join([title, *words]), spec, 90 + 26 * _bands(rows)))
    note = Prose("Outlined: the setting to take.")
    return Section("What each setting removes and costs", [*blocks, note], grid=True)


def _bands(rows: list[dict[str, Any]]) -> int:
    return max(len({row["band"] for row in rows}), 2)


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
    """Return one curve a quantity: the same setting in layer after layer."""
    table = sweep.table
    names = [name for name in varied_columns(table) if name != "layers"]
    labels = [setting_name(row, names) or "setting" for _, row in table.iterrows()]
    series = {
        label: (label, color) for label, color in zip(dict.fromkeys(labels), _COLORS, strict=False)
    }
    blocks: list[Block] = []
    for quantity, (title, share) in _BY_LAYER.items():
        rows: dict[int, dict[str, Any]] = {}
        for label, row in zip(labels, records(table), strict=True):
            layer = int(row["layers"])
            rows.setdefault(layer, {"place": layer, "kind": ""})[label] = row[quantity]
        ordered = [rows[layer] for layer in sorted(rows)]
        if any(row.get(name) is not None for row in ordered for name in series):
            blocks.append(Chart(title, depth_charts.by_depth(ordered, series, share=share)))
    return Section("Layer after layer", blocks, grid=True)


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
    title = f"near-zero removed against KL; dashed: the budget of {sweep.budget_kl:g} nats"
    note = "Filled: no setting removes as much for less. In the other colour: the one to take."
    spec = setting_charts.trade_off(rows, sweep.budget_kl)
    return Section("The trade-off", [Chart(title, spec, 320), Prose(note)])


def _tables(sweep: Sweep) -> Section:
    lead = [*NAMED, "seeds", *SWEEP_QUANTITIES]
    columns = [name for name in lead if name in sweep.table]
    columns += [str(name) for name in sweep.table if name not in columns]
    blocks: list[Block] = [data_table("sweep", sweep.table, columns)]
    if len(sweep.seeds) > len(sweep.table):
        blocks.append(Fold("Every seed", [data_table("sweep_seeds", sweep.seeds)]))
    return Section("Every setting", blocks)
