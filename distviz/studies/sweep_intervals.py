"""Intervals of what each setting of a sweep costs, over documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

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
    documents = sorted({number for trial in trials for number in trial.documents.sums})
    if not documents:
        return table.assign(**dict.fromkeys(SWEEP_INTERVALS, np.nan), documents=0)
    every = np.array([trial.documents.table(documents) for trial in trials])
    sums = every.reshape(len(table), -1, len(documents), every.shape[-1]).mean(axis=1)
    positions, before, after, kl, same = np.moveaxis(sums, -1, 0)
    found = {
        "loss_change": infer_ratio(after - before, positions, "loss_difference"),
        "kl": infer_ratio(kl, positions, "kl", is_log=True),
        "top1_agreement": infer_ratio(same, positions, "top1_agreement"),
    }
    columns: dict[str, Any] = {}
    for name, rows in found.items():
        low, high = (rows[end].to_numpy() for end in ("ci_low", "ci_high"))
        if name == "top1_agreement":
            low, high = np.clip(low, 0, 1), np.clip(high, 0, 1)
        columns |= {f"{name}_low": low, f"{name}_high": high}
    change = found["loss_change"]["estimate"].to_numpy()
    used = int((positions[0] > 0).sum())
    return table.assign(loss_change=change, **columns, documents=used)
