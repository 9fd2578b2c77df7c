"""The scale of least error against enumeration and a dense search."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from support.brute_quantization import KINDS, as_numpy, brute_keep, brute_levels, values_like

from distviz.stats.number_formats import FORMATS
from distviz.stats.quantization import Sample, fit
from distviz.stats.sketch import Sketch

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
    values = np.unique(as_numpy(x))
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
    x = values_like(kind, n=4000)
    values = as_numpy(x)
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
        kept = brute_keep(as_numpy(x), "fp8-e4m3", scale, 0)
        assert found <= ((as_numpy(x) - kept) ** 2).mean() * (1 + 1e-9)
