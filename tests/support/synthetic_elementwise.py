"""Comparisons value by value of synthetic tensors, their tables computed by plain NumPy."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from distviz.results import divergence
from distviz.results.columns import (
    ElementwiseChannel,
    ElementwiseToken,
    names_of,
)
from distviz.studies import comparison as comparing
from support.synthetic_comparisons import make

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distviz.results import Comparison

SITES = ("attention", "act", "product", "residual")
Values = dict[tuple[int, str], tuple[np.ndarray, np.ndarray]]
"""By layer and site: the values of A and of B, float64 (tokens, channels)."""


def values_of(
    n_layers: int = 3,
    sites: Sequence[str] = SITES,
    *,
    first: int = 0,
    noise: float = 1e-2,
    channels: int = 24,
    tokens: int = 40,
) -> Values:
    """Return seeded values; B differs from layer ``first`` on, most in one channel."""
    rng = np.random.default_rng(n_layers)
    found: Values = {}
    for layer in range(n_layers):
        for index, site in enumerate(sites):
            a = rng.standard_normal((tokens, channels))
            size = noise * (1 + layer + index) * (layer >= first)
            d = size * rng.standard_normal(a.shape)
            d[:, (5 * index) % channels] *= 4
            found[layer, site] = (a, a + d)
    return found


def comparison_of(
    values: Values,
    *,
    own: float | None = None,
    documents: int = 10,
    dtypes: tuple[str, str] = ("float32", "float32"),
    **different: Any,
) -> Comparison:
    """Return a comparison with these values; the own error is a part ``own`` of the error.

    Tokens are dealt to documents in turn; there are intervals from eight documents on.
    """
    n_layers = 1 + max(layer for layer, _ in values)
    made = comparing.compare_runs(
        *(make(seed, layers=n_layers, documents=4, **different).run for seed in (1, 2))
    )
    tables = tables_of(values, own, documents)
    sites = list(dict.fromkeys(site for _, site in values))
    note = {"sites": sites, "local": own is not None, "dtypes": list(dtypes)}
    note |= divergence(tables["elementwise"], dtypes)
    return replace(made, elementwise=tables, manifest=made.manifest | {"elementwise": note})


def tables_of(values: Values, own: float | None, documents: int) -> dict[str, pd.DataFrame]:
    """Return the four tables by name."""
    parts: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("elementwise", *(f"elementwise_{what}" for what in _WHAT))
    }
    for (layer, site), (a, b) in values.items():
        head = {"layer": layer, "site": site}
        end = {"module": f"model.layers.{layer}.{site}", "stack": "decoder"}
        owner = np.arange(len(a)) % documents
        parts["elementwise"].append(head | _place(a, b, own, documents) | end)
        for document in range(documents):
            mine = owner == document
            row = {"document": document, "count": int(mine.sum()) * a.shape[1]}
            parts["elementwise_documents"].append(head | row | _sums(a[mine], b[mine]) | end)
        for what, axis in (("channels", 0), ("tokens", 1)):
            parts[f"elementwise_{what}"] += [head | row | end for row in _worst(a, b, axis, owner)]
    return {
        name: pd.DataFrame(rows, columns=None if rows else names_of(_EMPTY[name]))
        for name, rows in parts.items()
    }


_EMPTY = {"elementwise_channels": ElementwiseChannel, "elementwise_tokens": ElementwiseToken}
_WHAT = ("documents", "channels", "tokens")


def _sums(a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
    error, energy = float(((b - a) ** 2).sum()), float((a**2).sum())
    with np.errstate(divide="ignore"):
        sqnr = float(10 * np.log10(np.float64(energy) / error)) if error else np.inf
    size = float(np.sqrt(energy * (b**2).sum()))
    return {
        "sqnr_db": sqnr,
        "relative_error": float(np.sqrt(error / energy)) if energy else np.nan,
        "cosine": (float((a * b).sum()) / size if error else 1.0) if size else np.nan,
        "mean_abs_difference": float(np.abs(b - a).mean()),
    }


def _place(a: np.ndarray, b: np.ndarray, own: float | None, documents: int) -> dict[str, Any]:
    sums, d = _sums(a, b), np.abs(b - a)
    token, channel = np.unravel_index(d.argmax(), d.shape)
    is_equal = not d.any()
    spread = 0.5 if documents >= 8 and np.isfinite(sums["sqnr_db"]) else np.nan
    most = {"document": token % documents, "window": 0, "position": token // documents}
    found = {"sqnr_db": sums["sqnr_db"]}
    found |= {"sqnr_low": sums["sqnr_db"] - spread, "sqnr_high": sums["sqnr_db"] + spread}
    found |= {"approximate": bool(np.isfinite(spread))}
    found |= {name: sums[name] for name in ("relative_error", "cosine")}
    found |= {"cosine_tokens": sums["cosine"], "mean_abs_difference": sums["mean_abs_difference"]}
    found |= {"max_abs_difference": float(d.max())}
    found |= {f"max_{name}": np.nan if is_equal else int(at) for name, at in most.items()}
    found |= {"max_token": "" if is_equal else f" word{token}"}
    found |= {"max_channel": np.nan if is_equal else int(channel)}
    found |= {"tokens": len(a), "documents": documents, "left_out": 0}
    if own is not None:
        error = own * sums["relative_error"]
        found["local_sqnr_db"] = -20 * np.log10(error) if error else np.inf
        found["local_relative_error"] = error
    return found


def _worst(a: np.ndarray, b: np.ndarray, axis: int, owner: np.ndarray) -> list[dict[str, Any]]:
    errors, energy = ((b - a) ** 2).sum(axis), (a**2).sum(axis)
    rows = []
    for rank, at in enumerate(np.argsort(-errors, kind="stable")[:50].tolist(), 1):
        if not errors[at]:
            continue
        row: dict[str, Any] = {"rank": rank}
        share = {"error_share": errors[at] / errors.sum()}
        if axis == 0:
            row |= {"channel": at} | share | {"energy_share": energy[at] / (energy.sum() or 1.0)}
        else:
            row |= {"document": int(owner[at]), "window": 0, "position": at // (owner.max() + 1)}
            row |= {"token": f" word{at}"} | share
        row["relative_error"] = np.sqrt(errors[at] / energy[at]) if energy[at] else np.nan
        rows.append(row | ({"cosine": 0.5} if axis else {}))
    return rows
