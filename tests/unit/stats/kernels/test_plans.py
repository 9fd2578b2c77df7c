"""The compiled plan against the plain reference, value by value and bit by bit."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from support.arm_reference import reference_plan, reference_selection

from distviz.stats import kernels
from distviz.stats.kernels import plans
from distviz.stats.kernels.types import Request

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
SHAPES = [(1, 1), (40, 50), (300, 250)]
SETTINGS: list[dict[str, Any]] = [
    {},
    {"percentile_of": "magnitude"},
    {"p1": 0.0},
    {"p1": 100.0},
    {"p1": 37.3, "c": 2.0},
    {"p_min": 0.3, "p_max": 0.3},
]


def not_finite(x: torch.Tensor) -> torch.Tensor:
    flat = x.flatten().clone()
    flat[::3], flat[1::5], flat[2::7] = torch.nan, torch.inf, -torch.inf
    return flat.view(x.shape)


INPUTS = {
    "normal": lambda x: x,
    "silu": lambda x: torch.nn.functional.silu(x - 0.5),
    "tied": lambda x: torch.round(x * 4) / 4,
    "constant": lambda x: torch.full_like(x, 0.7),
    "zero": torch.zeros_like,
    "not finite": not_finite,
    "nothing finite": lambda x: torch.full_like(x, torch.nan),
    "denormal": lambda x: x * 1e-40,
    "least of fp16": lambda x: x * 1e-7,
    "negative": lambda x: -x.abs(),
    "narrow": lambda x: 1 + x.abs() * 1e-3,
    "large": lambda x: x * 1e4,
}


def request_of(given: dict[str, Any]) -> Request:
    c, p1 = given.get("c", 0.13), given.get("p1", 99.5)
    least, most = given.get("p_min", 0.02), given.get("p_max", 0.25)
    return Request(c, p1 / 100, least, most, given.get("percentile_of") == "magnitude")


def check(x: torch.Tensor, **given: Any) -> None:
    rows = np.arange(x.shape[0])
    decision, expected = plans.decide(x, rows, request_of(given)), reference_plan(x, **given)
    n, center, mad, eps, near, fraction, k, upper, lower, magnitude, ties, in_all = decision.plan
    moved = torch.zeros(x.shape, dtype=torch.uint8)
    plans.find_moved(x, rows, decision, moved)
    found = np.flatnonzero(moved.numpy())
    if expected is None:
        assert n == found.size == 0
        return
    numbers = (n, center, max(mad, 1e-12), eps, near, fraction, k, upper, lower)
    assert numbers == dataclasses.astuple(expected)
    np.testing.assert_array_equal(found, reference_selection(x, k))
    sizes = x.double().abs().flatten()
    sizes = sizes[sizes.isfinite()]
    assert magnitude == sizes.sort().values[k - 1]
    assert ties == k - int((sizes < magnitude).sum())
    assert in_all == int((sizes == magnitude).sum())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", INPUTS)
def test_equal_to_the_reference(kind: str, shape: tuple[int, int], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    x = INPUTS[kind](torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)
    for given in SETTINGS:
        check(x, **given)


def test_a_centre_at_the_end_of_its_cell() -> None:
    """Of the values nearest to the centre, some are in the next cell of equal upper halves."""
    x = torch.full((100, 1000), 1.0)
    x[:20], x[20:60] = 1.0070, 1.0080
    check(x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_some_rows_in_their_order(dtype: torch.dtype) -> None:
    x = torch.round(8 * torch.randn(300, 300, generator=torch.Generator().manual_seed(8))) / 8
    rows = np.random.default_rng(0).permutation(300)[:250]
    decision = plans.decide(x.to(dtype), rows, request_of({}))
    moved = torch.zeros(x.shape, dtype=torch.uint8)
    plans.find_moved(x.to(dtype), rows, decision, moved)
    assert decision.plan == plans.decide(x[rows].to(dtype), np.arange(250), request_of({})).plan
    found = np.flatnonzero(moved[rows].numpy())
    np.testing.assert_array_equal(found, reference_selection(x[rows], decision.plan[6]))
    assert int(moved.sum()) == decision.plan[6]


@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_new_values(dtype: torch.dtype, adds: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    x = not_finite(torch.randn(60, 70, generator=generator, dtype=torch.float64)).to(dtype)
    rows = np.arange(60)
    decision = plans.decide(x, rows, request_of({}))
    keys = kernels.row_keys(1, 2, 0, 0, 3, rows)
    out = torch.empty_like(x)
    plans.apply(x, out, rows, keys, decision, adds=adds)
    moved = torch.zeros(x.shape, dtype=torch.uint8)
    plans.find_moved(x, rows, decision, moved)
    lower, upper = (torch.tensor(bound).float() for bound in decision.bounds)
    new = torch.from_numpy(kernels.uniforms(keys, 70)) * torch.where(x < 0, lower, upper)
    wide = torch.promote_types(dtype, torch.float32)
    new = (x.to(wide) + new if adds else new).to(dtype)
    expected = torch.where(moved.bool(), new, x)
    assert torch.equal(out.nan_to_num(), expected.nan_to_num())
    assert torch.equal(out.isnan(), x.isnan())
