"""The sums over pairs of two tensors: compiled loops and torch against NumPy in float64."""

from __future__ import annotations

import itertools
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from distviz.stats import kernels

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
ENGINES = {"compiled": nullcontext, "torch": kernels.force_torch}


def _pair(dtype: torch.dtype, rows: int = 301, width: int = 257) -> tuple[torch.Tensor, ...]:
    made = torch.Generator().manual_seed(3)
    first = torch.randn(rows, width, generator=made).to(dtype)
    change = 0.05 * torch.randn(rows, width, generator=made)
    return first, (first.float() + change).to(dtype)


def _expected(a: torch.Tensor, b: torch.Tensor) -> dict[str, np.ndarray]:
    x, y = a.double().numpy(), b.double().numpy()
    is_pair = np.isfinite(x) & np.isfinite(y)
    x, y = np.where(is_pair, x, 0), np.where(is_pair, y, 0)
    d = y - x
    parts = (d * d, x * x, y * y, x * y, np.abs(d))
    return {
        "sums": np.stack([part.sum(1) for part in parts], 1),
        "counts": is_pair.sum(1),
        "errors": (d * d).sum(0),
        "squares": (x * x).sum(0),
        "d": np.abs(d),
    }


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("is_damaged", [False, True])
def test_sums_are_those_of_numpy(engine: str, dtype: torch.dtype, is_damaged: bool) -> None:
    a, b = _pair(dtype)
    if is_damaged:
        a[3, 5], b[3, 6], b[200, 0], a[201, 1] = torch.inf, torch.nan, -torch.inf, torch.nan
        a[202], b[203] = torch.nan, torch.inf
    with ENGINES[engine]():
        found = kernels.compare(a, b)
    expected = _expected(a, b)
    for name in ("sums", "errors", "squares"):
        np.testing.assert_allclose(getattr(found, name), expected[name], rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(found.counts, expected["counts"])
    place = np.unravel_index(expected["d"].argmax(), expected["d"].shape)
    assert (found.row, found.channel) == place
    assert found.most == expected["d"].max()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtypes", [*itertools.permutations(DTYPES, 2)])
def test_two_dtypes_are_compared_as_they_are(
    engine: str, dtypes: tuple[torch.dtype, torch.dtype]
) -> None:
    sides = [side * (1 + 1e-9) for side in _pair(torch.float64)]  # numbers that need 64 bits
    a, b = (side.to(dtype) for side, dtype in zip(sides, dtypes, strict=True))
    with ENGINES[engine]():
        found = kernels.compare(a, b)
    np.testing.assert_allclose(found.sums, _expected(a, b)["sums"], rtol=1e-12)
    assert found.most == _expected(a, b)["d"].max()


@pytest.mark.parametrize("engine", ENGINES)
def test_equal_tensors_have_no_error_at_all(engine: str) -> None:
    a, _ = _pair(torch.bfloat16)
    with ENGINES[engine]():
        found = kernels.compare(a, a.clone())
    assert (found.sums[:, [0, 4]] == 0).all()
    assert (found.errors == 0).all()
    assert (found.sums[:, 1] == found.sums[:, 3]).all()
    assert (found.sums[:, 1] == found.sums[:, 2]).all()
    assert (found.most, found.row, found.channel) == (0, -1, -1)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_first_of_equal_differences_counts(engine: str) -> None:
    a = torch.zeros(300, 300)
    b = a.clone()
    b[7, 9] = b[7, 250] = b[290, 2] = -2.0
    with ENGINES[engine]():
        found = kernels.compare(a, b)
        beaten = kernels.compare(a, b, 2.0)
    assert (found.most, found.row, found.channel) == (2.0, 7, 9)
    assert (beaten.most, beaten.row) == (2.0, -1)


@pytest.mark.parametrize("engine", ENGINES)
def test_no_rows(engine: str) -> None:
    with ENGINES[engine]():
        found = kernels.compare(torch.zeros(0, 4), torch.zeros(0, 4))
    assert found.sums.shape == (0, 5)
    assert found.counts.shape == (0,)
    assert (found.errors == 0).all()


def test_threads_change_nothing() -> None:
    a, b = _pair(torch.float32, rows=1000)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = kernels.compare(a, b)
        torch.set_num_threads(3)
        three = kernels.compare(a, b)
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(one.sums, three.sums)
    assert (one.most, one.row, one.channel) == (three.most, three.row, three.channel)
