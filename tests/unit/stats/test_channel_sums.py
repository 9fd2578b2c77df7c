"""Totals of channels: exact, whatever the order, against Python's own whole numbers."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from distviz.stats import serialize as packing
from distviz.stats.channel_sums import ChannelTotals, ExactSums
from distviz.stats.kernels import ChannelSums

CHANNELS = 9


def terms_of(seed: int, number: int) -> np.ndarray:
    """Terms of all sizes and signs, zeros and numbers of one bit among them."""
    luck = np.random.default_rng(seed)
    sizes = np.ldexp(luck.standard_normal((number, CHANNELS)), luck.integers(-300, 300, CHANNELS))
    sizes[luck.random(sizes.shape) < 0.2] = 0.0
    sizes[0] = [2.0**-1074, -(2.0**1000), 1.0, -1.0, 2.0**-32, 2.0**31, -(2.0**32), 0.0, 3.0**33]
    return sizes


@pytest.mark.parametrize("seed", range(6))
def test_sums_are_those_of_whole_numbers(seed: int) -> None:
    terms = terms_of(seed, 40)
    sums = ExactSums.empty(CHANNELS)
    cuts = sorted(random.Random(seed).sample(range(1, 40), 5))
    for part in np.split(terms, cuts):
        sums.add(part)
    for column in range(CHANNELS):
        exact = sum(map(Fraction, terms[:, column].tolist()), Fraction(0))
        found = sum(
            (Fraction(int(digit)) * Fraction(2) ** (32 * (sums.lowest + row))
             for row, digit in enumerate(sums.rows[:, column])),
            Fraction(0),
        )  # fmt: skip
        assert found == exact
        total, rest = (float(half[column]) for half in sums.pair())
        assert total == pytest.approx(float(exact), rel=2**-53)
        if exact:
            assert abs((Fraction(total) + Fraction(rest) - exact) / exact) < 2**-90


def test_what_cancels_leaves_the_rest() -> None:
    sums = ExactSums.empty(2)
    for term in (1e300, 3.0, -1e300, 2.0**-70, -3.0):
        sums.add(np.array([[term, -term]]))
    total, rest = sums.pair()
    assert total.tolist() == [2.0**-70, -(2.0**-70)]
    assert rest.tolist() == [0.0, 0.0]


def values_of(seed: int, rows: int, dtype: type) -> np.ndarray:
    luck = np.random.default_rng(seed)
    scale = 10.0 ** np.arange(-4, CHANNELS - 4)
    shift = np.array([0, 0, 0, 0, 1e3, 1e7, -1e9, 5, 5])
    values = (luck.standard_normal((rows, CHANNELS)) * scale + shift).astype(dtype)
    values[:, 7] = 1 / 3  # a channel that never changes
    values[luck.random(rows) < 0.1, 2] = np.nan
    values[:, 8] = np.inf
    return values.astype(np.float64)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_mean_and_spread_of_channels(dtype: type) -> None:
    with np.errstate(over="ignore"):
        batches = [values_of(seed, 5 + 31 * seed, dtype) for seed in range(6)]
    totals = ChannelTotals.empty(CHANNELS, details=True)
    for batch in batches:
        top = np.zeros(CHANNELS, np.int64)
        totals.add(replace(ChannelSums.from_values(batch), top=top))
    mean, m2, m3, m4 = totals.moments()
    kurtosis = totals.columns()["kurtosis"]
    for column in range(CHANNELS):
        every = np.concatenate([batch[:, column] for batch in batches])
        kept = [Fraction(value) for value in every[np.isfinite(every)].tolist()]
        assert totals.count[column] == len(kept)
        if not kept:
            assert (mean[column], m2[column]) == (0, 0)
            continue
        center = sum(kept) / len(kept)
        spread = float(sum((value - center) ** 2 for value in kept))
        assert mean[column] == pytest.approx(float(center), rel=1e-14)
        third, fourth = (float(sum((v - center) ** power for v in kept)) for power in (3, 4))
        # 106 bits hold sums of powers of the values; a large mean takes its part of them.
        lost = 2.0**-97 * float(center**4) / max(spread / len(kept), 1e-30) ** 2
        assert m2[column] == pytest.approx(spread, rel=1e-9)
        assert m3[column] == pytest.approx(third, rel=1e-11, abs=1e-11 * spread**1.5)
        assert m4[column] == pytest.approx(fourth, rel=1e-11 + lost)
        if spread:
            expected = len(kept) * fourth / spread**2 - 3
            assert kurtosis[column] + 3 == pytest.approx(expected + 3, rel=1e-10 + lost)
        assert totals.counts[1, column] == kept.count(0)
        assert totals.counts[2, column] == sum(value > 0 for value in kept)
        assert (totals.low[column], totals.high[column]) == (min(kept), max(kept))
    assert (m2[7], m3[7], m4[7]) == (0, 0, 0)
    assert math.isnan(kurtosis[7])


def test_any_grouping_in_any_order_is_the_same_to_the_bit() -> None:
    luck = np.random.default_rng(3)
    seen = [
        replace(
            ChannelSums.from_values(values_of(seed, 20, np.float32)),
            top=luck.integers(0, 20, CHANNELS),
        )
        for seed in range(12)
    ]
    whole = ChannelTotals.empty(CHANNELS, details=True)
    for one in seen:
        whole.add(one)
    for seed in range(5):
        luck = random.Random(seed)
        luck.shuffle(seen)
        parts = [ChannelTotals.empty(CHANNELS, details=True) for _ in range(4)]
        for one in seen:
            luck.choice(parts).add(one)
        kept = [ChannelTotals.from_state(packing.decode(packing.encode(p.state()))) for p in parts]
        total = kept[0] + kept[1] + (kept[2] + kept[3])
        for found, expected in zip(total.moments(), whole.moments(), strict=True):
            np.testing.assert_array_equal(found, expected)
        for name in ("counts", "low", "high", "is_lost"):
            np.testing.assert_array_equal(getattr(total, name), getattr(whole, name))


def test_what_is_beyond_float64_is_told() -> None:
    totals = ChannelTotals.empty(2)
    extremes = np.array([-1e200, 1.0]), np.array([1e200, 3.0])
    signs = (np.array([2, 2]), np.array([0, 0]), np.array([1, 2]))
    totals.add(ChannelSums(*signs, np.array([0, 2.0]), np.array([np.inf, 2]), *extremes))
    mean, m2 = totals.moments()
    assert math.isnan(mean[0])
    assert math.isinf(m2[0])
    assert (mean[1], m2[1]) == (2.0, 2.0)
