"""The grids against torch's own conversions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distviz.stats import float_grid

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def decoded(grid: str) -> np.ndarray:
    codes = torch.arange(65536, dtype=torch.int32).to(torch.int16)
    return codes.view(TYPES[grid]).to(torch.float64).numpy()


@pytest.mark.parametrize("grid", TYPES)
def test_values_are_those_of_torch(grid: str) -> None:
    expected = decoded(grid)
    np.testing.assert_array_equal(float_grid.values(grid), expected)
    assert np.flatnonzero(np.isinf(expected))[0] == float_grid.first_nonfinite(grid)


@pytest.mark.parametrize("grid", TYPES)
def test_ordered_codes_ascend_through_every_finite_value(grid: str) -> None:
    codes, values = float_grid.ordered_codes(grid), float_grid.ordered_values(grid)
    assert set(codes.tolist()) == set(np.flatnonzero(np.isfinite(decoded(grid))).tolist())
    np.testing.assert_array_equal(values, decoded(grid)[codes])
    steps = np.diff(values)
    assert (steps > 0).sum() == steps.size - 1
    zeros = np.flatnonzero(values == 0)
    assert np.signbit(values[zeros]).tolist() == [True, False]
    np.testing.assert_array_equal(float_grid.magnitudes(grid), values[zeros[1] :])


def test_rounding_to_bf16_is_that_of_torch() -> None:
    generator = np.random.default_rng(3)
    codes = generator.integers(0, 1 << 32, 200_000, dtype=np.uint32)
    floats = codes.view(np.float32)
    floats = np.concatenate([floats[np.isfinite(floats)], np.float32([0.0, -0.0, 1.00390625])])
    rounded = torch.from_numpy(floats.copy()).to(torch.bfloat16)
    largest = torch.finfo(torch.bfloat16).max
    rounded = torch.where(torch.isinf(rounded), torch.sign(rounded) * largest, rounded)
    expected = rounded.view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(float_grid.to_bf16_codes(floats.astype(np.float64)), expected)
    beyond = float_grid.to_bf16_codes(np.array([1e300, -1e300]))
    assert float_grid.values("bf16")[beyond].tolist() == [largest, -largest]


def test_the_grid_of_a_type() -> None:
    names = ("float16", "torch.float16", "bfloat16", "torch.float32", "float64")
    assert [float_grid.grid_for_dtype(name) for name in names] == ["fp16"] * 2 + ["bf16"] * 3
    with pytest.raises(ValueError, match="unknown grid 'fp8'"):
        float_grid.values("fp8")
