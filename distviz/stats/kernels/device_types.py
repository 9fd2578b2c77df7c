"""What is counted on a device: rows, origins, sums and observations whose numbers stay there."""

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
            kept = kept_of(picked, mask)
            total[0] += torch.where(kept, widened(picked), 0.0).sum(0)
            total[1] += kept.sum(0)
        means = total[0] / total[1].clamp(min=1)
        center = total[0].sum() / total[1].sum().clamp(min=1)
        return cls(*(torch.where(one.isfinite(), one, 0.0) for one in (center, means)))


def kept_of(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return which values count: finite ones, of the mask."""
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
    channels
        Sums of each channel.
    tops
        (rows,): the largest magnitude of each row, -1 without finite values; of the last call, None
        where it was not needed.
    """

    dtype: torch.dtype
    origin: Origin
    tables: torch.Tensor
    zeros: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    powers: torch.Tensor
    channels: DeviceSums | None = None
    tops: torch.Tensor | None = None
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
