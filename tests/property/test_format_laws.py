"""Laws of number formats and of sparsity, on any data."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from distviz.stats.number_formats import FORMATS, LOSSLESS_DB
from distviz.stats.pruning import threshold_for
from distviz.stats.quantization import Sample, fit
from distviz.stats.sketch import Sketch

bounded = settings(max_examples=60, deadline=None)
formats = some.sampled_from(list(FORMATS.values()))
numbers = some.floats(-300, 300, width=16) | some.sampled_from(
    [0.0, -0.0, 1e-3, 1.0, 1.5, -2.0, 3e4, -6e4, 6e-8]
)
lists = some.lists(numbers, min_size=1, max_size=30)


def sample_of(values: list[float] | np.ndarray, dtype: torch.dtype = torch.float16) -> Sample:
    return Sample.of(Sketch().add(torch.tensor(np.asarray(values)).to(dtype)))


def _energy(sample: Sample) -> float:
    values, counts = sample.magnitude_pairs
    return float((values**2 * counts).sum())


@bounded
@given(lists, formats, some.floats(50, 100))
def test_the_least_error_is_never_above_another_range(
    values: list[float], form: object, percentile: float
) -> None:
    sample = sample_of(values)
    least = sample.measure(fit(sample, form, "mse")).mse
    slack = 1e-12 * _energy(sample) / len(values)
    for range_ in ("max", "percentile", *["none"] * form.is_float):
        assert least <= sample.measure(fit(sample, form, range_, percentile)).mse + slack


@bounded
@given(lists, formats, some.sampled_from(["max", "percentile", "mse"]), some.integers(-6, 6))
def test_units_do_not_matter(values: list[float], form: object, range_: str, power: int) -> None:
    """A power of two in the values is a power of two in the scale, and nothing else."""
    x = np.array(values)
    x = x[(np.abs(x) < 900) & ((np.abs(x) > 1e-2) | (x == 0))]
    if not x.size:
        return
    once, scaled = (sample_of(y, torch.bfloat16) for y in (x, x * 2.0**power))
    a, b = (sample.measure(fit(sample, form, range_, 90.0)) for sample in (once, scaled))
    assert math.isnan(a.sqnr_db) == math.isnan(b.sqnr_db)
    if not math.isnan(a.sqnr_db):
        assert min(a.sqnr_db, LOSSLESS_DB) == min(b.sqnr_db, LOSSLESS_DB) or abs(
            a.sqnr_db - b.sqnr_db
        ) < 1e-6 * abs(a.sqnr_db)
    if range_ != "mse":  # equally good scales may clip and zero different values
        assert (a.clipped, a.zeros, a.zeroed) == (b.clipped, b.zeros, b.zeroed)


@bounded
@given(lists, formats, some.sampled_from(["max", "percentile", "mse"]), some.integers(1, 5))
def test_only_shares_matter(values: list[float], form: object, range_: str, times: int) -> None:
    """Data repeated are quantized as data once, but for interpolated percentiles."""
    if range_ == "percentile":
        return
    a, b = (sample_of(values * n) for n in (1, times))
    first, second = (sample.measure(fit(sample, form, range_)) for sample in (a, b))
    np.testing.assert_allclose(
        first.mse, second.mse, rtol=1e-9, atol=1e-12 * _energy(a) / len(values)
    )


@bounded
@given(lists, some.integers(1, 100), some.integers(1, 100))
def test_thresholds_are_order_statistics(values: list[float], first: int, second: int) -> None:
    x = torch.tensor(values).to(torch.float16)
    a = np.sort(np.abs(x.to(torch.float64).numpy()))
    sample = Sample.of(Sketch().add(x))
    kept = []
    for percent in sorted((first, second)):
        threshold = threshold_for(*sample.magnitude_pairs, Fraction(percent, 100))
        needed = -(-percent * a.size // 100)
        assert threshold == a[needed - 1]
        assert (a <= threshold).sum() * 100 >= percent * a.size
        assert (a < threshold).sum() * 100 < percent * a.size
        found = sample.prune(threshold)
        assert found.zeros == (a <= threshold).sum() / a.size
        assert found.zeroed == ((a <= threshold) & (a > 0)).sum() / a.size
        if a.any():
            left = a[a > threshold]
            np.testing.assert_allclose(found.l1_kept, left.sum() / a.sum(), rtol=1e-12)
            np.testing.assert_allclose(found.l2_kept, (left**2).sum() / (a**2).sum(), rtol=1e-12)
            # the largest values carry at least their share, of squares more than of values
            assert found.l2_kept >= found.l1_kept - 1e-12
            assert found.l1_kept >= 1 - found.zeros - 1e-12
        else:
            assert math.isnan(found.l1_kept)
        kept.append(found.l2_kept)
    assert kept[0] >= kept[1] or math.isnan(kept[0])
