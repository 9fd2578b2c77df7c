"""Runs with documents, channels and token classes, built value by value: to be compared."""

from __future__ import annotations

from dataclasses import replace
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
            row |= {"zeros": (x == 0).sum(), "positive": (x > 0).sum()}
            rows.append(_where(layer, phase, site) | row)
    return pd.DataFrame(rows)


def with_channels(raw: dict[int, np.ndarray], *, top: bool = True, **manifest: Any) -> Run:
    """A run with a table of channels alone, of float64 (tokens, channels) by layer."""
    table = _channels(raw, "before", "act")
    if top:
        counts = [np.bincount(np.abs(x).argmax(1), minlength=x.shape[1]) for x in raw.values()]
        table["top"] = np.concatenate(counts)
    values = {place(layer, "before"): x.astype(np.float32) for layer, x in raw.items()}
    return replace(run_of(values, **manifest), channels=table)


def outlier_channels(layers: int, channels: int = 60) -> dict[int, np.ndarray]:
    """Float64 (tokens, channels) by layer: channel 7 is large from the second layer on, 3 is 0."""
    rng = np.random.default_rng(layers)
    raw = {}
    for layer in range(layers):
        raw[layer] = rng.standard_normal((50, channels)) * (1 + layer / 4)
        raw[layer][:, 3], raw[layer][:, 5] = 0, np.abs(raw[layer][:, 5]) + 0.01
        raw[layer][::2, 7] *= 300 if layer else 1
    return raw
