"""Recording on a device: nothing waits, and the result is that of the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from support.pretended_device import DEVICE, Pretended, pretended, strictly

from distviz.hooks import Recorder, Tokens
from distviz.results import Run
from distviz.sites import HookPoint
from distviz.stats import decode, encode, kernels

POINTS = [HookPoint(layer, "", "act", f"layers.{layer}.act", "output") for layer in (0, 3)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def drawn(number: int, dtype: torch.dtype) -> torch.Tensor:
    """Values with ties, zeros of both signs, NaN, infinities and one massive value."""
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(24, 50, generator=generator) * (1 + torch.arange(50))
    x[:, ::4] = (x[:, ::4] * 4).round() / 4
    x[1, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    x[2], x[number % 3, 5], x[7, 1] = -0.0, 3000.0, 1e-40
    return torch.nn.functional.silu(x).to(dtype)


def tokens_of(number: int, whole: frozenset[int]) -> Tokens:
    order = np.random.default_rng(number)
    counted = order.random((3, 8)) < 0.8
    index = np.cumsum(counted, 1) + (number << 32)
    classes = order.integers(0, 4, (3, 8))
    documents = np.array([4, 1, 4]) if number % 2 else np.array([1, 4, 9])
    ids = order.integers(0, 100, (3, 8))
    return Tokens(counted, counted, documents, index, classes, whole, ids=ids)


def record(dtype: torch.dtype, device: Any, whole: frozenset[int], **given: Any) -> Recorder:
    """Record four calls in both phases; with a device, strictly and between calls as `watch`."""
    recorder = Recorder(**given)
    for number in range(4):
        tokens = tokens_of(number, whole)
        for phase in ("before", "after"):
            for point in POINTS:
                x = drawn(number + (phase == "after"), dtype)
                moved = (x.abs() < 0.3).to(torch.uint8)
                if device is None:
                    recorder.add(point, phase, x, tokens)
                    recorder.add(point, f"moved_{phase}", x, tokens, moved)
                    continue
                with strictly(device):
                    recorder.add(point, phase, Pretended(x), tokens)
                    recorder.add(point, f"moved_{phase}", Pretended(x), tokens, Pretended(moved))
        recorder.send()
    return recorder


def tables(recorder: Recorder) -> Run:
    recorder.documents.close()
    recorder.flush()
    run = Run(
        manifest={},
        sketches=recorder.sketches,
        documents=recorder.documents.frame(),
        channels=recorder.channels(),
    )
    return recorder.with_tables(run)


def assert_alike(found: Run, expected: Run) -> None:
    assert found.sketches == expected.sketches
    pd.testing.assert_frame_equal(found.extremes, expected.extremes, check_exact=True)
    exact = {
        "documents": ["document", "count", "eps", "near_zero"],
        "channels": ["count", "min", "max", "absmax", "zeros", "positive"],
    }
    for name, columns in exact.items():
        own, other = getattr(found, name), getattr(expected, name)
        pd.testing.assert_frame_equal(own[columns], other[columns], check_exact=True)
        pd.testing.assert_frame_equal(own, other, rtol=1e-11, atol=1e-13)
    for key, sketch in expected.merged.items():
        assert found.merged[key].mean() == pytest.approx(sketch.mean(), rel=1e-11, nan_ok=True)
        assert found.merged[key].std() == pytest.approx(sketch.std(), rel=1e-12, nan_ok=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("whole", "classes"),
    [(frozenset(), frozenset()), (frozenset([1, 9]), frozenset([3]))],
    ids=["open", "whole and classes"],
)
def test_a_device_records_what_the_cpu_does(
    dtype: torch.dtype, whole: frozenset[int], classes: frozenset[int]
) -> None:
    given = {"class_layers": classes, "channel_details": True, "c": 0.3}
    expected = tables(record(dtype, None, whole, **given))
    with pretended() as device:
        recorder = record(dtype, device, whole, **given)
        found = tables(recorder)
    assert_alike(found, expected)
    # Not once for each layer and phase: rows and slots, with classes also those of positions.
    assert len(device.sent) <= 4 * (6 if classes else 2) + 3


def test_a_checkpoint_in_between() -> None:
    expected = tables(record(torch.float32, None, frozenset()))
    with pretended() as device:
        recorder = record(torch.float32, device, frozenset())
        restored = Recorder.from_state(decode(encode(recorder.state())))
        recorder.flush()  # nothing is left to take
        found, other = tables(restored), tables(recorder)
    assert_alike(found, expected)
    assert_alike(other, expected)


def test_sums_of_recorders() -> None:
    dtype = torch.bfloat16
    with pretended() as device:
        both = record(dtype, device, frozenset()) + record(dtype, None, frozenset())
        key = next(iter(both.sketches))
        alone = record(dtype, None, frozenset()).sketches[key]["all"]
    assert both.sketches[key]["all"] == alone + alone


def test_nothing_counted() -> None:
    nothing = np.zeros((3, 8), bool)
    tokens = Tokens(nothing, nothing, np.arange(3), nothing.astype(int), nothing.astype(int))
    with pretended() as device, strictly(device):
        recorder = Recorder()
        recorder.add(POINTS[0], "before", Pretended(drawn(0, torch.float32)), tokens)
        device.is_strict = False
        found = tables(recorder)
    assert found.documents["count"].tolist() == [0, 0, 0]
    assert found.channels["count"].sum() == 0
    assert found.extremes.empty
    assert DEVICE.type != "cpu"


def test_layers_and_values_on_several_devices() -> None:
    """Each place is counted where its values are; one place may be on two devices."""
    tokens, x = tokens_of(0, frozenset()), drawn(0, torch.bfloat16)
    expected, recorder = Recorder(), Recorder()
    for point in POINTS:
        expected.add(point, "before", x, tokens)
        expected.add(point, "before", x, tokens)
    with pretended() as device:
        for point in POINTS:
            with strictly(device):
                recorder.add(point, "before", Pretended(x), tokens)
            with kernels.force_torch():
                recorder.add(point, "before", x, tokens)
        recorder.flush()
    assert recorder.sketches == expected.sketches
    found, other = recorder.channels(), expected.channels()
    pd.testing.assert_frame_equal(found, other, rtol=1e-11, atol=1e-13)
