"""Observations whose numbers stay on the device of the values: counting them never waits.

Every result has a size that the host knows, and values that do not count have the weight 0. Counts
are integers, and float sums are taken in a fixed order, so results are the same in every run. Sums
are float64; on devices without it they are float32 about a center close to the mean, and the
error of a sum of n deviations is at most n * 2^-24 of the sum of their absolute values.
"""

from __future__ import annotations

import functools
import importlib.util
import operator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from distviz.stats import float_grid
from distviz.stats.kernels.device_types import (
    DeviceObservation,
    DeviceRows,
    DeviceSums,
    Origin,
    kept_of,
    widened,
)
from distviz.stats.kernels.host_copies import to_device


def upper_codes(values: torch.Tensor) -> torch.Tensor:
    """Return the upper 16 bits (float32) or all bits of a 16-bit type, as int64."""
    if values.dtype == torch.float32:
        return (values.contiguous().view(torch.int32).to(torch.int64) >> 16) & 0xFFFF
    return values.contiguous().view(torch.int16).to(torch.int64) & 0xFFFF


def grid_codes(values: torch.Tensor) -> torch.Tensor:
    """Return codes on the grid of the dtype; wider types are rounded to bf16, finite to finite."""
    if values.dtype in (torch.bfloat16, torch.float16):
        return upper_codes(values)
    narrow = values.float().to(torch.bfloat16)
    codes = upper_codes(narrow)
    overflow = torch.isfinite(values.float() if values.element_size() < 4 else values)
    overflow &= ~torch.isfinite(narrow)
    sign = codes & float_grid.SIGN
    return torch.where(overflow, sign | (float_grid.first_nonfinite("bf16") - 1), codes)


def count_on_device(
    values: torch.Tensor,
    rows: DeviceRows,
    origin: Origin | None = None,
    *,
    channels: bool = True,
    details: bool = False,
    chosen: torch.Tensor | None = None,
) -> DeviceObservation:
    """Count rows of (rows, channels) by slot, of ``chosen`` values only (bool, shape of values)."""
    origin = origin or Origin.of(values, rows, chosen)
    n_slots, device, dtype = rows.n_slots, values.device, values.dtype
    size = torch.int32 if values.numel() < 1 << 31 else torch.int64
    tables = torch.zeros(n_slots * float_grid.CELLS, dtype=size, device=device)
    if channels and chosen is None and size == torch.int32 and len(rows) and is_fused(values):
        fused = _fused(values, rows, origin, tables, details=details)
        tables = tables.view(n_slots, -1)
        return DeviceObservation(dtype, origin, tables, *_of_tables(tables, origin, dtype), *fused)
    of_slots, found = _OfSlots.empty(n_slots, origin), []
    for slots, picked, mask in rows.pieces(values, chosen):
        if not picked.numel():
            continue
        cells = (grid_codes(picked) + (slots * float_grid.CELLS)[:, None]).flatten()
        weights = torch.ones((), dtype=size, device=device) if mask is None else mask.flatten()
        tables.scatter_add_(0, cells, weights.to(size).expand(cells.shape))
        kept, wide = kept_of(picked, mask), widened(picked)
        if dtype.itemsize > 2:
            of_slots.add(wide, kept, slots, origin.center)
        if channels:
            found.append(_of_channels(wide, kept, origin.shift, details=details))
    tables = tables.view(n_slots, float_grid.CELLS)
    own = of_slots.parts if dtype.itemsize > 2 else _of_tables(tables, origin, dtype)
    if not channels:
        return DeviceObservation(dtype, origin, tables, *own)
    none = torch.zeros(1, values.shape[1], dtype=origin.shift.dtype, device=device)
    found = found or [_of_channels(none, none.bool(), origin.shift, details=details)]
    sums = functools.reduce(operator.add, (one for one, _ in found))
    tops = torch.cat([most for _, most in found])[: len(rows)] if details else None
    return DeviceObservation(dtype, origin, tables, *own, sums, tops, details)


def _fused(
    values: torch.Tensor, rows: DeviceRows, origin: Origin, tables: torch.Tensor, *, details: bool
) -> tuple[DeviceSums, torch.Tensor, bool]:
    """Count into the tables by one read; return the channels, and the largest of each row."""
    from distviz.stats.kernels.triton_loops import count_fused

    places = rows.index
    if places is None:
        places = torch.arange(len(rows), device=values.device)
    args = (values.contiguous(), places, rows.slots, tables, origin.shift)
    with torch.cuda.device(values.device) if values.is_cuda else nullcontext():
        signs, powers, ends, tops, first = count_fused(*args, n_powers=5 if details else 2)
    top = torch.zeros(values.shape[1] if details else 0, dtype=torch.int64, device=values.device)
    if details:
        top.index_add_(0, first, (tops >= 0).long())
    low, high = ends.to(powers.dtype).unbind(0)
    return DeviceSums(signs, powers, low, high, top), tops.to(powers.dtype), details


