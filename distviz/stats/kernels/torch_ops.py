"""Kernels in torch operations for the host: each copies its result from the device, and waits.

What hooks enqueue instead is in `device_counts`, `device_summary` and `device_plans`. Results equal
those of :mod:`distviz.stats.kernels.cpu`.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from distviz.stats.kernels.device_counts import count_on_device, magnitudes_on_device
from distviz.stats.kernels.device_summary import largest_on_device
from distviz.stats.kernels.device_types import CHUNK_VALUES, DeviceRows, has_float64
from distviz.stats.kernels.host_copies import to_host
from distviz.stats.kernels.types import Observation, PairSums


def observe(
    values: torch.Tensor,
    slots: NDArray[np.int64],
    n_slots: int,
    *,
    channels: bool = True,
    details: bool = False,
) -> Observation:
    """See `distviz.stats.kernels.cpu.observe`."""
    values = values.detach()
    rows = DeviceRows.of(np.flatnonzero(slots >= 0), slots, n_slots, values.device)
    return count_on_device(values, rows, channels=channels, details=details).host()


def count_magnitudes(
    values: torch.Tensor, slots: NDArray[np.int64], n_slots: int
) -> NDArray[np.integer]:
    """See `distviz.stats.kernels.cpu.count_magnitudes`."""
    values = values.detach()
    rows = DeviceRows.of(np.flatnonzero(slots >= 0), slots, n_slots, values.device)
    return np.asarray(magnitudes_on_device(values, rows).cpu().numpy())


def find_largest(
    values: torch.Tensor,
    rows: NDArray[np.int64],
    channels: NDArray[np.int64],
    highest: float,
    most: int,
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """See :func:`distviz.stats.kernels.cpu.find_largest`; looks at all channels."""
    del channels, highest
    values = values.detach()
    on_device = DeviceRows.of(rows, np.zeros(values.shape[0], np.int64), 1, values.device)
    found, row, channel = to_host(largest_on_device(values, on_device, most))
    is_one = ~np.isnan(found)
    return found[is_one].astype(np.float64), row[is_one], channel[is_one]


def compare(first: torch.Tensor, second: torch.Tensor, limit: float = 0.0) -> PairSums:
    """See :func:`distviz.stats.kernels.cpu.compare`; on the CPU where a device has no float64."""
    rows, width = first.shape
    device = first.device if has_float64(first.device.type) else torch.device("cpu")
    sums, counts, of_channels, best = [], [], torch.zeros(2, width, device=device).double(), limit
    place = (-1, -1)
    step = max(1, CHUNK_VALUES // max(width, 1))
    for start in range(0, rows, step):
        a, b = (side[start : start + step].to(device).double() for side in (first, second))
        is_pair = a.isfinite() & b.isfinite()
        a, b = (torch.where(is_pair, side, 0.0) for side in (a, b))
        d = b - a
        parts = (d * d, a * a, b * b, a * b, d.abs())
        sums.append(torch.stack([part.sum(1) for part in parts], 1))
        counts.append(is_pair.sum(1))
        of_channels += torch.stack([part.sum(0) for part in parts[:2]])
        most = float(parts[4].max()) if parts[4].numel() else 0.0
        if most > best:
            found = int((parts[4] == most).flatten().to(torch.uint8).argmax())
            best, place = most, (start + found // width, found % width)
    empty = torch.zeros(0, 5)
    whole = torch.cat(sums or [empty]).cpu().numpy(), torch.cat(counts or [empty[:, 0].long()])
    errors, squares = of_channels.cpu().numpy()
    return PairSums(whole[0], whole[1].cpu().numpy(), errors, squares, best, *place)
