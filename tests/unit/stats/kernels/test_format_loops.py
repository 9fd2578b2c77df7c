"""The pieces of the loops of granular formats."""

from __future__ import annotations

import numpy as np
import torch

from distviz.stats.kernels import format_loops


def test_codes_are_those_of_torch_and_stay_finite() -> None:
    x = torch.exp(20 * torch.randn(5000, generator=torch.Generator().manual_seed(1))).float()
    x[0], x[1] = torch.finfo(torch.float32).max, 0
    table = np.zeros(format_loops.CODES, np.int64)
    format_loops.count_codes(x.numpy(), table)
    codes = x.to(torch.bfloat16).view(torch.int16).clamp(max=0x7F7F).numpy()
    np.testing.assert_array_equal(table, np.bincount(codes, minlength=format_loops.CODES))


def test_rounding_is_not_reordered_inside_the_sums() -> None:
    # 1 / scale times value is below a tie, value / scale above it.
    value, largest, top = np.float32(1.6640625), np.float32(3.328125), np.float32(127)
    scale = largest / top
    assert np.rint(value * (np.float32(1) / scale)) != np.rint(value / scale)
    kept = np.rint(value * (np.float32(1) / scale)) * scale
    values, channels, unused = np.full(32, value), np.full(32, largest), np.uint32(0)
    sums = [
        format_loops._lose_by_channel(values, channels, top)[0],
        format_loops._lose_integers(values, np.full(2, scale), top, unused, unused)[0],
    ]
    np.testing.assert_allclose(sums, 32 * (float(value) - float(kept)) ** 2, rtol=1e-14)
