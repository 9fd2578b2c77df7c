"""What a sweep by layer says: where it costs most, and where SQNR and cost disagree."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import pandas as pd

from distviz.output import counted, listed
from distviz.results.labels import number
from distviz.sites import ACT

RANKS = ("sqnr_rank", "kl_rank")


def is_alone(table: pd.DataFrame) -> pd.Series[bool]:
    """Return which rows change one layer alone."""
    return table["layers"].astype(str).str.fullmatch(r"\d+")


def kinds(table: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Yield the rows of each setting that differ in their layer alone."""
    names = [n for n in ("redistribution", "at", "c", "p1", "fraction", "mode") if n in table]
    for _, part in table.groupby(names, sort=False, dropna=False):
        yield part


def rank_layers(table: pd.DataFrame) -> pd.DataFrame:
    """Return ``sweep.csv`` of a sweep by layer with `RANKS` among the layers of a setting.

    1 is the best: the highest SQNR, the smallest KL divergence.
    """
    table = table.assign(**dict.fromkeys(RANKS, math.nan))
    for part in kinds(table[is_alone(table)]):
        for name, by, ascending in zip(RANKS, ("sqnr_db", "kl"), (False, True), strict=True):
            table.loc[part.index, name] = part[by].rank(ascending=ascending, method="min")
    return table


def disagreements(table: pd.DataFrame) -> list[str]:
    """Return where SQNR and cost disagree: a sentence per setting that has such layers.

    A layer counts if it costs more than one with a lower SQNR: the intervals of their KL divergence
    do not overlap, or one is twice the other where there are no intervals. Named is the layer with
    the most such layers.
    """
    if not {"sqnr_db", "kl_low", "kl_high"} <= set(table):
        return []
    found = []
    for part in kinds(rank_layers(table[is_alone(table)])):
        known = part.dropna(subset=["sqnr_db", "kl"])
        rows = known.to_dict("records")
        worse = [sum(_contradicts(row, other) for other in rows) for row in rows]
        most = max(worse, default=0)
        if most:
            row = rows[worse.index(most)]
            found.append(
                f"{place_name(row)}: layer {row['layers']} is number {row['sqnr_rank']:.0f} of "
                f"{len(part)} by SQNR ({number(row['sqnr_db'])} dB) and number "
                f"{row['kl_rank']:.0f} by cost (KL {number(row['kl'], 2)}): "
                f"{counted(most, 'layer')} with a lower SQNR "
                f"{'costs' if most == 1 else 'cost'} less"
            )
    return found


def _contradicts(row: dict[Hashable, Any], other: dict[Hashable, Any]) -> bool:
    if not other["sqnr_db"] < row["sqnr_db"]:
        return False
    if math.isnan(row["kl_low"]) or math.isnan(other["kl_high"]):
        return bool(row["kl"] > 2 * other["kl"])
    return bool(other["kl_high"] < row["kl_low"])


def costs(table: pd.DataFrame) -> list[str]:
    """Return for each setting the cost of all layers together, and the layer that costs most."""
    found = []
    for part in kinds(table):
        single = is_alone(part)
        known = part["kl"].notna()
        words = [
            f"{place_name(row)} in {listed('layer', str(row['layers']))}: {_cost(row)}"
            for row in part[known & ~single].to_dict("records")
        ]
        alone = part[known & single].sort_values("kl", ascending=False, kind="stable")
        words += [
            f"most in layer {row['layers']} alone: {_cost(row)}"
            for row in alone.head(1).to_dict("records")
        ]
        found.append("; ".join(words))
    return [text for text in found if text]


def place_name(row: Mapping[Hashable, Any]) -> str:
    """Return the redistribution and its sites."""
    return f"{row['redistribution']} at {row.get('at', ACT)}"


def _cost(row: Mapping[Hashable, Any]) -> str:
    change = row["loss_after"] - row["loss_before"]
    return f"KL {number(row['kl'], 2)}, loss {change:+.3g} nats"
