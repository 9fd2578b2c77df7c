"""What rows lose in granular formats, against plain loops in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.brute_formats import BRUTE_FORMATS, brute_restore

from distviz.stats.granular_formats import GRANULAR_FORMATS
from distviz.stats.kernels.formats import FormatWindows, quantization_sums

FORMATS = [GRANULAR_FORMATS[name] for name in BRUTE_FORMATS]
WINDOWS = np.array([2] * 5 + [-1] * 2 + [0] * 9)
COUNTED = np.array([True, False, True, True] * 4)


def values_of(dtype: torch.dtype, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(width)
    x, spread = torch.randn(2, len(WINDOWS), width, generator=generator)
    x = x * torch.exp(2 * spread)
    x[0], x[2, : width // 2] = 0, 1e-7
    x[3, width // 2], x[9, 0], x[8, -1] = float("nan"), float("inf"), -float("inf")
    return x.to(dtype)


def codes_of(maxima: list[float]) -> np.ndarray:
    codes = torch.tensor(maxima, dtype=torch.float32).to(torch.bfloat16).view(torch.int16)
    return np.bincount(codes.numpy(), minlength=1 << 15)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("width", [1, 16, 40, 145, 257])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sums_are_those_of_plain_loops(dtype: torch.dtype, width: int, compiled: bool) -> None:
    given = values_of(dtype, width)
    x = given.float().numpy()
    finite = np.isfinite(x)
    rows = np.concatenate([np.flatnonzero(COUNTED & (window == WINDOWS)) for window in (0, 2)])
    windows = FormatWindows.of(WINDOWS, COUNTED)
    assert windows.rows[windows.counted].tolist() == rows.tolist()
    assert windows.owners[windows.counted].tolist() == [0] * 7 + [1] * 4
    found = quantization_sums(given, windows, FORMATS, compiled=compiled)
    assert found.count == finite[rows].sum()
    wide = np.where(finite, x.astype(np.float64), 0)
    np.testing.assert_allclose(found.sums[0], (wide**2).sum(1)[rows], rtol=1e-14)
    for number, of in enumerate(FORMATS):
        brute = brute_restore(x, of.name, WINDOWS)
        error = wide - np.where(finite, brute.values.astype(np.float64), 0)
        np.testing.assert_allclose(found.sums[1 + number], (error**2).sum(1)[rows], rtol=1e-13)
        zeroed = (brute.values == 0) & (wide != 0)
        assert found.losses[number].tolist() == [zeroed[rows].sum(), brute.clipped[rows].sum()]


@pytest.mark.parametrize("compiled", [True, False])
def test_largest_magnitudes_are_counted_by_unit(compiled: bool) -> None:
    given = values_of(torch.float32, 145)
    everything = np.ones(len(WINDOWS), bool)
    windows = FormatWindows.of(WINDOWS, everything)
    found = quantization_sums(given, windows, FORMATS, compiled=compiled)
    for number, of in enumerate(FORMATS):
        expected = codes_of(brute_restore(given.numpy(), of.name, WINDOWS).maxima)
        np.testing.assert_array_equal(found.maxima[number], expected)


def test_threads_change_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(512, 256, generator=generator).bfloat16()
    windows = FormatWindows.of(np.repeat(np.arange(3), [200, 212, 100]), np.ones(512, bool))
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(quantization_sums(x, windows, FORMATS))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        np.testing.assert_array_equal(other.sums, results[0].sums)
        np.testing.assert_array_equal(other.losses, results[0].losses)
        np.testing.assert_array_equal(other.maxima, results[0].maxima)


@pytest.mark.parametrize("compiled", [True, False])
def test_nothing_to_count(compiled: bool) -> None:
    for numbers in (np.full(3, -1), np.zeros(3, np.int64)):
        windows = FormatWindows.of(numbers, np.zeros(3, bool))
        found = quantization_sums(torch.ones(3, 20), windows, FORMATS, compiled=compiled)
        assert found.sums.shape == (1 + len(FORMATS), 0)
        assert (found.count, found.losses.sum(), found.maxima.sum()) == (0, 0, 0)
