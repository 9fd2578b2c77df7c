"""The kernels of the CPU against plain NumPy over the same values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

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
def test_counts_of_some_rows(dtype: torch.dtype) -> None:
    values, rows = values_of(dtype), np.arange(0, 90, 2)
    tally = cpu.count(values, rows)
    expected = np.bincount(codes_of(values)[rows].ravel(), minlength=65536)
    np.testing.assert_array_equal(tally.table, expected)
    np.testing.assert_array_equal(np.sum(tally.parts, axis=0, dtype=np.int64), expected)


def test_values_of_some_cells_are_gathered() -> None:
    values, rows = values_of(torch.float32), np.arange(1, 90, 3)
    tally = cpu.count(values, rows)
    codes, picked = codes_of(values)[rows].ravel(), values.numpy()[rows].ravel()
    cells = np.unique(codes)[[2, 5, 9]]
    found = cpu.gather(values, rows, cells, tally)
    expected = np.concatenate([picked[codes == cell] for cell in cells])
    np.testing.assert_array_equal(np.sort(found), np.sort(expected))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_first_ties_are_selected(dtype: torch.dtype) -> None:
    values, rows = values_of(dtype), np.arange(10, 80)
    flat = values[10:80].abs().float().numpy().ravel()
    for ties in (1, 7, int((flat == 0.5).sum())):
        moved = torch.zeros(values.shape, dtype=torch.uint8)
        cpu.find_moved(values, rows, cpu.find_cut(values, rows, 0.5, ties), moved)
        expected = flat < 0.5
        expected[np.flatnonzero(flat == 0.5)[:ties]] = True
        np.testing.assert_array_equal(moved[10:80].numpy().ravel().astype(bool), expected)
        assert not moved[:10].any()
        assert not moved[80:].any()


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
