"""The kernels of the CPU against plain NumPy over the same values."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch

from distviz.stats import float_grid, kernels
from distviz.stats.kernels import cpu

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def values_of(dtype: torch.dtype, rows: int = 90, width: int = 70) -> torch.Tensor:
    generator = torch.Generator().manual_seed(8)
    x = torch.round(8 * torch.randn(rows, width, generator=generator)) / 8
    x[3, :4] = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0])
    return x.to(dtype)


def codes_of(values: torch.Tensor) -> np.ndarray:
    """The upper 16 bits of every value."""
    if values.dtype == torch.float32:
        return (values.numpy().view(np.uint32) >> 16).astype(np.int64)
    return values.view(torch.int16).numpy().view(np.uint16).astype(np.int64)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_observation_of_several_slots(dtype: torch.dtype) -> None:
    values = values_of(dtype)
    slots = np.arange(90) % 3 - 1
    seen = cpu.observe(values, slots, 2)
    for slot in range(2):
        own = values[torch.from_numpy(slots == slot)]
        exact = own.double().numpy()
        finite = exact[np.isfinite(exact)]
        assert seen.zeros[slot] == (exact == 0).sum()
        assert (seen.low[slot], seen.high[slot]) == (finite.min(), finite.max())
        assert seen.moments[slot].count == finite.size
        assert seen.moments[slot].mean == pytest.approx(finite.mean(), rel=1e-9)
        assert int(seen.tables[slot].sum()) == exact.size
        if dtype != torch.float32:
            expected = np.bincount(codes_of(own).ravel(), minlength=65536)
            np.testing.assert_array_equal(seen.tables[slot], expected)
    assert seen.is_rounded == (dtype == torch.float32)
    channels = seen.channels
    assert channels is not None
    counted = values[torch.from_numpy(slots >= 0)].double().numpy()
    np.testing.assert_array_equal(channels.count, np.isfinite(counted).sum(axis=0))


@pytest.mark.parametrize("forced", [False, True], ids=["compiled", "torch"])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
@pytest.mark.parametrize("finite", [True, False])
def test_details_of_channels(dtype: torch.dtype, forced: bool, finite: bool) -> None:
    values = values_of(dtype)
    values[5] = 0  # all channels tie: the first one counts
    values[7, 10], values[7, 60] = -30, 30
    if finite:
        values = values.nan_to_num(0, 0, 0)
    else:
        values[9] = torch.nan  # no channel is the largest
    slots = np.arange(90) % 3 - 1
    with kernels.force_torch() if forced else nullcontext():
        channels = kernels.observe(values, slots, 2, details=True).channels
    x = values[torch.from_numpy(slots >= 0)].double().numpy()
    kept = np.where(np.isfinite(x), x, np.nan)
    assert channels is not None
    np.testing.assert_array_equal(channels.zeros, (kept == 0).sum(axis=0))
    np.testing.assert_array_equal(channels.positive, (kept > 0).sum(axis=0))
    sizes = np.where(np.isfinite(x), np.abs(x), -1)
    first = [row.tolist().index(row.max()) for row in sizes if row.max() >= 0]
    np.testing.assert_array_equal(channels.top, np.bincount(first, minlength=70))
    deviations = kept - np.nanmean(kept, axis=0)
    expected = [np.nansum(deviations**3, axis=0), np.nansum(deviations**4, axis=0)]
    assert channels.higher is not None
    np.testing.assert_allclose(channels.higher[:2], expected, rtol=1e-11, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wide_values_have_sums_of_powers_by_slot(dtype: torch.dtype) -> None:
    normal = torch.randn(90, 70, generator=torch.Generator().manual_seed(3))
    values = (torch.exp(3 * normal) - 5).to(dtype)
    slots = np.arange(90) % 3 - 1
    seen = kernels.observe(values, slots, 2, channels=False)
    for slot, moments in enumerate(seen.moments):
        x = values[torch.from_numpy(slots == slot)].double().numpy()
        deviations = x - x.mean()
        expected = [(deviations**3).sum(), (deviations**4).sum()]
        assert moments.m3_m4 == pytest.approx(expected, rel=1e-11)
        assert moments.l1 == pytest.approx(np.abs(x).sum(), rel=1e-13)
        assert moments.l2 == pytest.approx(np.sqrt((x**2).sum()), rel=1e-13)


@pytest.mark.parametrize("mode", [False, True])
def test_sequences_are_shared_in_order(mode: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks run here and on another thread, of one thread each, and in the mode of the caller."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    here, both = threading.get_ident(), threading.Barrier(2, timeout=30)

    def task(row: int) -> tuple[bool, int, int]:
        if row < 2:
            both.wait()
        values[row] = row
        return torch.is_inference_mode_enabled() is mode, cpu._threads(), threading.get_ident()

    with torch.inference_mode(mode):
        values = torch.zeros(8, 4)
        found = kernels.share_sequences(values, task, list(range(8)))
        few = kernels.share_sequences(values, lambda _: threading.get_ident(), [0])
    assert {one[:2] for one in found} == {(True, 1)}
    assert here in {one[2] for one in found[:2]} != {here}
    assert cpu._threads() == 2
    assert values[:, 0].tolist() == list(range(8))
    assert few == [here]


def test_a_thread_that_never_starts_is_not_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    held = threading.Event()
    try:
        for _ in range(2):
            cpu._pool(2).submit(held.wait)
        assert cpu.share(str, [1, 2, 3]) == ["1", "2", "3"]
    finally:
        held.set()


def test_an_error_in_a_shared_task_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

    both = threading.Barrier(2, timeout=30)

    def task(row: int, whose: bool) -> float:
        both.wait()
        return 1 / (row - (5 if (threading.get_ident() == here) == whose else -1))

    here = threading.get_ident()
    for whose in (True, False):  # of this thread, and of the other
        with pytest.raises(ZeroDivisionError):
            cpu.share(partial(task, whose=whose), [5, 5])
        assert cpu._threads() == 2


@pytest.mark.parametrize("n", [1, 2, 9, 300])
def test_the_summary_of_a_table_is_that_of_its_values(n: int) -> None:
    x = torch.randn(n, generator=torch.Generator().manual_seed(n)).bfloat16()
    x[::3] = x[0]  # ties
    table = np.bincount(x.view(torch.int16).numpy().view(np.uint16), minlength=65536)
    found = cpu.summarise(table, float_grid.magnitudes("bf16"), 0.13, -1.0)
    values = x.double().numpy()
    sizes = np.sort(np.abs(values))
    middle = (n - 1) // 2
    eps = 1.4826 * np.sort(np.abs(sizes - sizes[middle]))[middle] * 0.13
    gini = 2 * (np.arange(1, n + 1) @ sizes) / (n * sizes.sum()) - (n + 1) / n
    wanted = [n, values.mean(), values.std(), eps, (sizes < eps).mean(), sizes.sum()]
    wanted += [np.linalg.norm(values), gini, sizes[-1]]
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-15)
