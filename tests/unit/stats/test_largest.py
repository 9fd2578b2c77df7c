"""The largest values of a distribution, against the sorted values themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from distviz.stats.quantization import Sample
from distviz.stats.sketch import Sketch


def sample_of(values: np.ndarray) -> tuple[Sample, np.ndarray]:
    tensor = torch.from_numpy(values).to(torch.bfloat16)
    return Sample.of(Sketch().add(tensor)), tensor.to(torch.float64).numpy().ravel()


@pytest.mark.parametrize("count", [1, 2, 9_999, 10_000, 10_001, 54_321])
def test_one_in_ten_thousand_rounded_up_is_largest(count: int) -> None:
    values = np.random.default_rng(count).standard_cauchy(count)
    sample, x = sample_of(values)
    largest = math.ceil(count / 10_000)
    squares = np.sort(x**2)
    top, one = sample.energy_shares
    assert top == pytest.approx(squares[-largest:].sum() / squares.sum(), rel=1e-12)
    assert one == pytest.approx(squares[-1] / squares.sum(), rel=1e-12)
    _, counts = sample.magnitude_pairs
    assert (sample.left * counts).sum() == pytest.approx(count - largest, rel=1e-12)


def test_equal_magnitudes_of_both_signs_leave_in_equal_shares() -> None:
    values = np.array([3.0] * 30 + [-3.0] * 10 + [7.0] + [1.0] * 49_959)
    sample, x = sample_of(values)
    assert x.size == 50_000  # so the largest five: 7, and four of the forty that are 3 or -3
    assert sample.left.tolist() == [1.0, 0.9, 0.0]
    assert dict(zip(sample.pairs[0], sample.left_signed, strict=True)) == {
        -3.0: 0.9, 1.0: 1.0, 3.0: 0.9, 7.0: 0.0,
    }  # fmt: skip
    energy = 49 + 40 * 9 + 49_959
    assert sample.energy_shares == pytest.approx(((49 + 4 * 9) / energy, 49 / energy), rel=1e-12)


def test_nothing_has_no_shares() -> None:
    for values in (np.zeros(0), np.zeros(9)):
        assert all(math.isnan(share) for share in sample_of(values)[0].energy_shares)
