"""Counting without waiting, against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.pretended_device import DEVICE, Pretended, pretended, strictly

from distviz.stats import float_grid
from distviz.stats.kernels.device_counts import count_on_device, grid_codes
from distviz.stats.kernels.device_types import DeviceRows

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def drawn(dtype: torch.dtype, mean: float = 0.0) -> torch.Tensor:
    x = torch.randn(40, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + mean
    x[3, :4] = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0])
    return x.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("some", [False, True], ids=["all", "chosen"])
def test_by_hand(dtype: torch.dtype, some: bool) -> None:
    x, slots = drawn(dtype, 3.0), np.arange(40) % 4 - 1
    mask = x.abs() < 3.5 if some else torch.ones_like(x, dtype=torch.bool)
    chosen = Pretended(mask) if some else None
    with pretended() as device, strictly(device):
        rows = DeviceRows.of(np.flatnonzero(slots >= 0), slots, 3, DEVICE)
        first = count_on_device(Pretended(x), rows, details=True, chosen=chosen)
        again = count_on_device(Pretended(x), rows, first.origin, details=True, chosen=chosen)
        device.is_strict = False
        found = (first + again).host()
    codes, wide, kept = grid_codes(x).numpy(), x.double().numpy(), mask.numpy()
    for slot in range(3):
        own = kept & (slots == slot)[:, None]
        table = 2 * np.bincount(codes[own], minlength=float_grid.CELLS)
        np.testing.assert_array_equal(found.tables[slot], table)
        values = np.tile(wide[own & np.isfinite(wide)], 2)
        assert (found.low[slot], found.high[slot]) == (values.min(), values.max())
        assert found.zeros[slot] == (values == 0).sum()
        moments = found.moments[slot]
        if dtype in (torch.bfloat16, torch.float16):
            assert moments.higher is None
        else:
            assert moments.m3_m4[1] == pytest.approx(((values - values.mean()) ** 4).sum())
        assert moments.mean == pytest.approx(values.mean(), rel=1e-13)
        assert moments.m2 == pytest.approx(((values - values.mean()) ** 2).sum(), rel=1e-12)
    sums, finite = found.channels, kept & (slots >= 0)[:, None] & np.isfinite(wide)
    for channel in range(30):
        values = np.tile(wide[finite[:, channel], channel], 2)
        assert sums.count[channel] == values.size
        assert sums.positive[channel] == (values > 0).sum()
        assert sums.mean[channel] == pytest.approx(values.mean(), rel=1e-13)
        assert sums.m2[channel] == pytest.approx(((values - values.mean()) ** 2).sum(), rel=1e-12)
    sizes = np.where(finite, np.abs(wide), -1)[finite.any(axis=1)]
    np.testing.assert_array_equal(sums.top, 2 * np.bincount(sizes.argmax(1), minlength=30))


def test_a_large_mean_costs_no_digits() -> None:
    x = drawn(torch.float32, 10_000.0)
    rows = DeviceRows.of(np.arange(40), np.zeros(40, np.int64), 1, x.device)
    found = count_on_device(x, rows).host()
    values = x.double().numpy()[np.isfinite(x.numpy())]
    spread = ((values - values.mean()) ** 2).sum()
    assert found.moments[0].m2 == pytest.approx(spread, rel=1e-12)
