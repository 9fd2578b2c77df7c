"""Runs with documents, channels and token classes, built value by value: to be compared."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from distviz.results.run import Run
from distviz.stats.sketch import Sketch
from support.synthetic_runs import place, run_of

CLASSES = ("digits", "other")
EVERY = 3
"""Every third token is a digit."""


class Made(NamedTuple):
    run: Run
    raw: dict[int, np.ndarray]
    """By layer, float64 (documents, tokens, channels)."""


def make(
    seed: int = 0,
    *,
    layers: int = 3,
    documents: int = 10,
    tokens: int = 6,
    channels: int = 24,
    scale: float = 1.0,
    phase: str = "before",
    site: str = "act",
    **manifest: Any,
) -> Made:
    """Count bf16 SiLU values of seeded normal ones; ``scale`` widens the gates."""
    generator = torch.Generator().manual_seed(seed)
    raw, sketches = {}, {}
    for layer in range(layers):
        gate = torch.randn(documents, tokens, channels, generator=generator)
        spread = torch.rand(documents, 1, 1, generator=generator) * 0.2 + 0.9
        values = torch.nn.functional.silu(gate * spread * scale * (1 + 0.2 * layer)).bfloat16()
        raw[layer] = values.double().numpy()
        flat = values.reshape(-1, channels)
        is_digit = torch.arange(documents * tokens) % EVERY == 0
        sketches[place(layer, phase, site)] = {
            "digits": Sketch().add(flat[is_digit]),
            "other": Sketch().add(flat[~is_digit]),
        }
    n_digits = int(is_digit.sum())
    stated = {
        "model": {"name": "synthetic", "activation": "silu", "layers": layers},
        "text": {
            "sha256": "same", "documents": documents, "tokens": documents * tokens,
            "windows": documents, "counted": documents * tokens,
        },
        "token_classes": {"digits": n_digits, "other": documents * tokens - n_digits},
    }  # fmt: skip
    run = run_of({}, **stated | manifest)
    tables = (_documents(raw, phase, site), _channels(raw, phase, site))
    return Made(Run(run.manifest, sketches, *tables), raw)


def eps_of(x: np.ndarray, c: float = 0.13) -> float:
    a = np.sort(np.abs(x.ravel()))
    middle = (a.size - 1) // 2
    return float(1.4826 * np.sort(np.abs(a - a[middle]))[middle] * c)


def _where(layer: int, phase: str, site: str) -> dict[str, Any]:
    key = place(layer, phase, site)
    return {name: getattr(key, name) for name in ("layer", "stack", "site", "phase", "module")}


def _documents(raw: dict[int, np.ndarray], phase: str, site: str) -> pd.DataFrame:
    rows = []
    for layer, values in raw.items():
        for document, x in enumerate(values):
            near = float((np.abs(x) < eps_of(x)).mean())
            row = {"document": document, "count": x.size, "std": x.std(), "near_zero": near}
            rows.append(_where(layer, phase, site) | row)
    return pd.DataFrame(rows)


def _channels(raw: dict[int, np.ndarray], phase: str, site: str) -> pd.DataFrame:
    rows = []
    for layer, values in raw.items():
        for channel, x in enumerate(values.reshape(-1, values.shape[-1]).T):
            row = {"channel": channel, "count": x.size, "mean": x.mean(), "std": x.std()}
            row |= {"min": x.min(), "max": x.max(), "absmax": np.abs(x).max()}
            rows.append(_where(layer, phase, site) | row)
    return pd.DataFrame(rows)
