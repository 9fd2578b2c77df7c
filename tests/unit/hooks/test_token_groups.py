"""Magnitudes by role and position of tokens, against NumPy on the raw values."""

from __future__ import annotations

import functools
import operator
from dataclasses import replace

import numpy as np
import pytest
import torch

from distviz.data import ROLES
from distviz.hooks.moe_layouts import Routed
from distviz.hooks.recorder import Recorder
from distviz.hooks.token_groups import count_tokens, group_name, group_numbers
from distviz.hooks.tokens import Tokens
from distviz.sites import HookPoint, SiteKey
from distviz.stats import Sketch, decode, encode, statistics

POINT = HookPoint(0, "decoder", "act", "m", "output")
KEY = SiteKey(0, "decoder", "act", "before", "m")
LENGTHS = (9, 5, 12)


def batch(*, left: bool, seed: int = 0, first: int = 0) -> tuple[Tokens, torch.Tensor]:
    """Return three windows of random values and roles, padded on one side."""
    rng = np.random.default_rng(seed)
    width = max(LENGTHS) + 2
    valid, index = np.zeros((3, width), bool), np.full((3, width), 77)
    for row, size in enumerate(LENGTHS):
        own = slice(width - size, width) if left else slice(size)
        valid[row, own] = True
        index[row, own] = ((row % 2) << 32) + np.arange(size)
    roles = rng.integers(len(ROLES), size=valid.shape)
    tokens = Tokens(
        valid, valid & (rng.random(valid.shape) < 0.9), np.arange(3) + first, index,
        rng.integers(4, size=valid.shape), roles=roles,
    )  # fmt: skip
    return tokens, torch.from_numpy(rng.standard_normal((valid.size, 5))).bfloat16()


def brute(parts: list[tuple[Tokens, torch.Tensor]]) -> dict[str, dict[str, list[float]]]:
    """Return the magnitudes of each group, token by token."""
    found: dict[str, dict[str, list[float]]] = {"role": {}, "position": {}}
    for tokens, values in parts:
        rows = values.double().abs().reshape(*tokens.valid.shape, -1).tolist()
        for row, column in zip(*np.nonzero(tokens.counted), strict=True):
            place = int(tokens.index[row, column]) % 2**32
            low = 1
            while place >= 2 * low:
                low *= 2
            name = str(place) if place < 2 else f"{low}-{2 * low - 1}"
            assert tokens.roles is not None
            role = ROLES[tokens.roles[row, column]]
            found["role"].setdefault(role, []).extend(rows[row][column])
            found["position"].setdefault(name, []).extend(rows[row][column])
    return found


def merged(recorder: Recorder) -> Sketch:
    return functools.reduce(operator.add, recorder.sketches[KEY].values())


def check(recorder: Recorder, expected: dict[str, dict[str, list[float]]]) -> None:
    whole = merged(recorder)
    groups = recorder.groups.groups({KEY: whole})[KEY]
    assert list(groups) == ["role", "position"]
    for partition, by_name in groups.items():
        assert set(by_name) == set(expected[partition])
        assert sum(one.count for one in by_name.values()) == whole.count
        for name, one in by_name.items():
            own = np.array(expected[partition][name])
            values, counts = np.unique(own, return_counts=True)
            np.testing.assert_array_equal(one.values, values)
            np.testing.assert_array_equal(one.counts, counts)
            assert statistics.near_zero(one, 0.5) == (own < 0.5).mean()
    assert list(groups["role"]) == [role for role in ROLES if role in groups["role"]]


@pytest.mark.parametrize("left", [False, True])
def test_groups_are_those_of_brute_force(*, left: bool) -> None:
    recorder = Recorder(class_layers=None)
    parts = [batch(left=left), batch(left=left, seed=1, first=3)]
    for tokens, values in parts:
        recorder.add(POINT, "before", values, tokens)
    check(recorder, brute(parts))


def test_sums_and_states_keep_all() -> None:
    parts = [batch(left=False), batch(left=True, seed=1, first=3)]
    recorders = [Recorder(class_layers=None) for _ in parts]
    for recorder, (tokens, values) in zip(recorders, parts, strict=True):
        recorder.add(POINT, "before", values, tokens)
    first, second = (Recorder.from_state(decode(encode(one.state()))) for one in recorders)
    check(first + second, brute(parts))


def test_nothing_is_counted_unless_classes_are(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, values = batch(left=False)
    recorder = Recorder()
    monkeypatch.setattr(recorder.groups, "add", None)
    recorder.add(POINT, "before", values, tokens)
    assert recorder.groups.groups({}) == {}


def test_moved_values_have_no_groups() -> None:
    tokens, values = batch(left=False)
    recorder = Recorder(class_layers=None)
    recorder.add(POINT, "moved_before", values, tokens, torch.ones_like(values))
    assert recorder.groups.tables == {}


def test_rows_of_experts_are_of_their_tokens() -> None:
    tokens, _ = batch(left=False)
    flat = np.repeat(np.arange(tokens.valid.size), 2)
    slots = np.tile([0, 1], tokens.valid.size)
    of_rows = Routed(flat, np.zeros(flat.size, np.int64), slots, tokens.valid.size, 1)
    routed = replace(tokens, routed=of_rows)
    values = torch.randn(flat.size, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    recorder = Recorder(class_layers=None)
    recorder.add(POINT, "before", values, routed)
    check(recorder, brute([(tokens, values.reshape(tokens.valid.size, -1))]))


def test_tokens_without_roles_have_positions_alone() -> None:
    tokens, values = batch(left=False)
    for roles in (None, np.full(tokens.valid.shape, ROLES.index("rest"))):
        one = replace(tokens, roles=roles)
        recorder = Recorder(class_layers=None)
        recorder.add(POINT, "before", values, one)
        assert list(recorder.groups.groups({KEY: merged(recorder)})[KEY]) == ["position"]
        assert list(count_tokens([one])) == ["position"]


def test_names_of_positions() -> None:
    places = np.array([[0, 1, 2, 3, 4, 7, 8, 511, 512, (3 << 32) + 5]])
    tokens = Tokens(places >= 0, places >= 0, np.zeros(1, int), places, np.zeros_like(places))
    numbers = group_numbers(tokens)["position"][0]
    names = [group_name("position", number) for number in numbers.tolist()]
    assert names == [
        "0", "1", "2-3", "2-3", "4-7", "4-7", "8-15", "256-511", "512-1023", "4-7",
    ]  # fmt: skip
    assert count_tokens([tokens])["position"]["4-7"] == 3
