"""The largest values and their places, against a sort of every value."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from support.brute_force import keeping, largest_of
from support.padded_models import ACTS, acts, padded, tiny
from support.tiny_experts import FAMILIES, call, tiny_experts
from support.word_tokenizer import word_tokenizer

import distviz
from distviz.hooks.extremes import Extremes
from distviz.hooks.recorder import Recorder
from distviz.hooks.tokens import Tokens
from distviz.sites import HookPoint, SiteKey
from distviz.stats import decode, encode, kernels

POINT = HookPoint(0, "decoder", "act", "m", "output")
KEY = SiteKey(0, "decoder", "act", "before", "m")
BATCH, LENGTH, CHANNELS = 3, 7, 90
KINDS = ["many equal", "distinct", "constant", "zeros", "few channels"]


def drawn(kind: str, number: int) -> torch.Tensor:
    """Rows of one batch; a few are not finite."""
    maker = torch.Generator().manual_seed(number)
    channels = 3 if kind == "few channels" else CHANNELS
    values = torch.randn(BATCH * LENGTH, channels, generator=maker)
    if kind == "many equal":
        values = (2 * values).round().clamp(-4, 4)
    elif kind in ("constant", "zeros"):
        values = torch.full_like(values, -2.0 if kind == "constant" else 0.0)
    values[3, 1], values[5, 2], values[5, 0] = math.nan, math.inf, -math.inf
    return values


def tokens(number: int) -> Tokens:
    """The first document is that of the batch before, in the next window."""
    maker = np.random.default_rng(number)
    counted = maker.random((BATCH, LENGTH)) < 0.8
    documents = np.arange(BATCH) + (BATCH - 1) * number
    index = ((number * (np.arange(BATCH) == 0))[:, None] << 32) + np.arange(LENGTH)
    ids = maker.integers(0, 50, (BATCH, LENGTH))
    zeros = np.zeros((BATCH, LENGTH), np.int64)
    return Tokens(counted, counted, documents, index, zeros, ids=ids)


def by_hand(kind: str, dtype: torch.dtype, numbers: range) -> list[Any]:
    rows = []
    for number in numbers:
        of, values = tokens(number), drawn(kind, number).to(dtype).double().numpy()
        for row in np.flatnonzero(of.counted):
            document, position = divmod(int(row), LENGTH)
            index = int(of.index[document, position])
            place = int(of.documents[document]), index >> 32, index & 0xFFFFFFFF
            rows.append(((*place, int(of.ids.ravel()[row])), values[row]))  # type: ignore[union-attr]
    return largest_of(rows)


def rows_of(extremes: Extremes, key: SiteKey = KEY) -> list[Any]:
    found = extremes.found[key]
    assert np.isfinite(found.values).all()
    return [
        (value, (document, index >> 32, index & 0xFFFFFFFF, token), channel)
        for value, (document, index, channel, _, token) in zip(
            found.values.tolist(), found.places.T.tolist(), strict=True
        )
    ]


def recorded(kind: str, dtype: torch.dtype, numbers: list[int]) -> Recorder:
    recorder = Recorder()
    for number in numbers:
        recorder.add(POINT, "before", drawn(kind, number).to(dtype), tokens(number))
    recorder.flush()
    return recorder


@pytest.mark.parametrize("forced", [False, True], ids=["compiled", "torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_places_and_values_by_hand(kind: str, dtype: torch.dtype, forced: bool) -> None:
    numbers = [3, 0, 1, 4, 2]
    if forced:
        with kernels.force_torch():
            recorder = recorded(kind, dtype, numbers)
    else:
        recorder = recorded(kind, dtype, numbers)
    assert rows_of(recorder.extremes) == by_hand(kind, dtype, range(5))


@pytest.mark.parametrize("kind", KINDS)
def test_any_share_in_any_order(kind: str) -> None:
    order = random.Random(1)
    wanted = by_hand(kind, torch.bfloat16, range(6))
    for _ in range(4):
        numbers = order.sample(range(6), 6)
        parts = [
            Extremes.from_state(
                decode(encode({"x": recorded(kind, torch.bfloat16, part).extremes.state()}))["x"]
            )
            for part in (numbers[:1], numbers[1:4], numbers[4:])
        ]
        assert rows_of(parts[0] + parts[1] + parts[2]) == wanted
        assert rows_of(Extremes() + parts[2] + parts[0] + parts[1]) == wanted


def test_many_equal_values_take_the_earliest() -> None:
    """More candidates than are sorted, in rows that are not in order."""
    values = torch.ones(2 * 500, 70)
    documents, index = np.array([8, 2]), np.broadcast_to(np.arange(500), (2, 500))
    counted, zeros = np.ones((2, 500), bool), np.zeros((2, 500), np.int64)
    counted[1, :3] = False
    values[999, 69] = -1.5
    recorder = Recorder()
    recorder.add(POINT, "before", values, Tokens(counted, counted, documents, index, zeros))
    rows = [
        ((int(documents[row // 500]), 0, row % 500, -1), values[row].double().numpy())
        for row in np.flatnonzero(counted)
    ]
    assert rows_of(recorder.extremes) == largest_of(rows)


def test_moved_values_have_no_extremes() -> None:
    recorder, x = Recorder(), drawn("distinct", 0)
    recorder.add(POINT, "moved_before", x, tokens(0), (x > 0).to(torch.uint8))
    assert recorder.extremes.frame({}).empty


@pytest.mark.parametrize("side", ["left", "right"])
def test_planted_values_are_found_in_padded_calls(side: str) -> None:
    model, tokenizer = tiny("llama"), word_tokenizer()
    calls = [padded(side, seed) for seed in (0, 1)]

    def plant(_module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
        changed = output.clone()
        changed[0, 0 if side == "right" else 8, 5] = -1e4
        changed[2, 8 if side == "right" else 0, 6] = 1e6  # padding
        return changed

    handle = model.get_submodule(ACTS["llama"].format(1)).register_forward_hook(plant)
    with (
        torch.no_grad(),
        keeping(model, acts("llama")) as kept,
        distviz.watch(model, tokenizer=tokenizer) as watched,
    ):
        for ids, mask in calls:
            model(input_ids=ids, attention_mask=mask)
    handle.remove()
    run = watched.run()
    for layer in range(3):
        rows = []
        for number, (ids, mask) in enumerate(calls):
            tensor = kept[str(layer)][number].double().numpy()
            for row in range(3):
                for position, at in enumerate(np.flatnonzero(mask[row])):
                    place = 3 * number + row, 0, position, int(ids[row, at])
                    rows.append((place, tensor[row, at]))
        table = run.extremes[run.extremes["layer"] == layer]
        wanted = largest_of(rows)
        columns = ["document", "window", "position", "token_id"]
        found = table[columns].itertuples(index=False, name=None)
        pairs = zip(table["value"], found, table["channel"], strict=True)
        assert [*pairs] == wanted
        assert table["token"].tolist() == [tokenizer.decode([at[3]]) for _, at, _ in wanted]
    first = run.extremes[run.extremes["layer"] == 1].iloc[0]
    assert (first["value"], first["channel"], first["document"]) == (-1e4, 5, 0)
    assert first["position"] == (0 if side == "right" else 8)


@pytest.mark.parametrize("implementation", ["grouped_mm", "batched_mm", "eager"])
def test_the_values_of_each_expert_are_named(implementation: str) -> None:
    name = "mixtral"
    model = tiny_experts(name, implementation)
    ids = torch.randint(3, 64, (2, 6), generator=torch.Generator().manual_seed(2))
    with distviz.watch(model, layers=[1]) as watched:
        call(name, model, ids)
    table = watched.run().extremes
    states: dict[str, Any] = {}

    def keep(module: Any, args: Any) -> None:
        states["x"], states["index"] = args[0].reshape(-1, 16), args[1]

    experts = model.get_submodule(FAMILIES[name].experts)
    handle = experts.register_forward_pre_hook(keep)
    call(name, model, ids)
    handle.remove()
    rows = []
    for token, chosen in enumerate(states["index"].tolist()):
        for expert in chosen:
            gate = FAMILIES[name].gate(experts, expert, states["x"][token])
            values = torch.nn.functional.silu(gate).detach().double().numpy()
            rows.append(((token // 6, 0, token % 6, expert), values))
    wanted = largest_of(rows)
    places = [(at, channel) for _, at, channel in wanted]
    columns = ["document", "window", "position", "expert"]
    found = table[columns].itertuples(index=False, name=None)
    assert [*zip(found, table["channel"], strict=True)] == places
    np.testing.assert_allclose(table["value"], [value for value, _, _ in wanted], rtol=1e-5)
