"""Tokens, channels and pairs of values of one place, from every value in float64.

Written from the meanings of the columns in docs/files.md, and from nothing else.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distviz.results import Run
from support.brute_force import (
    Measured,
    assert_stats,
    batch_windows,
    cut_windows,
    eps_of,
    lower_median,
    measure,
    on_grid,
)

Array = NDArray[np.float64]
LLAMA = {
    "attention": ("self_attn.o_proj", "input"),
    "act": ("mlp.act_fn", "output"),
    "product": ("mlp.down_proj", "input"),
    "residual": ("", "output"),
}
"""By site: the module in a layer of a Llama, and which side of it."""


def llama_places(
    layers: int, sites: Sequence[str] = tuple(LLAMA)
) -> dict[tuple[int, str], tuple[str, str]]:
    """(layer, site) -> (path, side)."""
    return {
        (layer, site): (f"model.layers.{layer}.{LLAMA[site][0]}".rstrip("."), LLAMA[site][1])
        for layer in range(layers)
        for site in sites
    }


class Rows(NamedTuple):
    """Every counted token of one place, in the order of the text.

    ``tokens`` is int64 (rows, 4): document, window, position, token id; ``values`` float64
    (rows, channels).
    """

    tokens: NDArray[np.int64]
    values: Array


def rows_at(found: Measured, key: tuple[int, str, str]) -> Rows:
    """Return what plain hooks kept."""
    tokens = [
        (document, window, position, int(token))
        for (document, window), ids in zip(found.places, found.ids, strict=True)
        for position, token in enumerate(ids)
    ]
    order = sorted(range(len(tokens)), key=lambda row: tokens[row])
    values = np.concatenate([part.double().numpy() for part in found.values[key]])
    return Rows(np.array(tokens)[order], values[order])


_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\x1b": "\\x1b", "\x07": "\\x07"}


def shown(tokenizer: Any, token: int) -> str:
    """Return the text of a token, control characters as escapes."""
    return "".join(_ESCAPES.get(sign, sign) for sign in str(tokenizer.decode([token])))


def near(found: Any, wanted: Any, scale: Any = 0.0) -> None:
    """Require 1e-10, relative to each number (or to ``scale``); NaN and infinity as they are."""
    found, wanted = (np.asarray(one, np.float64) for one in (found, wanted))
    assert found.shape == wanted.shape
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(wanted))
    np.testing.assert_array_equal(found[~np.isfinite(found)], wanted[~np.isfinite(wanted)])
    known = np.isfinite(wanted)
    found, wanted = found[known], wanted[known]
    size = np.maximum(np.abs(wanted), np.broadcast_to(scale, known.shape)[known])
    assert (np.abs(found - wanted) <= 1e-10 * size).all(), (found, wanted)


# One model ----------------------------------------------------------------------------------


def assert_channels(table: pd.DataFrame, rows: Rows) -> None:
    """Compare the rows of ``channels.parquet`` of one place; kurtosis and top if they are there."""
    finite = np.isfinite(rows.values)
    x = np.where(finite, rows.values, 0.0).astype(np.longdouble)
    count = finite.sum(0)
    assert table["channel"].tolist() == list(range(count.size))
    low, high = np.where(finite, x, np.inf).min(0), np.where(finite, x, -np.inf).max(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = x.sum(0) / count
        squares = np.where(finite, x - mean, 0.0) ** 2
        second, fourth = (one.sum(0) / count for one in (squares, squares**2))
        excess = np.where(second > 0, fourth / second**2 - 3, np.nan)
    wanted = {
        "count": count,
        "zeros": (finite & (x == 0)).sum(0),
        "positive": (finite & (x > 0)).sum(0),
        "min": np.where(count > 0, low, np.nan),
        "max": np.where(count > 0, high, np.nan),
        "absmax": np.where(count > 0, np.maximum(-low, high), np.nan),
    }
    if "top" in table:
        sizes = np.where(finite, np.abs(x), -1.0)
        wanted["top"] = np.bincount(sizes[finite.any(1)].argmax(1), minlength=count.size)
        near(table["kurtosis"], excess, scale=3.0)
    for name, numbers in wanted.items():
        np.testing.assert_array_equal(table[name], numbers, name)
    near(table["mean"], mean, scale=np.abs(x).sum(0) / np.maximum(count, 1))
    near(table["std"], np.sqrt(second))


def assert_run(
    run: Run, found: Measured, decode: Callable[[int], str], tokens: pd.DataFrame | None = None
) -> None:
    """Compare every place of stats, channels, extremes and tokens of a run."""
    stats = run.stats()
    keys = list(zip(stats["layer"], stats["site"], stats["phase"], strict=True))
    assert {key for key in keys if key[2] == "before"} == {
        key for key in found.values if key[2] == "before"
    }
    for key, row in zip(keys, stats.to_dict("records"), strict=True):
        layer, site, phase = key
        assert_stats(row, found.of(key), eps_of(found.of((layer, site, "before"))))
        if phase not in ("before", "after"):
            continue
        rows = rows_at(found, key)
        assert_channels(_place(run.channels, key), rows)
        assert_extremes(_place(run.extremes, key), rows, decode)
        if tokens is not None:
            assert_tokens(_place(tokens, key), rows, decode)
        if phase == "after":
            before = rows_at(found, (layer, site, "before")).values
            near(row["mean_abs_change"], np.abs(rows.values - before).mean())


def _place(table: pd.DataFrame, key: tuple[int, str, str]) -> pd.DataFrame:
    names = ("layer", "site", "phase")
    same = [table[name] == value for name, value in zip(names, key, strict=True)]
    return table[np.logical_and.reduce(same)].reset_index(drop=True)


def assert_extremes(
    table: pd.DataFrame, rows: Rows, decode: Callable[[int], str], number: int = 20
) -> None:
    """Compare the rows of ``extremes.csv`` of one place; of equals the earliest comes first."""
    row, channel = np.nonzero(np.isfinite(rows.values))
    values = rows.values[row, channel]
    document, window, position, _ = rows.tokens[row].T
    order = np.lexsort((channel, position, window, document, -np.abs(values)))[:number]
    assert table["rank"].tolist() == list(range(1, len(order) + 1))
    np.testing.assert_array_equal(table["value"], values[order])
    names = ["document", "window", "position", "token_id"]
    np.testing.assert_array_equal(table[names], rows.tokens[row[order]])
    np.testing.assert_array_equal(table["channel"], channel[order])
    assert table["token"].tolist() == [decode(n) for n in rows.tokens[row[order], 3].tolist()]
    median = lower_median(np.abs(on_grid(rows.values[np.isfinite(rows.values)])))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.abs(values[order]) / np.float64(median)
    near(table["ratio"], ratio)
    massive = (np.abs(values[order]) > 100) & (ratio > 1000)
    np.testing.assert_array_equal(table["massive"], massive)


def assert_tokens(table: pd.DataFrame, rows: Rows, decode: Callable[[int], str]) -> None:
    """Compare the rows of ``tokens.parquet`` of one place."""
    names = ["document", "window", "position", "token_id"]
    np.testing.assert_array_equal(table[names], rows.tokens)
    assert table["token"].tolist() == [decode(n) for n in rows.tokens[:, 3].tolist()]
    sizes = np.where(np.isfinite(rows.values), np.abs(rows.values), -1.0)
    has_one = (sizes >= 0).any(1)
    absmax = np.where(has_one, sizes.max(1), np.nan)
    squares = (np.maximum(sizes, 0).astype(np.longdouble) ** 2).sum(1)
    l2 = np.where(has_one, np.sqrt(squares), np.nan).astype(np.float64)
    np.testing.assert_array_equal(table["absmax"], absmax)
    channels = np.where(has_one, sizes.argmax(1), np.nan)
    np.testing.assert_array_equal(table["channel"].to_numpy(float, na_value=np.nan), channels)
    near(table["l2"], l2)
    for name, wanted in (("absmax", absmax), ("l2", l2)):
        median = lower_median(wanted[~np.isnan(wanted)])
        with np.errstate(divide="ignore", invalid="ignore"):
            near(table[f"{name}_ratio"], wanted / np.float64(median))


# Two models ---------------------------------------------------------------------------------


def cosine_of(a: Array, b: Array) -> float:
    """NaN where one side is zero."""
    is_pair = np.isfinite(a) & np.isfinite(b)
    x, y = (side[is_pair] for side in (a, b))
    size = np.linalg.norm(x) * np.linalg.norm(y)
    return float((x * y).sum() / size) if size else math.nan


def sums_of(a: Array, b: Array) -> dict[str, float]:
    """The columns that are made of sums over pairs of finite values."""
    is_pair = np.isfinite(a) & np.isfinite(b)
    x, y = (side[is_pair].astype(np.longdouble) for side in (a, b))
    d = y - x
    error, first = (d * d).sum(), (x * x).sum()
    if not x.size:
        names = ("sqnr_db", "relative_error", "cosine", "mean_abs_difference")
        return dict.fromkeys(names, math.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = first / error
        relative = np.sqrt(error / first) if error else 0.0
    return {
        "sqnr_db": float(10 * np.log10(ratio)) if error else math.inf,
        "relative_error": math.nan if np.isinf(relative) else float(relative),
        "cosine": cosine_of(a, b),
        "mean_abs_difference": float(np.abs(d).mean()),
    }


def assert_pairs(
    tables: dict[str, pd.DataFrame],
    a: Rows,
    b: Rows,
    decode: Callable[[int], str],
    own: Rows | None = None,
) -> None:
    """Compare the rows of the four tables of ``compare --elementwise`` at one place.

    ``own`` has the values of B where each layer reads what the layer of A reads.
    """
    np.testing.assert_array_equal(a.tokens, b.tokens)
    assert len(tables["elementwise"]) == 1
    row = tables["elementwise"].iloc[0]
    wanted = sums_of(a.values, b.values)
    if own is not None:
        alone = sums_of(a.values, own.values)
        wanted |= {f"local_{name}": alone[name] for name in ("sqnr_db", "relative_error")}
    cosines = [cosine_of(x, y) for x, y in zip(a.values, b.values, strict=True)]
    known = [one for one in cosines if not math.isnan(one)]
    wanted["cosine_tokens"] = float(np.mean(known)) if known else math.nan
    for name, value in wanted.items():
        near(row[name], value, scale=1e-3 if name.endswith("_db") else 0.0)
    assert (row["tokens"], row["documents"]) == (len(a.tokens), len(set(a.tokens[:, 0])))
    is_pair = np.isfinite(a.values) & np.isfinite(b.values)
    assert row["left_out"] == (~is_pair).sum()
    with np.errstate(invalid="ignore"):
        difference = np.where(is_pair, b.values - a.values, 0.0)
    _assert_most(row, a.tokens, np.abs(difference), decode)
    energy = np.where(is_pair, a.values, 0.0) ** 2
    _assert_documents(tables["elementwise_documents"], a, b, own)
    _assert_channels(tables["elementwise_channels"], difference**2, energy)
    _assert_tokens(tables["elementwise_tokens"], a, b, difference**2, decode)


def _assert_most(
    row: Any, tokens: NDArray[np.int64], sizes: Array, decode: Callable[[int], str]
) -> None:
    assert row["max_abs_difference"] == sizes.max(initial=0.0)
    names = ["max_document", "max_window", "max_position"]
    if not sizes.any():
        assert np.isnan(row[[*names, "max_channel"]].to_numpy(float)).all()
        return
    place, channel = np.unravel_index(sizes.argmax(), sizes.shape)
    assert row[names].tolist() == tokens[place, :3].tolist()
    assert (row["max_channel"], row["max_token"]) == (channel, decode(int(tokens[place, 3])))


def _assert_documents(table: pd.DataFrame, a: Rows, b: Rows, own: Rows | None) -> None:
    assert table["document"].tolist() == sorted(set(a.tokens[:, 0].tolist()))
    for row in table.to_dict("records"):
        here = a.tokens[:, 0] == row["document"]
        wanted = sums_of(a.values[here], b.values[here])
        if own is not None:
            wanted["local_sqnr_db"] = sums_of(a.values[here], own.values[here])["sqnr_db"]
        assert row["count"] == (np.isfinite(a.values) & np.isfinite(b.values))[here].sum()
        for name, value in wanted.items():
            near(row[name], value, scale=1e-3 if name.endswith("_db") else 0.0)


def _assert_channels(table: pd.DataFrame, error: Array, energy: Array) -> None:
    errors, energies = error.sum(0), energy.sum(0)
    order = np.argsort(-errors, kind="stable")[:50]
    order = order[errors[order] > 0]
    assert table["rank"].tolist() == list(range(1, len(order) + 1))
    chosen = table["channel"].to_numpy(int)
    near(errors[chosen], errors[order])  # of channels that are equal but for rounding, any first
    assert len(set(chosen.tolist())) == len(order)
    near(table["error_share"], errors[chosen] / errors.sum())
    near(table["energy_share"], energies[chosen] / energies.sum())
    with np.errstate(divide="ignore"):
        ratio = np.sqrt(errors[chosen] / energies[chosen])
    near(table["relative_error"], np.where(np.isinf(ratio), np.nan, ratio))


def _assert_tokens(
    table: pd.DataFrame, a: Rows, b: Rows, error: Array, decode: Callable[[int], str]
) -> None:
    errors = error.sum(1)
    order = np.argsort(-errors, kind="stable")[:50]
    order = order[errors[order] > 0]
    assert table["rank"].tolist() == list(range(1, len(order) + 1))
    number = {tuple(place): row for row, place in enumerate(a.tokens[:, :3].tolist())}
    places = table[["document", "window", "position"]].itertuples(index=False, name=None)
    chosen = np.array([number[place] for place in places], dtype=int)
    near(errors[chosen], errors[order])
    assert len(set(chosen.tolist())) == len(order)
    near(table["error_share"], errors[chosen] / errors.sum() if len(order) else [])
    assert table["token"].tolist() == [decode(int(a.tokens[row, 3])) for row in chosen]
    for name in ("relative_error", "cosine"):
        wanted = [sums_of(a.values[row], b.values[row])[name] for row in chosen]
        near(table[name], wanted)


# Published formulas -------------------------------------------------------------------------


def torchao_sqnr(x: Array, y: Array) -> float:
    """``compute_error`` of torchao: of x and its approximation y, all values together."""
    return float(20 * np.log10(np.linalg.norm(x) / np.linalg.norm(x - y)))


def exllama_sqnr(a: Sequence[Array], b: Sequence[Array], eps: float = 1e-8) -> float:
    """``sqnr`` of exllamav3: the mean over samples; b is the reference."""
    pairs = zip(a, b, strict=True)
    return float(
        np.mean([10 * np.log10((y**2).sum() / (((x - y) ** 2).sum() + eps)) for x, y in pairs])
    )


def at(tables: dict[str, pd.DataFrame], layer: int, site: str) -> dict[str, pd.DataFrame]:
    """Return the rows of one place of each table."""
    return {
        name: table[(table["layer"] == layer) & (table["site"] == site)].reset_index(drop=True)
        for name, table in tables.items()
    }


class FedBy:
    """``b``, whose layers read what the same layers of ``a`` read; in place of a model."""

    def __init__(self, a: Any, b: Any) -> None:
        self.a, self.b, self.config = a, b, b.config
        self.get_submodule = b.get_submodule

    def __call__(self, **inputs: Any) -> None:
        read: list[Any] = []
        with contextlib.ExitStack() as stack:
            for layer in self.a.model.layers:
                handle = layer.register_forward_pre_hook(lambda _, args: read.append(args[0]))
                stack.callback(handle.remove)
            self.a(**inputs)
            for layer, hidden in zip(self.b.model.layers, read, strict=True):
                new = hidden.to(self.b.dtype)
                handle = layer.register_forward_pre_hook(lambda _, args, x=new: (x, *args[1:]))
                stack.callback(handle.remove)
            self.b(**inputs)


def measure_texts(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    max_length: int,
    batch_size: int,
    arm_layers: Sequence[int] = (),
    layers: Sequence[int] | None = None,
    **arm: Any,
) -> Measured:
    """Send texts through a Llama as a run does and keep every value (of some layers)."""
    whole, bare = (tokenizer("a", add_special_tokens=own)["input_ids"] for own in (True, False))
    windows = cut_windows(tokenizer, texts, max_length, whole[: len(whole) - len(bare)])
    places = llama_places(model.config.num_hidden_layers)
    acts = {layer: places[layer, "act"][0] for layer in arm_layers}
    if layers is not None:
        places = {key: place for key, place in places.items() if key[0] in layers}
    call = {"logits_to_keep": 1}  # nobody looks at them
    batches = batch_windows(windows, batch_size)
    return measure(model, batches, places, acts, has_head=False, call=call, **arm)
