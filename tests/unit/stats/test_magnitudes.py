"""Magnitudes and their counts: what a near-zero share needs, as NumPy computes it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distviz.stats import Magnitudes, Sketch, float_grid, kernels, magnitude_table, statistics


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_shares_of_a_sketch_and_of_its_magnitudes_are_equal(dtype: torch.dtype) -> None:
    x = torch.randn(300, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    x[0, :4] = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0]).to(dtype)
    sketch = Sketch().add(x)
    grid = sketch.grid or ""
    whole = Magnitudes.of_table(grid, magnitude_table(sketch))
    slots = np.arange(300) % 3 - 1
    tables = kernels.count_magnitudes(x, slots, 2)
    parts = [Magnitudes.of_table(grid, table) for table in tables]
    assert whole.count == sketch.count == 300 * 7 - 3
    rounded = x.float().to(torch.float16 if grid == "fp16" else torch.bfloat16).double().numpy()
    for eps in (0.0, 0.25, 1.0, np.inf):
        assert statistics.near_zero(whole, eps) == statistics.near_zero(sketch, eps)
        for slot, part in enumerate(parts):
            own = np.abs(rounded[slots == slot])
            own = own[np.isfinite(own)]
            assert part.count == own.size
            assert statistics.near_zero(part, eps) == (own < eps).mean()
    with kernels.force_torch():
        np.testing.assert_array_equal(kernels.count_magnitudes(x, slots, 2), tables)


def test_nothing_is_no_share() -> None:
    empty = Magnitudes.of_table("bf16", np.zeros(float_grid.SIGN, np.int64))
    assert empty.count == 0
    assert np.isnan(statistics.near_zero(empty, 1.0))
