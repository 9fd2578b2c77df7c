"""The tables of a comparison: distances, channels, token classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distviz.results import PARTITIONS, Pair, Run, class_tokens, need
from distviz.sites import SiteKey
from distviz.stats import statistics

_TOP_CHANNELS = 50
_MEASURED = ("std", "mean", "absmax")

Columns = dict[str, NDArray[Any]]


def distances(comparison_of: Sequence[Pair], a: Run, b: Run) -> pd.DataFrame:
    """Return ``compare.csv``: every distance, exact from the sketches.

    ``near_zero_a`` and ``near_zero_b`` both use A's pooled eps; shifts are B minus A.
    """
    return pd.DataFrame([_distance_row(pair, a, b) for pair in comparison_of])


def _distance_row(pair: Pair, a: Run, b: Run) -> dict[str, Any]:
    first, second = a.merged[pair.a], b.merged[pair.b]
    eps = a.bands[pair.a]
    moved = statistics.wasserstein(first, second)
    std_a, std_b = first.std(), second.std()
    marks = np.array([0.01, 0.5, 0.99])
    shifts = second.quantile(marks) - first.quantile(marks)
    return {
        "layer_a": pair.a.layer,
        "layer_b": pair.b.layer,
        "site": pair.a.site,
        "phase_a": pair.a.phase,
        "phase_b": pair.b.phase,
        "ks": statistics.ks(first, second),
        "wasserstein": moved,
        "wasserstein_normalized": moved / std_a if std_a else np.nan,
        "js_divergence": statistics.js_divergence(first, second),
        "std_ratio": std_b / std_a if std_a else np.nan,
        "near_zero_a": statistics.near_zero(first, eps),
        "near_zero_b": statistics.near_zero(second, eps),
        "gini_a": statistics.gini(first),
        "gini_b": statistics.gini(second),
        "p1_shift": shifts[0],
        "p50_shift": shifts[1],
        "p99_shift": shifts[2],
        "module_a": pair.a.module,
        "module_b": pair.b.module,
        "stack": pair.a.stack,
    }


def channel_changes(pairs: Sequence[Pair], a: Run, b: Run) -> pd.DataFrame:
    """Return ``channels.csv``: the channels that changed most, if the widths are equal.

    A channel's ``change`` is the largest of abs(log std ratio), abs(mean shift) / std of A and
    abs(log absmax ratio); the 50 largest of each pair, most changed first. ``outlier_a`` and
    ``outlier_b`` are the channel's absmax over the median absmax of its side.
    """
    first, second = _by_place(a), _by_place(b)
    frames = []
    for pair in pairs:
        x, y = first.get(_place(pair.a)), second.get(_place(pair.b))
        if x is not None and y is not None and len(x["channel"]) == len(y["channel"]):
            frames.append(_most_changed(pair, x, y))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _place(key: SiteKey) -> tuple[Any, ...]:
    return key.layer, key.stack, key.site, key.phase, key.module


def _by_place(run: Run) -> dict[tuple[Any, ...], Columns]:
    """Return the channels of every place, ascending."""
    if not len(run.channels):
        return {}
    names = ["layer", "stack", "site", "phase", "module"]
    table = need(run.channels, [*names, "channel", *_MEASURED], "channels.parquet")
    table = table.sort_values("channel", kind="stable")
    columns = {name: table[name].to_numpy() for name in ("channel", *_MEASURED)}
    groups: dict[Any, Any] = table.groupby(names, sort=False, dropna=False).indices
    return {
        tuple(place): {name: column[rows] for name, column in columns.items()}
        for place, rows in groups.items()
    }


def _most_changed(pair: Pair, first: Columns, second: Columns) -> pd.DataFrame:
    with np.errstate(divide="ignore", invalid="ignore"):
        std_change = np.abs(np.log(second["std"] / first["std"]))
        shift = np.abs(second["mean"] - first["mean"]) / first["std"]
        peak_change = np.abs(np.log(second["absmax"] / first["absmax"]))
    changes = np.stack([std_change, shift, peak_change])
    change = np.where(np.isnan(changes), 0.0, changes).max(axis=0)
    most = np.argsort(-change, kind="stable")[:_TOP_CHANNELS]
    sides = (("a", first), ("b", second))
    places: Columns = {"channel": first["channel"][most]}
    places |= {f"{name}_{end}": side[name][most] for name in _MEASURED for end, side in sides}
    places |= {f"outlier_{end}": _outlier(side)[most] for end, side in sides}
    return pd.DataFrame(
        {"layer_a": pair.a.layer, "layer_b": pair.b.layer, "site": pair.a.site}
        | {"phase_a": pair.a.phase, "phase_b": pair.b.phase, **places}
        | {"change": change[most], "stack": pair.a.stack, "module": pair.a.module}
    )


def _outlier(side: Columns) -> NDArray[np.float64]:
    absmax = side["absmax"].astype(np.float64)
    median = float(np.median(absmax)) if absmax.size else 0.0
    return absmax / median if median else np.full(absmax.size, np.nan)


def class_shares(pairs: Sequence[Pair], a: Run, b: Run) -> pd.DataFrame:
    """Return ``classes.csv``: near-zero share by token class, both sides by A's pooled eps.

    Only classes of both sides have rows; roles and positions are after them.
    """
    rows = []
    for partition in PARTITIONS:
        tokens = [class_tokens(run.manifest, partition) for run in (a, b)]
        for pair in pairs:
            first, second = a.partition(pair.a, partition), b.partition(pair.b, partition)
            eps = a.bands[pair.a]
            rows += [
                {"layer_a": pair.a.layer, "layer_b": pair.b.layer, "site": pair.a.site}
                | {"phase_a": pair.a.phase, "phase_b": pair.b.phase, "token_class": name}
                | {"tokens_a": tokens[0].get(name), "tokens_b": tokens[1].get(name)}
                | {"near_zero_a": statistics.near_zero(first[name], eps)}
                | {"near_zero_b": statistics.near_zero(second[name], eps)}
                | {"module_a": pair.a.module, "module_b": pair.b.module}
                | {"stack": pair.a.stack, "partition": partition}
                for name in first
                if name in second
            ]
    return pd.DataFrame(rows)
