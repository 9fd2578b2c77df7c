"""A sweep of made-up numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from distviz.results.sweep import SWEEP_QUANTITIES, Sweep, join_seeds

LONG = "organisation/a-model-with-quite-a-long-name-70B-Instruct-v0.2"


def sweep_of(*, by_layer: bool = False) -> Sweep:
    cs, p1s = (0.05, 0.13, 0.32, 1.0), (75.0, 90.0, 99.5)
    grid = [(c, p1, mode) for mode in ("replace", "add") for c in cs for p1 in p1s]
    if by_layer:
        grid = [(c, 90.0, "replace") for c in cs[:2] for _ in range(30)]
    n = len(grid)
    usual = {"near_zero_before": 0.3, "loss_before": 2.0, "loss_after": 2.1, "top1_agreement": 0.9}
    rows = pd.DataFrame({name: [usual.get(name, 1.0)] * n for name in SWEEP_QUANTITIES})
    rows = rows.assign(
        redistribution="arm",
        at="act",
        layers=[str(index % 30) for index in range(n)] if by_layer else "0",
        seed=0,
        c=[c for c, _, _ in grid],
        p1=[p1 for _, p1, _ in grid],
        fraction=math.nan,
        preset="",
        mode=[mode for _, _, mode in grid],
        near_zero_removed=np.linspace(0.01, 0.2, n),
        kl=np.geomspace(1e-4, 0.3, n),
    )
    manifest = {
        "schema_version": 3, "kind": "sweep", "budget_kl": 0.05, "by_layer": by_layer,
        "seeds": [0], "model": {"name": LONG.rpartition("/")[2], "source": LONG, "layers": 30},
        "text": {"tokens": 2048, "documents": 7},
    }  # fmt: skip
    return Sweep(manifest, join_seeds(rows), rows)


def rows_of(**columns: Any) -> pd.DataFrame:
    """Return rows of settings and seeds; columns that are not given are equal."""
    n = max(len(values) for values in columns.values())
    base: dict[str, Any] = {"redistribution": ["arm"] * n, "layers": ["0"] * n, "seed": [0] * n}
    base |= {"c": [0.13] * n, "p1": [99.5] * n, "fraction": [math.nan] * n, "mode": ["replace"] * n}
    base |= {"preset": [""] * n, "at": ["act"] * n}
    usual = {"near_zero_before": 0.3, "loss_before": 2.0, "loss_after": 2.1, "top1_agreement": 0.9}
    frame = pd.DataFrame(base | {name: [usual.get(name, 1.0)] * n for name in SWEEP_QUANTITIES})
    return frame.assign(**columns)


def sweep_from(seeds: pd.DataFrame, *, budget: float = 0.05, by_layer: bool = False) -> Sweep:
    """Return a sweep of given settings and seeds."""
    manifest = {
        "schema_version": 3,
        "kind": "sweep",
        "budget_kl": budget,
        "by_layer": by_layer,
        "seeds": sorted(set(seeds["seed"].tolist())),
        "model": {"name": "tiny", "source": "some models/tiny"},
        "text": {"tokens": 2048, "documents": 7},
    }
    return Sweep(manifest, join_seeds(seeds), seeds)
