"""What changed between two snapshots of a training, with documents as the unit.

The snapshots saw different documents, so the test is unpaired: each document of either snapshot
gives one number, see `distviz.stats.inference`. A document is a row of a batch, unless the run had
others. Where a place has no documents, as the weights of a parameter, its change is not tested.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from distviz.output import counted, listed
from distviz.results.columns import Estimate
from distviz.results.labels import place_name
from distviz.results.schema import Count, Layer, Phase
from distviz.results.tables import by_document, records
from distviz.sites import SiteKey
from distviz.stats import inference, verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from distviz.results.run import Run
    from distviz.results.training import Training

ABSMAX, DEAD = "log_absmax_ratio", "dead_channels_difference"
TESTED = (*inference.QUANTITIES, ABSMAX)
"""The quantities whose changes are tested."""
_COLUMNS = ("std", "near_zero", "absmax")
_PLACE = list(SiteKey._fields)
_MOST = 3
"""Layers that are named."""


class DriftRow(Estimate, kw_only=True):
    """``drift.csv``."""

    step_a: Count
    step_b: Count
    layer: Layer
    site: str
    phase: Phase
    module: str
    stack: str


COLUMNS = ["step_a", "step_b", *_PLACE, "quantity", *inference.COLUMNS]


def drift(training: Training, *, seed: int = 0) -> pd.DataFrame:
    """Return ``drift.csv``: every change between the first and the last snapshot.

    One row per place and quantity: the log variance ratio, the difference of the near-zero shares,
    the log ratio of the largest abs(x), and the difference of the numbers of channels that have
    only zeros, which is not tested. p-values are corrected over the places of a quantity. Without
    rows for a training of fewer than two snapshots.
    """
    none = pd.DataFrame(columns=COLUMNS)
    if len(training.steps) < 2:
        return none
    first, last = map(training.at, _ends(training))
    keys = [key for key in first.keys if key in last.sketches]
    if not keys:
        return none
    changes = _changes(training, keys)
    parts = [*_of_documents(first, last, keys, changes, seed), _of_channels(changes[DEAD])]
    places = pd.DataFrame(keys, columns=_PLACE)
    table = pd.concat([pd.concat([places, part], axis=1) for part in parts])
    table = table.sort_index(kind="stable").reset_index(drop=True)
    return table.assign(step_a=training.steps[0], step_b=training.steps[-1])[COLUMNS]


def _of_documents(
    first: Run,
    last: Run,
    keys: Sequence[SiteKey],
    changes: Mapping[str, pd.Series[float]],
    seed: int,
) -> list[pd.DataFrame]:
    """Return a row per place for each quantity that is tested."""
    numbers = [_values(run, keys) for run in (first, last)]
    sides = [inference.DocumentValues(side["std"], side["near_zero"]) for side in numbers]
    table = inference.infer(*sides, paired=False, seed=seed)
    parts = [table[table["quantity"] == name] for name in inference.QUANTITIES]
    a, b = (inference.log_positive(side["absmax"]) for side in numbers)
    found = inference.infer_means(a, b, ABSMAX, paired=False, seed=seed)
    parts.append(found.assign(quantity=ABSMAX))
    return [
        _completed(part.reset_index(drop=True), changes[name])
        for part, name in zip(parts, TESTED, strict=True)
    ]


def _values(run: Run, keys: Sequence[SiteKey]) -> dict[str, Any]:
    """Return columns of the documents as (places, documents), float64; NaN where one is missing."""
    known = [name for name in _COLUMNS if name in run.documents or run.documents.empty]
    found = by_document(run.documents, keys, known)
    arrays = {name: table.to_numpy(dtype=float) for name, table in found.items()}
    return {name: arrays.get(name, np.full_like(arrays["std"], np.nan)) for name in _COLUMNS}


def _changes(training: Training, keys: Sequence[SiteKey]) -> dict[str, pd.Series[float]]:
    """Return the change of all values of each place together, by quantity, from the timeline."""
    std, near_zero, absmax, dead = (
        np.array([training.curve(name, key).reindex(_ends(training)) for key in keys])
        for name in (*_COLUMNS, "dead_channels")
    )
    logs = {TESTED[0]: 2 * inference.log_positive(std), ABSMAX: inference.log_positive(absmax)}
    sides = logs | {TESTED[1]: near_zero, DEAD: dead}
    return {name: pd.Series(side[:, 1] - side[:, 0]) for name, side in sides.items()}


def _ends(training: Training) -> list[int]:
    return [training.steps[0], training.steps[-1]]


def _completed(rows: pd.DataFrame, whole: pd.Series[float]) -> pd.DataFrame:
    """Fill in the change of all values together where there are too few documents for a test."""
    is_few = rows["estimate"].isna() & whole.notna()
    reason = "not tested: the change of all values together, fewer than 2 documents have a value"
    return rows.assign(
        estimate=rows["estimate"].where(~is_few, whole),
        reason=rows["reason"].where(~is_few, reason),
    )


def _of_channels(change: pd.Series[float]) -> pd.DataFrame:
    found: dict[str, Any] = dict.fromkeys(inference.COLUMNS, math.nan)
    counts = dict.fromkeys(("documents", "documents_a", "documents_b", "zero_variance"), 0)
    reason = "not tested: one number for each snapshot"
    found |= counts | {"paired": False, "approximate": False, "reason": reason}
    return pd.DataFrame(found | {"quantity": DEAD, "estimate": change})


def drift_verdict(training: Training) -> str:
    """Return sentences that say what changed where, and how that was tested."""
    table = training.drift
    if table.empty:
        return "nothing to compare: one snapshot, or none with the same places as the first"
    tested = table[table["quantity"].isin(TESTED) & table["p_value"].notna()]
    start = f"From step {table['step_a'][0]} to step {table['step_b'][0]}:"
    lines = [f"{start} no place has documents, nothing is tested."]
    if len(tested):
        *found, basis = verdict(tested.rename(columns={"layer": "layer_a"})).split("\n")
        why = "unpaired, as each snapshot saw others"
        lines = [start, *found, f"{basis.removesuffix('.')}; {why}."]
    lines += [line for site in dict.fromkeys(table["site"]) for line in _dead(training, site)]
    return "\n".join(lines)


def nonfinite_line(first: Mapping[str, Any] | None) -> str:
    """Return where the first NaN or infinity was, as ``training.json`` has it; empty for None."""
    if first is None:
        return ""
    kind = {"nan": "NaN", "inf": "infinity"}.get(str(first.get("kind")), "NaN or infinity")
    where = listed("layer", place_name({"stack": "decoder", "layer": 0} | {**first}))
    if first.get("layer") == -1:
        where = str(first.get("module", ""))
    token = {"token": repr(first["token"])} if first.get("token") else {}
    found = {name: first.get(name) for name in ("document", "position")} | token
    found["channel"] = first.get("channel")
    words = [f"step {first.get('step', '?')}", where, str(first.get("site", ""))]
    words += [f"{name} {value}" for name, value in found.items() if value is not None]
    return f"first {kind}: {', '.join(filter(None, words))}"


def _dead(training: Training, site: str) -> list[str]:
    """Return a sentence on the dead channels of a site, where their number changed."""
    table = training.drift
    rows = table[(table["quantity"] == DEAD) & (table["site"] == site) & (table["estimate"] != 0)]
    rows = rows.dropna(subset="estimate")
    if rows.empty:
        return []
    order = rows["estimate"].abs().sort_values(ascending=False, kind="stable").index
    words = []
    for row in records(rows.loc[order[:_MOST]]):
        key = SiteKey(*(row[name] for name in _PLACE))
        curve = training.curve("dead_channels", key)
        before, after = (int(curve[row[f"step_{side}"]]) for side in "ab")
        words.append(f"{place_name(row)} ({before:,} → {after:,})")
    more = counted(len(rows) - len(words), "more") if len(rows) > len(words) else ""
    names = ", ".join(words) + f", and {more}" * bool(more)
    named = listed("layer", names)
    return [f"{site}: the number of dead channels (only zeros in a snapshot) changed in {named}."]
