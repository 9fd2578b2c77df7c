"""Intervals of what each setting of a sweep costs, over documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distviz.results import SWEEP_INTERVALS, rank_layers
from distviz.stats import infer_ratio
from distviz.studies.sweep_passes import Trial


def add_intervals(
    table: pd.DataFrame, trials: Sequence[Trial], *, is_by_layer: bool
) -> pd.DataFrame:
    """Return ``sweep.csv`` with 95 % intervals of KL, change of the loss, and top-1 agreement.

    ``trials`` are in the order of its rows, as many for each as there are seeds: a document counts
    with its mean over seeds, as its tokens weigh in the total. With ``is_by_layer`` it has the
    ranks of layers, see `rank_layers`.
    """
    if is_by_layer:
        table = rank_layers(table)
    every = costs_of(trials, len(table))
    return table.assign(
        **{name: every[name].to_numpy() for name in (*SWEEP_INTERVALS, "documents")}
    )


def _sums(trials: Sequence[Trial], settings: int) -> NDArray[np.float64]:
    """Return the sums of each document, mean over seeds: (5, settings, documents)."""
    documents = sorted({number for trial in trials for number in trial.documents.sums})
    if not documents:
        return np.zeros((5, settings, 0))
    every = np.array([trial.documents.table(documents) for trial in trials])
    sums = every.reshape(settings, -1, len(documents), every.shape[-1]).mean(axis=1)
    return np.moveaxis(sums, -1, 0)


def costs_of(trials: Sequence[Trial], settings: int) -> pd.DataFrame:
    """Return KL, change of the loss and top-1 agreement of some settings, with intervals.

    One row per setting; ``trials`` as of `add_intervals`.
    """
    positions, before, after, kl, same = _sums(trials, settings)
    names = ("loss_change", "kl", "top1_agreement")
    if not positions.size:
        ends = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
        return pd.DataFrame(dict.fromkeys(ends, np.nan), index=range(settings)).assign(documents=0)
    found = {
        "loss_change": infer_ratio(after - before, positions, "loss_difference"),
        "kl": infer_ratio(kl, positions, "kl", is_log=True),
        "top1_agreement": infer_ratio(same, positions, "top1_agreement"),
    }
    columns: dict[str, Any] = {}
    for name, rows in found.items():
        value, low, high = (rows[of].to_numpy() for of in ("estimate", "ci_low", "ci_high"))
        if name == "top1_agreement":
            low, high = np.clip(low, 0, 1), np.clip(high, 0, 1)
        columns |= {name: value, f"{name}_low": low, f"{name}_high": high}
    used = int((positions[0] > 0).sum())
    return pd.DataFrame(columns).assign(documents=used)


def saved_of(trials: Sequence[Trial], others: Sequence[Trial]) -> pd.DataFrame:
    """Return how much less the first trials cost than the others, with intervals over documents.

    Columns ``kl_saved`` and ``loss_saved`` with ``_low`` and ``_high``; positive: the first cost
    less. A document is compared with itself.
    """
    first, second = (_sums(side, len(side)) for side in (trials, others))
    columns: dict[str, Any] = {}
    for name, row in (("kl", 3), ("loss", 2)):
        rows = infer_ratio(second[row] - first[row], first[0], "loss_difference")
        for column, end in (("estimate", ""), ("ci_low", "_low"), ("ci_high", "_high")):
            columns[f"{name}_saved{end}"] = rows[column].to_numpy()
    return pd.DataFrame(columns)
