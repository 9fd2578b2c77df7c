"""Thresholds and what they keep, on cases worked out by hand."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from distviz.stats.pruning import Pruned, exact_threshold, threshold_for
from distviz.stats.quantization import Sample
from distviz.stats.sketch import Sketch

ROW = [0.0, -0.0, 1.0, -1.0, 1.0, 2.0, -3.0, 4.0, 0.0, 5.0]


def sample(values: list[float]) -> Sample:
    return Sample.of(Sketch().add(torch.tensor(values, dtype=torch.bfloat16)))


def prune(values: list[float], threshold: float) -> Pruned:
    return sample(values).prune(threshold)


def pairs(values: list[float]) -> tuple[np.ndarray, np.ndarray]:
    return sample(values).magnitude_pairs


@pytest.mark.parametrize(
    ("percent", "threshold", "zeros"),
    [
        ("10", 0.0, 0.3),  # three are zero already
        ("30", 0.0, 0.3),  # exactly reached
        ("30.0001", 1.0, 0.6),  # equal magnitudes go together
        ("60", 1.0, 0.6),
        ("70", 2.0, 0.7),  # 0.7 * 10 is above 7 in floating point
        ("99", 5.0, 1.0),
        ("100", 5.0, 1.0),
    ],
)
def test_the_smallest_threshold_that_reaches_a_share(
    percent: str, threshold: float, zeros: float
) -> None:
    found = threshold_for(*pairs(ROW), Fraction(percent) / 100)
    assert found == threshold
    assert prune(ROW, found).zeros == zeros


def test_what_is_kept() -> None:
    found = prune(ROW, 2.5)
    assert (found.zeros, found.zeroed) == (0.7, 0.4)
    assert found.l1_kept == pytest.approx(12 / 17, rel=1e-15)
    assert found.l2_kept == pytest.approx(50 / 57, rel=1e-15)
    assert found.l2_kept_rest == pytest.approx(25 / 32, rel=1e-15)


def test_a_threshold_takes_what_equals_it() -> None:
    assert prune(ROW, 1.0).zeros == 0.6
    assert prune(ROW, np.nextafter(1.0, 0)).zeros == 0.3
    assert prune(ROW, 0.0).zeroed == 0


def test_nothing_and_zeros() -> None:
    assert math.isnan(threshold_for(*pairs([]), Fraction(1, 2)))
    assert math.isnan(prune([], 0.5).zeros)
    all_zero = prune([0.0, -0.0], threshold_for(*pairs([0.0, -0.0]), Fraction(1, 2)))
    assert (all_zero.threshold, all_zero.zeros, all_zero.zeroed) == (0, 1, 0)
    assert math.isnan(all_zero.l2_kept)
    assert math.isnan(all_zero.l2_kept_rest)


def test_large_counts_stay_exact() -> None:
    counts = np.array([2**53, 1, 2**53], np.int64)
    magnitudes = np.array([1.0, 2.0, 3.0])
    half = Fraction(2**53 + 1, 2**54 + 1)
    assert threshold_for(magnitudes, counts, half) == 2.0
    assert threshold_for(magnitudes, counts, half - Fraction(1, 2**60)) == 2.0
    assert threshold_for(magnitudes, counts, Fraction(2**53, 2**54 + 1)) == 1.0


def test_the_exact_threshold_is_the_largest_that_rounds_to_it() -> None:
    values = [2.0**-133, 3e-39, 1e-30, 0.1, 1.0, 1.0078125, 2.0, 1e30]
    for value in torch.tensor(values, dtype=torch.float32).bfloat16().tolist():
        limit = exact_threshold(value)
        above = np.nextafter(np.float32(limit), np.float32(np.inf))
        rounded = torch.tensor([limit, above], dtype=torch.float32).bfloat16().tolist()
        assert rounded[0] == value < rounded[1]
    assert exact_threshold(0.0) == 0.0
