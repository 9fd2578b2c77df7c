"""Plans on a device: those of the CPU to the bit, and nothing waits for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.pretended_device import Pretended, pretended, strictly

from distviz.arm import ARM, Plan, SequenceRows
from distviz.arm.controls import make_redistribution
from distviz.arm.mapped import Cutoff
from distviz.stats import GRANULAR_FORMATS
from distviz.stats.kernels import device_types

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
SETTINGS: list[dict[str, Any]] = [
    {},
    {"fraction": 0.37, "p1": 61.7, "mode": "add"},
    {"passes": 2, "percentile_of": "magnitude", "p1": 100.0},
    {"fraction": 0.0, "p1": 0.0},
    {"fraction": 1.0, "c": 2.0},
]


def sequences() -> list[SequenceRows]:
    """Rows in any order, and one sequence without finite values."""
    order = np.random.default_rng(5)
    rows = order.permutation(90)
    parts = rows[:30], np.arange(100, 110), np.sort(rows[30:80]), rows[80:81]
    return [SequenceRows(part, n, np.arange(part.size), 0) for n, part in enumerate(parts)]


def drawn(dtype: torch.dtype) -> torch.Tensor:
    x = torch.randn(110, 70, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x[::3] = (x[::3] * 2).round() / 2
    x[4, :4] = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0])
    x[5, :2], x[100:] = torch.tensor([1e-300, 1e-42]), torch.nan
    return x.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("chosen", SETTINGS)
@pytest.mark.parametrize("pieces", [False, True])
def test_like_the_cpu(
    dtype: torch.dtype, chosen: dict[str, Any], pieces: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pieces:
        monkeypatch.setattr(device_types, "CHUNK_VALUES", 7 * 70)
    x, arm = drawn(dtype), ARM(**chosen, seed=9)
    expected, plans, moved = arm.trace_rows(x, sequences(), layer=2)
    with pretended() as device:
        with strictly(device):
            there = arm.redistribute_rows(Pretended(x), sequences(), layer=2)
        found, decisions, marks = there
        assert [[*map(Plan.of, own)] for own in decisions] == plans
    bits = torch.int64 if dtype == torch.float64 else torch.int16
    assert torch.equal(found.elem.view(bits), expected.view(bits))
    assert torch.equal(marks.elem, moved)


CUTOFF = Cutoff(largest=0.25, is_of_counts=True)
OTHERS = ["threshold", "scale:3", "threshold:0.25", CUTOFF, "noise"]
OTHERS += [f"quantize:{name}" for name in GRANULAR_FORMATS]
ROWS, LAST = np.random.default_rng(1).permutation(60), np.arange(100, 110)


@pytest.mark.parametrize("name", OTHERS, ids=lambda one: one if isinstance(one, str) else "counts")
@pytest.mark.parametrize("dtype", DTYPES)
def test_other_redistributions(name: str | ARM, dtype: torch.dtype) -> None:
    """Rows 60 to 99 are padding; the third sequence has no finite value."""
    x, given = drawn(dtype), ARM(fraction=0.3, passes=2)
    arm = make_redistribution(name, given) if isinstance(name, str) else name
    parts = [SequenceRows(part, n, part) for n, part in enumerate((ROWS[:33], ROWS[33:60], LAST))]
    expected, _, moved = arm.trace_rows(x, parts)
    with pretended() as device, strictly(device):
        found, _, marks = arm.redistribute_rows(Pretended(x), parts)
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    assert torch.equal(found.elem.view(bits), expected.view(bits))
    assert torch.equal(marks.elem, moved)
    assert torch.equal(expected[60:100].view(bits), x[60:100].view(bits))
    assert moved[:60].any()
