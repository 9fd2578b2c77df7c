"""Statistics of tables on a device, against the compiled loop and against sorting."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.pretended_device import DEVICE, Pretended, pretended, strictly

from distviz.stats import float_grid, kernels
from distviz.stats.kernels.device_summary import largest_on_device, summarise_on_device
from distviz.stats.kernels.device_types import DeviceRows


def tables_of(grid: str) -> np.ndarray:
    order = np.random.default_rng(3)
    dtype = torch.bfloat16 if grid == "bf16" else torch.float16
    drawn = [order.normal(0, 1, 5000), np.zeros(7), np.exp(order.normal(0, 9, 999)) % 60_000]
    drawn += [np.round(order.normal(0, 2, 400)) / 2, -np.ones(1), np.empty(0)]
    codes = [torch.from_numpy(one).to(dtype).view(torch.int16).numpy() for one in drawn]
    return np.stack([np.bincount(one.view(np.uint16), minlength=1 << 16) for one in codes])


@pytest.mark.parametrize("grid", ["bf16", "fp16"])
@pytest.mark.parametrize("c", [0.13, 0.45])
def test_like_the_compiled_loop(grid: str, c: float) -> None:
    tables = tables_of(grid)
    given = np.array([-1.0, -1.0, -1.0, 0.25, np.nan, 0.1])
    with pretended() as device, strictly(device):
        args = Pretended(torch.from_numpy(tables)), grid, c, Pretended(torch.from_numpy(given))
        found = summarise_on_device(*args).elem.numpy()
    cells = float_grid.magnitudes(grid)
    expected = np.array(
        [kernels.summarise(*pair) for pair in zip(tables, [cells] * 6, [c] * 6, given, strict=True)]
    )
    np.testing.assert_array_equal(found[:, [0, 3, 4]], expected[:, [0, 3, 4]])  # count, eps, near
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("n_rows", [3, 90])
def test_the_largest_by_sorting(dtype: torch.dtype, n_rows: int) -> None:
    x = torch.randint(-9, 10, (100, 40), generator=torch.Generator().manual_seed(n_rows)).to(dtype)
    x[:20], x[30, 5], x[31, 5] = torch.nan, torch.inf, -20.0
    rows = np.random.default_rng(n_rows).permutation(100)[:n_rows]
    with pretended() as device, strictly(device):
        chosen = DeviceRows.of(rows, np.zeros(100, np.int64), 1, DEVICE)
        value, row, channel = (
            one.elem.numpy() for one in largest_on_device(Pretended(x), chosen, 20)
        )
    picked = x.double().numpy()[rows]
    sizes = np.where(np.isfinite(picked), np.abs(picked), -1).ravel()
    best = np.lexsort((np.arange(sizes.size), -sizes))[:20]
    np.testing.assert_array_equal(row, best // 40)
    np.testing.assert_array_equal(channel, best % 40)
    expected = np.where(sizes[best] >= 0, picked.ravel()[best], np.nan)
    np.testing.assert_array_equal(value, expected)
