"""Order statistics equal those of the sorted values, for every way of computing them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distviz.arm.order_statistics import rank_values
from distviz.stats import kernels

LARGE = (300, 128)
SMALL = (9, 40)


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("shape", [SMALL, LARGE])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_equal_to_the_sorted_values(
    dtype: torch.dtype, shape: tuple[int, int], on_device: bool
) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(3)).to(dtype)
    values[2, 5], values[4, 7], values[0, :4] = torch.nan, torch.inf, 0.25
    rows = np.arange(1, shape[0])
    exact = values[1:].double().flatten()
    exact = exact[torch.isfinite(exact)].numpy()
    ordered, magnitudes = np.sort(exact), np.sort(np.abs(exact))

    def check() -> None:
        ranks = rank_values(values, rows)
        assert ranks.n == exact.size
        middle = (ranks.n - 1) // 2
        ranks.prefetch(0.13, (0.02, 0.25), (middle, ranks.n - 1))
        for rank in (0, middle, ranks.n - 1):
            assert ranks.value(rank) == ordered[rank]
            assert ranks.magnitude(rank) == magnitudes[rank]
        center = ranks.magnitude(middle)
        assert ranks.distance(middle, center) == np.sort(np.abs(magnitudes - center))[middle]
        assert ranks.count_below(0.25) == (magnitudes < 0.25).sum()
        assert ranks.count_equal(center) == (magnitudes == center).sum()

    if on_device:
        with kernels.force_torch():
            check()
    else:
        check()
