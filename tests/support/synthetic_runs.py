"""Runs from seeded synthetic data, built value by value: what figures and tables are tested on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from distviz.arm.arm import ARM
from distviz.results.run import Run
from distviz.sites import SiteKey
from distviz.stats.sketch import Sketch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

EFFECT = {"loss_before": 2.5, "loss_after": 2.625, "kl": 0.0125, "top1_agreement": 0.9375}


@dataclass(frozen=True)
class Synthetic:
    """A run, and the raw values that were counted, float64 by (layer, phase)."""

    run: Run
    raw: dict[tuple[int, str], NDArray[np.float64]]


def place(layer: int, phase: str, site: str = "act", module: str = "") -> SiteKey:
    return SiteKey(layer, "decoder", site, phase, module or f"model.layers.{layer}.mlp.act_fn")


def run_of(values: Mapping[SiteKey, Any], **manifest: Any) -> Run:
    """Count tensors or arrays into a run."""
    stated = {
        "schema_version": 3,
        "kind": "run",
        "model": {"name": "synthetic", "activation": "silu", "layers": 3},
        "arm": None,
        "text": {"documents": 4, "tokens": 256},
        "effect": None,
        "dtype": "bfloat16",
        "settings": {},
        "warnings": [],
    }
    sketches = {key: {"all": Sketch().add(array)} for key, array in values.items()}
    return Run(stated | manifest, sketches)


def silu_run(dtype: torch.dtype = torch.bfloat16, **settings: Any) -> Synthetic:
    """Three layers of SiLU values, 4 sequences x 64 tokens x 96 channels, ARM in the first."""
    generator = torch.Generator().manual_seed(7)
    arm = ARM(**settings)
    values: dict[SiteKey, torch.Tensor] = {}
    for layer in range(3):
        gate = torch.randn(4, 64, 96, generator=generator) * (0.5 + 0.3 * layer) - 0.1 * layer
        before = torch.nn.functional.silu(gate).to(dtype)
        values[place(layer, "before")] = before
        if layer == 0:
            after, _, moved = arm.trace(before, layer=layer)
            assert moved is not None
            values[place(layer, "moved_before")] = before[moved.bool()]
            values[place(layer, "moved_after")] = after[moved.bool()]
        else:
            noise = torch.randn(before.shape, generator=generator) * 0.01
            after = (before.float() + noise).to(dtype)
        values[place(layer, "after")] = after
    run = run_of(
        values,
        arm={"c": arm.c, "p1": arm.p1, "layers": [0], "fraction": arm.fraction},
        effect=EFFECT,
        dtype=str(dtype).removeprefix("torch."),
    )
    raw = {(key.layer, key.phase): array.double().numpy().ravel() for key, array in values.items()}
    return Synthetic(run, raw)


def with_tables(run: Run) -> Run:
    """Add small tables beside the sketches."""
    row = {"layer": 0, "site": "act", "phase": "before", "module": "m", "stack": "decoder"}
    documents = pd.DataFrame([row | {"document": 0, "mean": 0.5}, row | {"layer": 1, "mean": 0.25}])
    plans = pd.DataFrame([{"layer": 0, "document": 0, "window": 0, "k": 5}])
    return Run(run.manifest, run.sketches, documents, documents.copy(), plans)
