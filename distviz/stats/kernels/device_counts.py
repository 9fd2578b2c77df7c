"""Observations whose numbers stay on the device of the values: counting them never waits.

Every result has a size that the host knows, and values that do not count have the weight 0. Counts
are integers, and float sums are taken in a fixed order, so results are the same in every run. Sums
are float64; on devices without it they are float32 about a center close to the mean, and the
error of a sum of n deviations is at most n * 2^-24 of the sum of their absolute values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from distviz.stats import float_grid
from distviz.stats.kernels.host_copies import to_device, to_host
from distviz.stats.kernels.types import ChannelSums, Observation, central_sums
from distviz.stats.moments import Moments

CHUNK_VALUES = 1 << 23


@cache
def has_float64(device: str) -> bool:
    """Whether a type of device supports float64 (Apple's does not)."""
    try:
        torch.zeros(1, dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):
        return False
    return True


def widened(values: torch.Tensor) -> torch.Tensor:
    """Return float64, or float32 on devices without float64."""
    return values.double() if has_float64(values.device.type) else values.float()


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


@dataclass(frozen=True)
class DeviceRows:
    """Rows of a tensor and their slots, on its device.

    Attributes
    ----------
    index
        int64 (n,): the rows, in the order in which equal values are kept; None: all, in order.
    slots
        int64 (n,): the table of each.
    n_slots
        Number of tables.
    """

    index: torch.Tensor | None
    slots: torch.Tensor
    n_slots: int

    @classmethod
    def of(
        cls, rows: NDArray[np.int64], slots: NDArray[np.int64], n_slots: int, device: torch.device
    ) -> DeviceRows:
        """Copy the rows and the slot of each row of the tensor (-1: none) to a device."""
        is_all = rows.size == slots.size and bool((np.diff(rows, prepend=-1) == 1).all())
        index = None if is_all else to_device(rows, device)
        return cls(index, to_device(slots[rows], device), n_slots)

    def __len__(self) -> int:
        return self.slots.shape[0]

    def pieces(
        self, values: torch.Tensor, chosen: torch.Tensor | None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]:
        """Yield (slots, values, mask of chosen values) of some million values at a time."""
        step = max(1, CHUNK_VALUES // max(values.shape[1], 1))
        for start in range(0, len(self), step):
            span = slice(start, start + step)
            at = span if self.index is None else self.index[span]
            yield self.slots[span], values[at], None if chosen is None else chosen[at]


@dataclass(frozen=True)
class Origin:
    """What is subtracted before sums of powers are taken: close to the mean, the same throughout.

    ``center`` is (), of all values; ``shift`` (channels,), of each channel.
    """

    center: torch.Tensor
    shift: torch.Tensor

    @classmethod
    def of(cls, values: torch.Tensor, rows: DeviceRows, chosen: torch.Tensor | None) -> Origin:
        """Return the means of some values."""
        wide = torch.float64 if has_float64(values.device.type) else torch.float32
        total = torch.zeros(2, values.shape[1], dtype=wide, device=values.device)
        for _, picked, mask in rows.pieces(values, chosen):
            kept = _kept(picked, mask)
            total[0] += torch.where(kept, widened(picked), 0.0).sum(0)
            total[1] += kept.sum(0)
        means = total[0] / total[1].clamp(min=1)
        center = total[0].sum() / total[1].sum().clamp(min=1)
        return cls(*(torch.where(one.isfinite(), one, 0.0) for one in (center, means)))


def _kept(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    finite = torch.isfinite(values.float() if values.element_size() < 4 else values)
    return finite if mask is None else finite & mask


@dataclass(frozen=True)
class DeviceSums:
    """Sums of each channel on the device, see `ChannelSums.of_powers`.

    ``signs`` int64 (3, channels), ``powers`` (2 or 5, channels), ``low`` and ``high`` (channels,),
    ``top`` int64 (channels,).
    """

    signs: torch.Tensor
    powers: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    top: torch.Tensor

    def __add__(self, other: Self) -> DeviceSums:
        return DeviceSums(
            self.signs + other.signs,
            self.powers + other.powers,
            torch.minimum(self.low, other.low),
            torch.maximum(self.high, other.high),
            self.top + other.top,
        )


@dataclass(frozen=True)
class DeviceObservation:
    """An `Observation` on the device of the values; those about one origin add.

    Attributes
    ----------
    tables
        int32 or int64 (slots, 65536).
    zeros
        int64 (slots,).
    low, high
        (slots,): extremes of finite values.
    powers
        (0 or 5, slots): sums of the first four powers of deviations from the center, and of abs(x);
        none where the counts are exact.
    """

    dtype: torch.dtype
    origin: Origin
    tables: torch.Tensor
    zeros: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    powers: torch.Tensor
    channels: DeviceSums | None = None
    details: bool = False

    @property
    def is_rounded(self) -> bool:
        """Whether values are wider than the grid."""
        return self.dtype.itemsize > 2

    def grouped(self, n_groups: int, *, inner: bool) -> DeviceObservation:
        """Add up slots: those with equal quotients by ``n_groups``, or with equal remainders."""
        dim = 1 if inner else 0

        def split(one: torch.Tensor, first: int) -> torch.Tensor:
            shape = (one.shape[first] // n_groups, n_groups)
            return one.view(*one.shape[:first], *shape, *one.shape[first + 1 :])

        return replace(
            self,
            tables=split(self.tables, 0).sum(dim, dtype=torch.int64),
            zeros=split(self.zeros, 0).sum(dim),
            low=split(self.low, 0).amin(dim),
            high=split(self.high, 0).amax(dim),
            powers=split(self.powers, 1).sum(dim + 1),
        )

    def __add__(self, other: DeviceObservation) -> DeviceObservation:
        both = None
        if self.channels is not None and other.channels is not None:
            both = self.channels + other.channels
        return replace(
            self,
            tables=self.tables + other.tables,
            zeros=self.zeros + other.zeros,
            low=torch.minimum(self.low, other.low),
            high=torch.maximum(self.high, other.high),
            powers=self.powers + other.powers,
            channels=both,
        )

    def parts(self) -> list[torch.Tensor]:
        """Return all tensors, as `hosted` takes them."""
        own = [self.tables, self.zeros, self.low, self.high, self.powers]
        own += [self.origin.center, self.origin.shift]
        names = fields(DeviceSums) if self.channels is not None else ()
        return own + [getattr(self.channels, one.name) for one in names]

    def hosted(self, arrays: list[NDArray[Any]]) -> Observation:
        """Return the observation from the `parts` on the host."""
        wide = (one.astype(np.float64) if one.dtype.kind == "f" else one for one in arrays)
        found: list[Any] = list(wide)
        tables, zeros, low, high, powers, center, shift, *of_channels = found
        grid = float_grid.grid_for_dtype(str(self.dtype))
        sums = None
        if of_channels:
            signs, of_powers, least, most, top = of_channels
            sums = ChannelSums.of_powers(signs, shift, of_powers, np.stack([least, most]))
            sums = replace(sums, top=top) if self.details else sums
        moments = moments_of(tables, grid, powers, float(center))
        return Observation(grid, tables, zeros, low, high, moments, self.is_rounded, sums)

    def host(self) -> Observation:
        """Copy everything to the host, and wait for it."""
        return self.hosted(to_host(self.parts()))


def moments_of_powers(
    counts: NDArray[np.int64], powers: NDArray[np.float64], center: float
) -> list[Moments]:
    """Return the moments of each slot by its sums of powers about a center, (5, slots)."""
    shift, m2, higher = central_sums(counts, powers)
    more = [None] * len(counts) if higher is None else [tuple(one) for one in higher.T.tolist()]
    return list(map(Moments.of, counts.tolist(), (center + shift).tolist(), m2.tolist(), more))


def moments_of(
    tables: NDArray[np.integer], grid: str, powers: NDArray[np.float64], center: float
) -> list[Moments]:
    """Return the moments of each slot, by sums of powers about a center or else by the counts."""
    counted = tables[:, float_grid.ordered_codes(grid)]
    counts = counted.sum(axis=1, dtype=np.int64)
    if powers.size:
        return moments_of_powers(counts, powers, center)
    values = float_grid.ordered_values(grid)
    means = counted @ values / np.maximum(counts, 1)
    m2 = [float(one @ (values - mean) ** 2) for one, mean in zip(counted, means, strict=True)]
    return list(map(Moments.of, counts.tolist(), means.tolist(), m2))


def count_there(
    values: torch.Tensor,
    rows: DeviceRows,
    origin: Origin | None = None,
    *,
    channels: bool = True,
    details: bool = False,
    chosen: torch.Tensor | None = None,
) -> DeviceObservation:
    """Count rows of (rows, channels) by slot, of ``chosen`` values only (bool, shape of values)."""
    n_slots, width, device = rows.n_slots, values.shape[1], values.device
    origin = origin or Origin.of(values, rows, chosen)
    is_rounded = values.dtype.itemsize > 2
    kind: dict[str, Any] = {"dtype": origin.center.dtype, "device": device}
    size = torch.int32 if values.numel() < 1 << 31 else torch.int64
    tables = torch.zeros(n_slots * float_grid.CELLS, dtype=size, device=device)
    zeros = torch.zeros(n_slots, dtype=torch.int64, device=device)
    low, high = (torch.full((n_slots,), end, **kind) for end in (torch.inf, -torch.inf))
    powers = torch.zeros(5 if is_rounded else 0, n_slots, **kind)
    sums = None
    for slots, picked, mask in rows.pieces(values, chosen):
        if not picked.numel():
            continue
        cells = (grid_codes(picked) + (slots * float_grid.CELLS)[:, None]).flatten()
        weights = torch.ones((), dtype=size, device=device) if mask is None else mask.flatten()
        tables.scatter_add_(0, cells, weights.to(size).expand(cells.shape))
        kept, wide = _kept(picked, mask), widened(picked)
        zeros.index_add_(0, slots, (kept & (wide == 0)).sum(1))
        low.scatter_reduce_(0, slots, torch.where(kept, wide, torch.inf).amin(1), "amin")
        high.scatter_reduce_(0, slots, torch.where(kept, wide, -torch.inf).amax(1), "amax")
        if is_rounded:
            powers += _by_slot(_powers(wide, kept, origin.center, 1), slots, n_slots)
        if channels:
            of_piece = _of_channels(wide, kept, origin.shift, details=details)
            sums = of_piece if sums is None else sums + of_piece
    if channels and sums is None:
        sums = _no_channels(width, details, **kind)
    tables = tables.view(n_slots, float_grid.CELLS)
    args = (values.dtype, origin, tables, zeros, low, high, powers)
    return DeviceObservation(*args, sums, details)


def magnitudes_there(values: torch.Tensor, rows: DeviceRows) -> torch.Tensor:
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
) -> DeviceSums:
    signs = torch.stack([kept.sum(0), (kept & (wide == 0)).sum(0), (kept & (wide > 0)).sum(0)])
    low = torch.where(kept, wide, torch.inf).amin(0)
    high = torch.where(kept, wide, -torch.inf).amax(0)
    top = torch.zeros(wide.shape[1] if details else 0, dtype=torch.int64, device=wide.device)
    if details:
        first = torch.where(kept, wide.abs(), -1.0).argmax(1)
        top.index_add_(0, first, kept.any(1).long())
    return DeviceSums(signs, _powers(wide, kept, shift, 0, 4 if details else 2), low, high, top)


def _no_channels(width: int, details: bool, dtype: torch.dtype, device: torch.device) -> DeviceSums:
    none = torch.zeros(1, width, dtype=dtype, device=device)
    return _of_channels(none, none.bool(), none[0], details=details)