@cache
def has_triton() -> bool:
    """Whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


def is_fused(values: torch.Tensor) -> bool:
    """Whether one kernel counts these values."""
    return values.is_cuda and values.element_size() == 2 and has_triton()


@cache
def _ordered_on(grid: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the codes of finite values in ascending order, and the values."""
    codes = float_grid.ordered_codes(grid).astype(np.int64)
    return to_device(codes, device), to_device(float_grid.ordered_values(grid).copy(), device)


def _of_tables(
    tables: torch.Tensor, origin: Origin, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return zeros, extremes and no sums of powers of 16-bit values, which their counts tell."""
    codes, values = _ordered_on(float_grid.grid_for_dtype(str(dtype)), tables.device)
    values = values.to(origin.center.dtype)
    present = tables[:, codes] > 0
    low = torch.where(present, values, torch.inf).amin(1)
    high = torch.where(present, values, -torch.inf).amax(1)
    zeros = tables[:, 0].long() + tables[:, float_grid.SIGN]
    return zeros, low, high, origin.center.new_zeros(0, len(tables))


@dataclass
class _OfSlots:
    """Zeros, extremes and sums of powers of each slot, of values wider than the grid."""

    zeros: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    powers: torch.Tensor

    @classmethod
    def empty(cls, n_slots: int, origin: Origin) -> _OfSlots:
        zeros = torch.zeros(n_slots, dtype=torch.int64, device=origin.center.device)
        low = torch.full_like(zeros, torch.inf, dtype=origin.center.dtype)
        return cls(zeros, low, -low, origin.center.new_zeros(5, n_slots))

    def add(
        self, wide: torch.Tensor, kept: torch.Tensor, slots: torch.Tensor, center: torch.Tensor
    ) -> None:
        self.zeros.index_add_(0, slots, (kept & (wide == 0)).sum(1))
        low = torch.where(kept, wide, torch.inf).amin(1)
        high = torch.where(kept, wide, -torch.inf).amax(1)
        self.low.scatter_reduce_(0, slots, low, "amin")
        self.high.scatter_reduce_(0, slots, high, "amax")
        self.powers += _by_slot(_powers(wide, kept, center, 1), slots, len(self.zeros))

    @property
    def parts(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.zeros, self.low, self.high, self.powers


def magnitudes_on_device(values: torch.Tensor, rows: DeviceRows) -> torch.Tensor:
    """Count magnitudes by slot: int64 (slots, 32768), see `distviz.stats.kernels.cpu`."""
    size = rows.n_slots * float_grid.SIGN
    table = torch.zeros(size, dtype=torch.int64, device=values.device)
    one = torch.ones((), dtype=torch.int64, device=values.device)
    for slots, picked, _ in rows.pieces(values, None):
        cells = (grid_codes(picked) & (float_grid.SIGN - 1)) + (slots * float_grid.SIGN)[:, None]
        table.scatter_add_(0, cells.flatten(), one.expand(cells.numel()))
    return table.view(rows.n_slots, float_grid.SIGN)


def _powers(
    wide: torch.Tensor, kept: torch.Tensor, center: torch.Tensor, dim: int, highest: int = 4
) -> torch.Tensor:
    """Sum along an axis what `ChannelSums.of_powers` takes, up to the second or fourth power."""
    deviations = torch.where(kept, wide - center, 0.0)
    power, sums = deviations, [deviations.sum(dim)]
    for _ in range(1, highest):
        power = power * deviations
        sums.append(power.sum(dim))
    if highest > 2:
        sums.append(torch.where(kept, wide.abs(), 0.0).sum(dim))
    return torch.stack(sums)


def _by_slot(sums: torch.Tensor, slots: torch.Tensor, n_slots: int) -> torch.Tensor:
    """Add up (sums, rows) by slot in a fixed order, which adding to places does not have."""
    own = torch.arange(n_slots, device=slots.device)[:, None] == slots
    return torch.stack([torch.where(own, one, 0.0).sum(1) for one in sums])


def _of_channels(
    wide: torch.Tensor, kept: torch.Tensor, shift: torch.Tensor, *, details: bool
) -> tuple[DeviceSums, torch.Tensor]:
    """Return the sums of each channel; with details, the largest of each row (-1 without any)."""
    signs = torch.stack([kept.sum(0), (kept & (wide == 0)).sum(0), (kept & (wide > 0)).sum(0)])
    low = torch.where(kept, wide, torch.inf).amin(0)
    high = torch.where(kept, wide, -torch.inf).amax(0)
    tops, top = low[:0], signs.new_zeros(wide.shape[1] if details else 0)
    if details:
        tops, first = torch.where(kept, wide.abs(), -1.0).max(1)
        top.index_add_(0, first, (tops >= 0).long())
    powers = _powers(wide, kept, shift, 0, 4 if details else 2)
    return DeviceSums(signs, powers, low, high, top), tops
