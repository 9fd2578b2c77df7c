"""Trees, tables, moments and sketches come back from bytes exactly as they were."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from distviz.stats import serialize
from distviz.stats.moments import Moments
from distviz.stats.sketch import Sketch

AWKWARD = [0.0, -0.0, math.nan, math.inf, -math.inf, 1e-45, 3.4e38, -7.25]


def test_a_tree_comes_back() -> None:
    arrays = [np.arange(6, dtype=np.uint16).reshape(2, 3), np.empty((0, 4)), np.float32(AWKWARD)]
    tree = {"a": [1, 2**200, -0.1, 5e-324, None, True, "ü"], "b": {"c": arrays[:2]}, "d": arrays[2]}
    again = serialize.decode(serialize.encode(tree))
    assert again["a"] == tree["a"]
    for found, expected in zip([*again["b"]["c"], again["d"]], arrays, strict=True):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes()
        assert found.flags.writeable
    with pytest.raises(TypeError, match="a set cannot be packed"):
        serialize.encode({"x": {1}})


def test_tables_of_any_size_come_back() -> None:
    generator = np.random.default_rng(1)
    tables = [np.zeros(65536, np.int64) for _ in range(4)]
    tables[1][[0, 65535]] = [1, 255]
    tables[2][generator.integers(0, 65536, 500)] = generator.integers(1, 2**40, 500)
    again = serialize.unpack_tables(serialize.pack_tables(tables))
    assert len(again) == 4
    for found, expected in zip(again, tables, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert serialize.unpack_tables(serialize.pack_tables([])) == []


def test_sketches_come_back() -> None:
    generator = torch.Generator().manual_seed(2)
    wide = torch.exp(3 * torch.randn(5000, generator=generator))
    data = [wide, wide.to(torch.float16), torch.tensor(AWKWARD), torch.tensor([])]
    sketches = [Sketch().add(values) for values in data] + [Sketch()]
    packed = serialize.pack_sketches(sketches)
    again = serialize.unpack_sketches(serialize.decode(serialize.encode(packed)))
    assert again == sketches
    assert [s.is_rounded for s in again] == [s.is_rounded for s in sketches]
    extra = torch.tensor([2.0])
    assert [s.add(extra.to(d.dtype)) for s, d in zip(again[:2], data, strict=False)] == [
        s.add(extra.to(d.dtype)) for s, d in zip(sketches[:2], data, strict=False)
    ]


def test_moments_come_back() -> None:
    moments = [Moments(), Moments.of(3, 0.1, 1e-30), Moments.of(10**9, 1e30, 1e70)]
    again = serialize.unpack_moments(serialize.pack_moments(moments))
    facts = [(m.count, m.first, m.second, m.overflows) for m in moments]
    assert [(m.count, m.first, m.second, m.overflows) for m in again] == facts
