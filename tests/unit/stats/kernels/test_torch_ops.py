"""The path of every device but the CPU, forced on the CPU: the same answers, and nothing copied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

import distviz
from distviz.stats import kernels
from distviz.stats.kernels import device_plans, device_types
from distviz.stats.kernels import torch_ops as device

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
TEXTS = [
    "Anna had 12 apples and 3 pears, so she gave 12 - 3 = 9 of them away. " * 3,
    "If it rains, then we stay at home because the road is wet.",
]


def awkward(rows: int, width: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Normal values with ties, zeros of both signs, NaN and infinities among them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    x[:, ::3] = (x[:, ::3] * 8).round() / 8
    x[1, :4] = torch.tensor([0.0, -0.0, 1e-40, -1e-40])
    x[2, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    return x.to(dtype)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_a_whole_run_counts_alike(dtype: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"dtype": dtype, "arm_layers": "0,2", "max_length": 48}
    settings |= {"sites": "act,product,q", "layers": "0,2,4", "device": "cpu"}
    by_numba = distviz.run(text=TEXTS, **settings)
    with kernels.force_torch():
        by_torch = distviz.run(text=TEXTS, **settings)
    assert by_torch.sketches == by_numba.sketches
    assert by_torch.manifest["effect"] == by_numba.manifest["effect"]
    pd.testing.assert_frame_equal(by_torch.plans, by_numba.plans, check_exact=True)
    for name in ("documents", "channels"):
        close = {"check_exact": False, "rtol": 1e-6, "atol": 1e-7}
        pd.testing.assert_frame_equal(getattr(by_torch, name), getattr(by_numba, name), **close)
    files = []
    for name, run in (("numba", by_numba), ("torch", by_torch)):
        run.save(tmp_path / name)
        files.append(pq.read_table(tmp_path / name / "counts.parquet").replace_schema_metadata())
    assert files[0].equals(files[1])
    assert files[0].num_rows > 10_000


def watch_copies(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record how many values each copy to the host takes."""
    copied: list[int] = []
    for name in ("cpu", "tolist", "item"):
        original = getattr(torch.Tensor, name)

        def spy(self: torch.Tensor, *args: Any, _original: Any = original, **kwargs: Any) -> Any:
            copied.append(self.numel())
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, spy)
    return copied


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [4, 700])
def test_activations_stay_where_they_are(
    rows: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(rows, 1000, generator=torch.Generator().manual_seed(6)).to(dtype)
    slots = np.zeros(rows, np.int64)
    arm = distviz.ARM()
    with kernels.force_torch(), monkeypatch.context() as patch:
        copied = watch_copies(patch)
        kernels.observe(x, slots, 1)
        assert not copied
        arm.trace(x[None])
    tables = [size for size in copied if size == 65_536]
    others = [size for size in copied if size != 65_536]
    is_counted = rows * 1000 > 1 << 15 and dtype != torch.float64
    assert len(tables) <= (2 if is_counted else 0)
    # The values of the cells that decide a rank in float32: about 2 in a hundred.
    assert sum(others) < 0.05 * x.numel() + 100


@pytest.mark.parametrize("dtype", DTYPES)
def test_pieces_change_nothing(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    x = awkward(90, 500, dtype)
    slots = np.arange(90) % 4 - 1
    settings = [
        {},
        {"mode": "add", "passes": 2},
        {"fraction": 0.31},
        {"percentile_of": "magnitude"},
    ]

    def answers() -> tuple[Any, ...]:
        seen = kernels.observe(x, slots, 3, details=True)
        rows = np.flatnonzero(slots >= 0)
        decision = kernels.decide(x, rows, kernels.Request(0.13, 0.995, 0.31, 0.31, False))
        moved = torch.zeros(x.shape, dtype=torch.uint8)
        kernels.find_moved(x, rows, decision, moved)
        arms = [distviz.ARM(**given)(x[None], torch.rand(1, 90) < 2) for given in settings]
        return seen, decision.numbers(), moved, arms

    with kernels.force_torch():
        whole = answers()
        monkeypatch.setattr(device, "CHUNK_VALUES", 7 * 500)
        monkeypatch.setattr(device_types, "CHUNK_VALUES", 7 * 500)
        pieces = answers()
    for name in ("tables", "zeros", "low", "high"):
        np.testing.assert_array_equal(getattr(pieces[0], name), getattr(whole[0], name))
    for name in ("count", "zeros", "positive", "top", "low", "high"):
        found, expected = (getattr(seen[0].channels, name) for seen in (pieces, whole))
        np.testing.assert_array_equal(found, expected)
    for name in ("mean", "m2", "higher"):
        found, expected = (getattr(seen[0].channels, name) for seen in (pieces, whole))
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-15)
    assert pieces[1] == whole[1]
    assert torch.equal(pieces[2], whole[2])
    for found, expected in zip(pieces[3], whole[3], strict=True):
        assert torch.equal(found.nan_to_num(), expected.nan_to_num())


@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_a_device_without_float64(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts and plans stay exact; sums are float32 in two passes: a large mean costs nothing."""
    x = awkward(64, 900, dtype) + 1000
    small, large = awkward(8, 900, dtype)[None], awkward(64, 900, dtype, seed=1)[None]
    arm = distviz.ARM(c=0.3)
    expected = [arm(small), arm(large)]
    plans = [arm.plan(small), arm.plan(large)]
    slots = np.arange(64) % 3
    exact = kernels.observe(x, slots, 3)
    for module in (device, device_types):
        monkeypatch.setattr(module, "has_float64", lambda _: False)
    doubled: list[Any] = []
    with kernels.force_torch(), monkeypatch.context() as patch:
        original = torch.Tensor.double
        patch.setattr(
            torch.Tensor, "double", lambda self: doubled.append(self.numel()) or original(self)
        )
        seen = kernels.observe(x, slots, 3)
        assert not doubled
    with kernels.force_torch():
        found = [arm(small), arm(large)]
        assert [arm.plan(small), arm.plan(large)] == plans
    sketches = [distviz.Sketch(), distviz.Sketch()]
    for sketch, observation in zip(sketches, (seen, exact), strict=True):
        sketch.absorb(observation, range(3))
    assert sketches[0] == sketches[1]
    assert sketches[0].nan == 1
    for got, wanted in zip(seen.moments, exact.moments, strict=True):
        std = (wanted.m2 / wanted.count) ** 0.5
        assert got.count == wanted.count
        assert abs(got.mean - wanted.mean) < 1e-5 * std
        assert got.m2 == pytest.approx(wanted.m2, rel=1e-5)
    assert seen.channels is not None
    assert exact.channels is not None
    np.testing.assert_allclose(seen.channels.mean, exact.channels.mean, rtol=1e-7)
    np.testing.assert_allclose(seen.channels.m2, exact.channels.m2, rtol=1e-4, atol=1e-9)
    for got, wanted in zip(found, expected, strict=True):
        assert torch.equal(got.nan_to_num(), wanted.nan_to_num())


@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_that_is_not_contiguous(dtype: torch.dtype) -> None:
    x = awkward(700, 130, dtype).T  # (channels last in memory)
    strided = awkward(90, 1200, dtype)[::2, ::2]
    arm = distviz.ARM(seed=4)
    for values in (x, strided):
        assert not values.is_contiguous()
        expected, plan = arm(values.contiguous()), arm.plan(values.contiguous())
        counted = distviz.Sketch().add(values.contiguous())
        with kernels.force_torch():
            assert arm.plan(values) == plan
            assert torch.equal(arm(values).nan_to_num(), expected.nan_to_num())
            assert distviz.Sketch().add(values) == counted
            out = torch.empty_like(values)
            assert arm(values, out=out) is out
            assert torch.equal(out.nan_to_num(), expected.nan_to_num())


def test_the_random_numbers_are_those_of_every_device() -> None:
    keys = kernels.row_keys(3, 1, 0, 2, -9, (np.arange(50) << 32) + 5)
    words = torch.from_numpy(keys.view(np.int32))
    np.testing.assert_array_equal(
        device_plans.uniforms(words, 3000).numpy(), kernels.uniforms(keys, 3000)
    )
