"""A sketch of hand-made values; its laws on any data are in tests/property."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from distviz.stats.sketch import Sketch, UnchangedSketch, interpolate_quantiles


def test_values_are_counted_by_hand() -> None:
    sketch = Sketch().add(torch.tensor([[1.0, -2.0, 1.0, 0.0], [-0.0, math.nan, math.inf, 1e-45]]))
    values, counts = sketch.pairs()
    kept = dict.fromkeys(values.tolist(), 0)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        kept[value] += count
    assert kept == {-2.0: 1, 0.0: 3, 1.0: 2}
    assert (sketch.nan, sketch.inf, sketch.zeros) == (1, 1, 2)
    assert (sketch.min, sketch.max) == (-2.0, 1.0)


@pytest.mark.parametrize("n", [1, 2, 7, 100])
def test_quantiles_are_those_of_numpy(n: int) -> None:
    generator = np.random.default_rng(n)
    values = np.unique(np.round(generator.normal(size=n), 1))
    counts = generator.integers(1, 6, values.size)
    marks = np.array([0.0, 0.01, 0.25, 0.5, 0.77, 0.99, 1.0])
    found = interpolate_quantiles(values, counts, marks)
    np.testing.assert_allclose(found, np.quantile(np.repeat(values, counts), marks), atol=1e-12)


def test_an_unchanged_sketch_computes_its_pairs_once() -> None:
    sketch = Sketch("bf16")
    sketch.table[[0x3F80, 0xBF80]] = 2, 3  # the codes of 1 and -1
    found = UnchangedSketch(sketch)
    assert found == sketch
    for name, expected in (("pairs", [[-1, 1], [3, 2]]), ("magnitude_pairs", [[1], [5]])):
        assert [part.tolist() for part in getattr(found, name)()] == expected
        assert getattr(found, name)() is getattr(found, name)()
    assert (found.count, found.mean()) == (5, -0.2)
