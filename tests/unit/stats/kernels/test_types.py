"""Sums of channels and their merging, against NumPy on the values themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest

from distviz.stats.kernels.types import ChannelSums


def values_of(rows: int) -> np.ndarray:
    x = np.random.default_rng(rows).normal(3, 2, (rows, 6))
    x[:, 4] = np.nan
    x[:, 5] = np.round(x[:, 5])
    if rows > 3:
        x[1, 0], x[2, 1], x[3, 2] = np.nan, np.inf, -np.inf
    return x


def assert_describes(sums: ChannelSums, x: np.ndarray) -> None:
    for column in range(x.shape[1]):
        finite = x[np.isfinite(x[:, column]), column]
        assert sums.count[column] == finite.size
        if not finite.size:
            assert (sums.low[column], sums.high[column]) == (math.inf, -math.inf)
            assert sums.m2[column] == 0
            continue
        assert sums.mean[column] == pytest.approx(finite.mean(), rel=1e-12)
        assert sums.m2[column] == pytest.approx(finite.var() * finite.size, rel=1e-12, abs=1e-20)
        assert (sums.low[column], sums.high[column]) == (finite.min(), finite.max())
        assert sums.zeros[column] == (finite == 0).sum()
        assert sums.positive[column] == (finite > 0).sum()
        assert sums.higher is not None
        deviations = finite - finite.mean()
        expected = [(deviations**3).sum(), (deviations**4).sum(), np.abs(finite).sum()]
        np.testing.assert_allclose(sums.higher[:, column], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rows", [0, 1, 5, 400])
def test_channels_of_values(rows: int) -> None:
    x = values_of(rows)
    sums = ChannelSums.from_values(x)
    assert_describes(sums, x)
    pooled, finite = sums.pooled().moments, x[np.isfinite(x)]
    assert pooled.count == finite.size
    if finite.size:
        assert pooled.mean == pytest.approx(finite.mean(), rel=1e-12)
        assert pooled.m2 == pytest.approx(finite.var() * finite.size, rel=1e-12)
        deviations = finite - finite.mean()
        expected = [(deviations**3).sum(), (deviations**4).sum()]
        assert pooled.m3_m4 == pytest.approx(expected, rel=1e-11, abs=1e-9)
        assert pooled.l1 == pytest.approx(np.abs(finite).sum(), rel=1e-13)


def test_adding_is_concatenating() -> None:
    parts = [values_of(rows) for rows in (0, 1, 30, 7)]
    total = ChannelSums.from_values(parts[0])
    for part in parts[1:]:
        total = total + ChannelSums.from_values(part)
    assert_describes(total, np.concatenate(parts))
