"""Ranges against raw values that plain NumPy quantized."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from support.brute_quantization import KINDS, as_numpy, brute_keep, brute_levels, values_like

from distviz.stats.number_formats import FORMATS, NumberFormat
from distviz.stats.quantization import RANGES, Sample, fit
from distviz.stats.sketch import Sketch

CASES = [
    (name, range_)
    for name, form in FORMATS.items()
    for range_ in RANGES
    if range_ != "none" or form.is_float
]
DTYPES = [torch.bfloat16, torch.float16]


def brute_scale(x: np.ndarray, name: str, range_: str, percentile: float) -> tuple[float, int]:
    """Scale and zero point by the definition in docs/maths.md, from raw values."""
    if range_ == "none":
        return 1.0, 0
    share = percentile if range_ == "percentile" else 100.0
    if not name.endswith("asym"):
        top = brute_levels(name, 0).max()
        return float(np.percentile(np.abs(x), share)) / top, 0
    low = min(0.0, float(np.percentile(x, (100 - share) / 2)))
    high = max(0.0, float(np.percentile(x, 100 - (100 - share) / 2)))
    last = 2 ** int(name[3]) - 1
    scale = (high - low) / last
    return scale, int(np.clip(np.round(-low / scale), 0, last)) if scale else 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "range_"), CASES)
def test_a_sketch_tells_what_raw_values_would(
    name: str, range_: str, kind: str, dtype: torch.dtype
) -> None:
    x = values_like(kind, dtype)
    values = as_numpy(x)
    sample = Sample.of(Sketch().add(x))
    quantizer = fit(sample, FORMATS[name], range_, 99.0)
    if range_ != "mse":
        scale, zero_point = brute_scale(values, name, range_, 99.0)
        assert quantizer.scale == pytest.approx(scale, rel=1e-13)
        assert quantizer.zero_point == zero_point
    kept = brute_keep(values, name, quantizer.scale, quantizer.zero_point)
    noise, signal = ((values - kept) ** 2).sum(), (values**2).sum()
    found = sample.measure(quantizer)
    assert found.mse == pytest.approx(noise / values.size, rel=1e-12, abs=1e-30 * signal)
    lost = 10 * math.log10(signal / noise) if noise > 1e-30 * signal else math.inf
    assert found.sqnr_db == pytest.approx(lost, rel=1e-12)
    tops = quantizer.lowest, quantizer.highest
    # A value is clipped where it lies beyond an end by more than half a step of the format there.
    grid = brute_levels(name, quantizer.zero_point) * quantizer.scale
    half = (grid[1] - grid[0]) / 2, (grid[-1] - grid[-2]) / 2
    sure = (values < tops[0] - half[0] * (1 + 1e-9)) | (values > tops[1] + half[1] * (1 + 1e-9))
    maybe = (values < tops[0] - half[0] * (1 - 1e-9)) | (values > tops[1] + half[1] * (1 - 1e-9))
    assert sure.mean() <= found.clipped <= maybe.mean()
    assert (np.abs(kept) < 1e-300).mean() == pytest.approx(found.zeros, abs=2e-4)
    assert found.zeroed == pytest.approx(found.zeros - (values == 0).mean(), abs=1e-12)


@pytest.mark.parametrize("name", FORMATS)
def test_where_nothing_needs_to_be_lost(name: str) -> None:
    for values in ([3.0], [-3.0], [-5.0, -5.0], [1.0, 2.0, 3.0], [-1.0, 0.0, 2.0], [1e-38]):
        sample = Sample.of(Sketch().add(torch.tensor(values, dtype=torch.bfloat16)))
        for range_ in ("max", "mse") if len(set(values)) == 1 else ("mse",):
            found = sample.measure(fit(sample, FORMATS[name], range_))
            assert found.sqnr_db == math.inf
            assert found.clipped == 0


@pytest.mark.parametrize(("name", "range_"), CASES)
def test_nothing_and_zeros(name: str, range_: str) -> None:
    for values, count in ([], 0), ([0.0, -0.0, 0.0], 3):
        x = torch.tensor(values, dtype=torch.bfloat16)
        sample = Sample.of(Sketch().add(x))
        found = sample.measure(fit(sample, FORMATS[name], range_))
        assert math.isnan(found.sqnr_db)
        assert math.isnan(found.mse) if not count else found.mse == 0
        assert math.isnan(found.zeros) if not count else found.zeros == 1


@pytest.mark.parametrize("name", [name for name in FORMATS if not FORMATS[name].is_float])
def test_a_percentile_of_zero_keeps_nothing(name: str) -> None:
    x = torch.zeros(10_000, dtype=torch.bfloat16)
    x[0] = 5.0
    sample = Sample.of(Sketch().add(x))
    quantizer = fit(sample, FORMATS[name], "percentile", 99.0)
    found = sample.measure(quantizer)
    assert (quantizer.lowest, quantizer.highest) == (0, 0)
    assert (found.sqnr_db, found.zeros, found.clipped) == (0, 1, 1e-4)
    assert sample.measure(fit(sample, FORMATS[name], "mse")).sqnr_db == math.inf


@pytest.mark.parametrize("name", FORMATS)
def test_the_ends_of_the_grid(name: str) -> None:
    largest = torch.finfo(torch.bfloat16).max
    for values in ([largest, -largest, 1.0], [9.2e-41, -9.2e-41, 2e-38], [largest, 9.2e-41]):
        sample = Sample.of(Sketch().add(torch.tensor(values, dtype=torch.bfloat16)))
        for range_ in ("max", "mse", "percentile"):
            found = sample.measure(fit(sample, FORMATS[name], range_))
            assert found.sqnr_db > 10
            assert math.isfinite(found.mse)


def test_nan_and_infinities_are_left_out() -> None:
    x = values_like("wide")
    with_holes = torch.cat([x, torch.tensor([math.nan, math.inf, -math.inf], dtype=x.dtype)])
    for name, range_ in CASES:
        both = [Sample.of(Sketch().add(part)) for part in (x, with_holes)]
        a, b = (sample.measure(fit(sample, FORMATS[name], range_)) for sample in both)
        assert a == b


# Laws ----------------------------------------------------------------------------------------


def integers(bits: int, *, is_asymmetric: bool) -> NumberFormat:
    count = 2.0 ** (bits if is_asymmetric else bits - 1)
    return NumberFormat(f"int{bits}", np.arange(count), is_asymmetric=is_asymmetric)


def _least(x: Any, form: NumberFormat) -> float:
    sample = Sample.of(Sketch().add(x))
    return sample.measure(fit(sample, form, "mse")).mse


@pytest.mark.parametrize("kind", KINDS)
def test_more_bits_never_lose_more(kind: str) -> None:
    x = values_like(kind)
    energy = float((as_numpy(x) ** 2).mean())
    for is_asymmetric in (False, True):
        found = [_least(x, integers(bits, is_asymmetric=is_asymmetric)) for bits in range(2, 9)]
        assert all(more <= less + 1e-12 * energy for less, more in pairwise(found))
        assert found[-1] < found[0] or kind == "outlier"  # which alone counts, at any width


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [4, 8])
def test_a_zero_point_never_loses_more(kind: str, bits: int) -> None:
    x = values_like(kind)
    energy = float((as_numpy(x) ** 2).mean())
    symmetric, asymmetric = (
        _least(x, integers(bits, is_asymmetric=flag)) for flag in (False, True)
    )
    assert asymmetric <= symmetric + 1e-12 * energy
