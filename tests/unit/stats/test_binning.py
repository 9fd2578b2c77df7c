"""Bins: every value in one, no comb where values of the grid are missing, spikes stay spikes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

import distviz
from distviz.stats.binning import LINEAR, ValueScale, bin_edges, mass_ends
from distviz.stats.sketch import Sketch
from distviz.stats.statistics import histogram

_N = 400_000
_SCALES = [LINEAR, ValueScale(0.3)]


def _normal(seed: int, spread: float = 1.3, mean: float = -0.3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(_N, generator=generator) * spread + mean


def _smooth() -> Iterator[tuple[str, torch.Tensor]]:
    """Data whose density is smooth, on grids with missing or irregular values."""
    x = _normal(1)
    step = x.abs().max() / 127
    yield "bf16", x.bfloat16()
    yield "fp16", x.half()
    yield "gelu", functional.gelu(x.bfloat16(), approximate="tanh")
    yield "silu", functional.silu(2 * x.bfloat16())
    yield "product", functional.silu(x.bfloat16()) * _normal(2).bfloat16()
    yield "int8", torch.round(x / step) * step
    yield "int8 rounded twice", ((torch.round(x / step) * step).bfloat16() * 0.37).bfloat16()
    yield "fp8", (x.to(torch.float8_e4m3fn).float() * 0.8).bfloat16()


SMOOTH = dict(_smooth())


def _heights(values: Any, scale: ValueScale) -> tuple[np.ndarray, np.ndarray]:
    sketch = Sketch().add(values)
    left, right = mass_ends([sketch])
    spare = 0.02 * (right - left)
    window = (left - spare, right + spare)
    edges = bin_edges([sketch], window=window, scale=scale)
    first, last = np.searchsorted(edges, window)
    widths = np.diff(scale.forward(edges))
    return (histogram(sketch, edges) / widths)[first:last], edges[first : last + 1]


def _roughness(heights: np.ndarray) -> float:
    """Return the 75th percentile of the relative second difference, away from the ends."""
    beside = (heights[:-2] + heights[2:]) / 2
    level = (heights[1:-1] + beside) / 2
    change = np.abs(heights[1:-1] - beside) / np.maximum(level, 1e-300)
    return float(np.quantile(change[level > 0.05 * heights.mean()], 0.75))


def _equal_bins(values: torch.Tensor, bins: int = 215) -> np.ndarray:
    raw = values.double().numpy()
    low, high = np.quantile(raw, [0.0025, 0.9975])
    return np.histogram(raw, np.linspace(low, high, bins + 1))[0].astype(float)


@pytest.mark.parametrize("scale", _SCALES, ids=["linear", "symlog"])
@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_densities_have_no_comb(name: str, scale: ValueScale) -> None:
    heights, _ = _heights(SMOOTH[name], scale)
    assert _roughness(heights) < 0.1


@pytest.mark.parametrize("act", [functional.silu, functional.gelu])
@pytest.mark.parametrize("mean", [-0.3, 0.2, 0.5])
@pytest.mark.parametrize("spread", [0.8, 1.0, 1.3, 1.6])
def test_no_bin_is_empty_where_arm_fills_missing_values(
    act: Any, mean: float, spread: float
) -> None:
    """ARM moves values to numbers that the activation function never returns."""
    before = act(_normal(1, spread, mean).bfloat16()).reshape(-1, 100)
    after = distviz.ARM(c=0.13, p1=99.5)(before[None])[0]
    has_moved = before != after
    parts = [before, after, before[has_moved][:, None], after[has_moved][:, None]]
    sketches = [Sketch().add(part) for part in parts]
    window = mass_ends(sketches[:2])
    edges = bin_edges(sketches, window=window)
    first, last = np.searchsorted(edges, window)
    heights = (histogram(sketches[0], edges) / np.diff(edges))[first:last]
    level = np.minimum(heights[:-2], heights[2:])
    known = level > 0.02 * heights.mean()
    assert (heights[1:-1][known] > 0.4 * level[known]).all()


@pytest.mark.parametrize("name", ["gelu", "silu", "int8", "int8 rounded twice", "fp8"])
def test_bins_of_equal_width_have_a_comb_there(name: str) -> None:
    assert _roughness(_equal_bins(SMOOTH[name])) > 0.12


@pytest.mark.parametrize("scale", _SCALES, ids=["linear", "symlog"])
@pytest.mark.parametrize("name", SMOOTH)
def test_every_value_is_in_one_bin_as_numpy_counts(name: str, scale: ValueScale) -> None:
    values = SMOOTH[name][:20_000]
    raw = values.double().numpy()
    if values.dtype == torch.float32:
        raw = values.bfloat16().double().numpy()
    sketch = Sketch().add(values)
    for window in (None, (-0.4, 1.0), (-7.0, 9.0)):
        edges = bin_edges([sketch], window=window, scale=scale)
        assert (np.diff(edges) > 0).all()
        counts = histogram(sketch, edges)
        np.testing.assert_array_equal(counts, np.histogram(raw, edges)[0])
        assert counts.sum() == raw.size
        if window is not None:
            assert set(window) <= set(edges.tolist())


def test_one_sided_values_have_their_bins_where_they_are() -> None:
    heights, edges = _heights(_normal(3).bfloat16().relu(), LINEAR)
    assert 128 <= heights.size <= 256
    assert (edges[:-1] >= 0).mean() > 0.9


def test_exact_values_stay_spikes_of_one_bin() -> None:
    values = _normal(4).bfloat16()
    values[:40_000] = 0.0
    values[40_000:60_000] = 2.5
    heights, edges = _heights(values, LINEAR)
    for spike in (0.0, 2.5):
        where = int(np.searchsorted(edges, spike, side="right")) - 1
        assert heights[where] > 3 * max(heights[where - 1], heights[where + 1])
        assert edges[where + 1] - edges[where] < 0.02 * (edges[-1] - edges[0])


def test_nothing_is_drawn_between_values_that_stand_apart() -> None:
    values = np.concatenate([np.zeros(100), _normal(5, 0.1, 3.0).numpy()]).astype(np.float32)
    heights, edges = _heights(values, LINEAR)
    between = (edges[:-1] > 0.1) & (edges[1:] < 2.4)
    assert between.sum() > 50
    assert not heights[between].any()


def test_few_values_have_a_bin_each() -> None:
    values = torch.arange(-8, 8).repeat(100) * 0.36
    heights, edges = _heights(values, LINEAR)
    assert np.count_nonzero(heights) == 16
    assert np.ptp(heights[1:-1]) < 0.1 * heights.max()
    assert edges.size < 24


@pytest.mark.parametrize("values", [[], [np.nan], [0.0], [3.7], [1e-40], [-3e38, 3e38], [1, 2]])
@pytest.mark.parametrize("scale", _SCALES, ids=["linear", "symlog"])
def test_degenerate_sketches(values: list[float], scale: ValueScale) -> None:
    sketch = Sketch().add(np.array(values, np.float32))
    edges = bin_edges([sketch], scale=scale)
    assert (np.diff(edges) > 0).all()
    assert histogram(sketch, edges).sum() == sketch.count


def test_a_coarse_and_a_fine_grid_share_bins_that_suit_both() -> None:
    fine = Sketch().add(_normal(6))
    step = 0.05
    coarse = Sketch().add(torch.round(_normal(7) / step) * step)
    window = (-2.5, 2.0)
    edges = bin_edges([fine, coarse], window=window)
    first, last = np.searchsorted(edges, window)
    # The edges stand at the coarse grid, whose irregular ones cost the fine grid a little.
    for sketch, most in ((fine, 0.15), (coarse, 0.1)):
        heights = (histogram(sketch, edges) / np.diff(edges))[first:last]
        assert _roughness(heights) < most


def test_the_scale_and_its_inverse() -> None:
    values = np.array([-3e38, -5.0, -1e-6, 0.0, 1e-6, 0.3, 5.0, 3e38])
    for scale in _SCALES:
        np.testing.assert_allclose(scale.inverse(scale.forward(values)), values, rtol=1e-9)
    np.testing.assert_allclose(ValueScale(2.0).forward(6.0), np.log(4.0))
