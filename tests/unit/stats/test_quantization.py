"""Ranges against raw values quantized by plain NumPy, and the least error against enumeration."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

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


def data(kind: str, dtype: torch.dtype = torch.bfloat16, n: int = 20_000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(11)
    x = torch.randn(n, generator=generator)
    made = {
        "silu": torch.nn.functional.silu(3 * x),
        "relu": torch.relu(x),
        "negative": -torch.exp(x),
        "wide": x * torch.exp(1.5 * torch.randn(n, generator=generator)),
        "shifted": x + 6,
        "outlier": torch.cat([x, torch.tensor([30_000.0])]),
        "tiny": x * 1e-6,
    }[kind]
    return made.to(dtype)


KINDS = ("silu", "relu", "negative", "wide", "shifted", "outlier", "tiny")


def raw(x: torch.Tensor) -> np.ndarray:
    return x.to(torch.float64).numpy()


def brute_levels(name: str, zero_point: int) -> np.ndarray:
    """Every number of a format at scale 1, ascending, from its definition."""
    if name.startswith("fp8"):
        dtype = {"fp8-e4m3": torch.float8_e4m3fn, "fp8-e5m2": torch.float8_e5m2}[name]
        codes = torch.arange(256, dtype=torch.int16).to(torch.uint8).view(dtype)
        values = codes.to(torch.float64).numpy()
        return np.unique(values[np.isfinite(values)])
    bits = int(name[3])
    if name.endswith("asym"):
        return np.arange(2.0**bits) - zero_point
    return np.arange(-(2.0 ** (bits - 1)) + 1, 2.0 ** (bits - 1))


def brute_keep(x: np.ndarray, name: str, scale: float, zero_point: int) -> np.ndarray:
    """Quantize raw values: the nearest number of the list, by distance alone."""
    if scale == 0:
        return np.zeros_like(x)
    grid = brute_levels(name, zero_point) * scale
    above = np.clip(np.searchsorted(grid, x), 1, grid.size - 1)
    low, high = grid[above - 1], grid[above]
    return np.where(np.abs(x - low) <= np.abs(x - high), low, high)


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
    x = data(kind, dtype)
    values = raw(x)
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


# The least error -----------------------------------------------------------------------------


def enumerated(values: np.ndarray, counts: np.ndarray, name: str, zero_point: int) -> float:
    """The least noise over every scale: one parabola between neighbouring changes of assignment."""
    levels = brute_levels(name, zero_point)
    middles = (levels[1:] + levels[:-1]) / 2
    turns = [x / m for x in values for m in middles if m != 0 and x / m > 0]
    changes = np.unique(turns)
    if not changes.size:
        return float((counts * values**2).sum())
    ends = np.concatenate([[changes[0] / 2], changes, [changes[-1] * 2]])
    best = math.inf
    for low, high in pairwise(ends):
        middle = (low + high) / 2
        k = levels[np.abs(values[:, None] / middle - levels).argmin(axis=1)]
        kk = (counts * k * k).sum()
        scale = np.clip((counts * values * k).sum() / kk, low, high) if kk else middle
        best = min(best, float((counts * (values - scale * k) ** 2).sum()))
    return best


@pytest.mark.parametrize("seed", range(16))
@pytest.mark.parametrize("name", FORMATS)
def test_the_least_error_is_the_least(name: str, seed: int) -> None:
    generator = np.random.default_rng(seed)
    size = int(generator.integers(1, 9))
    spread = generator.choice([0.1, 1.0, 3.0])
    x = generator.normal(size=size) * np.exp(spread * generator.normal(size=size))
    x = torch.tensor(x - generator.choice([0.0, 2.0]), dtype=torch.bfloat16)
    values = np.unique(raw(x))
    if seed >= 12:  # where many values stand exactly between two levels at once
        values = np.unique(generator.integers(-30, 31, 10) / 16)
    counts = generator.integers(1, 1000, values.size)
    sample = _sample(values, counts)
    form = FORMATS[name]
    found = sample.measure(fit(sample, form, "mse")).mse * counts.sum()
    last = form.levels.size - 1 if form.is_asymmetric else 0
    zero_points = range(last + 1) if last < 16 else _some(last, generator)
    expected = min(enumerated(values, counts, name, z) for z in zero_points)
    signal = (counts * values**2).sum()
    assert found <= expected + 1e-12 * signal
    if last < 16:
        assert found >= expected - 1e-12 * signal


def _some(last: int, generator: np.random.Generator) -> list[int]:
    return [0, last, *generator.integers(0, last + 1, 8).tolist()]


def _sample(values: np.ndarray, counts: np.ndarray) -> Sample:
    """A sketch of few values that each occur often, filled by its table."""
    sketch = Sketch()
    for value, count in zip(values, counts, strict=True):
        one = Sketch().add(torch.tensor([value], dtype=torch.bfloat16))
        sketch.table += one.table * count
    sketch.grid = "bf16"
    return Sample.of(sketch)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FORMATS)
def test_no_scale_of_a_dense_search_is_better(name: str, kind: str) -> None:
    x = data(kind, n=4000)
    values = raw(x)
    sample = Sample.of(Sketch().add(x))
    form = FORMATS[name]
    best = fit(sample, form, "mse")
    found = sample.measure(best).mse * values.size
    around = range(max(best.zero_point - 2, 0), min(best.zero_point + 3, form.levels.size))
    whole = fit(sample, form, "max")
    zero_points = {*around, whole.zero_point} if form.is_asymmetric else {0}
    coarse = np.geomspace(whole.scale / 40, 2.2 * whole.scale, 80)
    scales = np.concatenate([coarse, best.scale * np.linspace(0.98, 1.02, 41)])
    for zero_point in zero_points:
        for scale in scales:
            kept = brute_keep(values, name, scale, zero_point)
            assert found <= ((values - kept) ** 2).sum() * (1 + 1e-9)


def test_values_between_two_levels_at_the_widest_scale() -> None:
    generator = torch.Generator().manual_seed(33)
    x = torch.randn(3000, generator=generator) * torch.exp(torch.randn(3000, generator=generator))
    x = x.clamp(-31, 31)
    x[0] = 126.0  # twice this over 448 is 9/16: a scale at which many bf16 values are ties
    x = x.to(torch.bfloat16)
    sample, form = Sample.of(Sketch().add(x)), FORMATS["fp8-e4m3"]
    found = sample.measure(fit(sample, form, "mse")).mse
    whole = fit(sample, form, "max").scale
    for scale in np.geomspace(whole / 2, 2 * whole, 1500):
        kept = brute_keep(raw(x), "fp8-e4m3", scale, 0)
        assert found <= ((raw(x) - kept) ** 2).mean() * (1 + 1e-9)


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
    x = data("wide")
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
    x = data(kind)
    energy = float((raw(x) ** 2).mean())
    for is_asymmetric in (False, True):
        found = [_least(x, integers(bits, is_asymmetric=is_asymmetric)) for bits in range(2, 9)]
        assert all(more <= less + 1e-12 * energy for less, more in pairwise(found))
        assert found[-1] < found[0] or kind == "outlier"  # which alone counts, at any width


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [4, 8])
def test_a_zero_point_never_loses_more(kind: str, bits: int) -> None:
    x = data(kind)
    energy = float((raw(x) ** 2).mean())
    symmetric, asymmetric = (
        _least(x, integers(bits, is_asymmetric=flag)) for flag in (False, True)
    )
    assert asymmetric <= symmetric + 1e-12 * energy
