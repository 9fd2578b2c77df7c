"""The kernels in plain torch operations, for tensors on any device (and for float64).

Only tables of 65,536 integers, a few numbers per row or channel and the few values around a rank
are copied from the device, and the additional memory is bounded. Results equal those of
:mod:`distviz.stats.kernels.cpu`, random numbers included; sums are float64, or two passes of
float32 on devices without float64.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from distviz.stats.kernels.device_counts import (
    CHUNK_VALUES,
    DeviceRows,
    count_there,
    has_float64,
    magnitudes_there,
)
from distviz.stats.kernels.device_summary import largest_there
from distviz.stats.kernels.host_copies import to_host
from distviz.stats.kernels.types import Decision, Observation, PairSums, Request
from distviz.stats.statistics import MAD_TO_SIGMA, SMALLEST_MAD

_WORD = 0xFFFFFFFF


def _at(values: torch.Tensor, rows: NDArray[np.int64]) -> torch.Tensor:
    """Return some rows; the tensor itself, not a copy, if these are all rows in order."""
    if rows.size == values.shape[0] and bool((np.diff(rows) == 1).all()):
        return values
    return values[torch.from_numpy(rows).to(values.device)]


def _pieces(
    values: torch.Tensor, rows: NDArray[np.int64]
) -> Iterator[tuple[int, NDArray[np.int64], torch.Tensor]]:
    """Yield (start, rows, values) of some million values at a time."""
    step = max(1, CHUNK_VALUES // max(values.shape[1], 1))
    if rows.size <= step:
        yield 0, rows, _at(values, rows)
        return
    for start in range(0, rows.size, step):
        part = rows[start : start + step]
        yield start, part, values[torch.from_numpy(part).to(values.device)]


def _bits(values: torch.Tensor) -> torch.Tensor:
    """Return magnitudes as integers of the same order."""
    width = {2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()]
    return values.abs().contiguous().view(width)


def decide(values: torch.Tensor, rows: NDArray[np.int64], request: Request) -> Decision:
    """See `distviz.stats.kernels.plans.decide`."""
    flat = values[torch.from_numpy(rows).to(values.device)].flatten()
    finite = torch.isfinite(flat)
    n = int(finite.sum())
    if not n:
        return Decision((0, *[0.0] * 5, 0, *[0.0] * 3, 0, 0), (0, 0, 0))
    own = flat[finite]
    exact = own.double() if has_float64(own.device.type) else own.cpu().double()
    signed, sizes = exact.sort().values, exact.abs().sort().values
    center = float(sizes[(n - 1) // 2])
    mad = float((sizes - center).abs().kthvalue((n - 1) // 2 + 1).values)
    eps = MAD_TO_SIGMA * max(mad, SMALLEST_MAD) * request.c
    near = int((sizes < eps).sum()) / n
    fraction = min(max(near, request.least), request.most)
    k = max(1, round(fraction * n))
    ranked = sizes if request.of_magnitude else signed
    upper, lower = _bounds(ranked, signed, request.percentile)
    magnitude = float(sizes[k - 1])
    ties, in_all = k - int((sizes < magnitude).sum()), int((sizes == magnitude).sum())
    pattern = int(_bits(torch.tensor([magnitude], dtype=torch.float64).to(values.dtype)))
    last = int((_bits(flat) == pattern).nonzero()[ties - 1])
    row, column = divmod(last, values.shape[1])
    plan = (n, center, mad, eps, near, fraction, k, upper, lower, magnitude, ties, in_all)
    return Decision(plan, (pattern, row, column + 1))


def _bounds(ranked: torch.Tensor, signed: torch.Tensor, percentile: float) -> tuple[float, float]:
    """Return the percentile as numpy interpolates it, and the smallest value, both beside 0."""
    place = percentile * (len(ranked) - 1)
    floor = min(int(place), len(ranked) - 1)
    low, high = float(ranked[floor]), float(ranked[min(floor + 1, len(ranked) - 1)])
    weight = place - floor
    upper = low + (high - low) * weight if weight < 0.5 else high - (high - low) * (1 - weight)
    return max(0.0, upper), min(0.0, float(signed[0]))


def _selected(values: torch.Tensor, decision: Decision, start: int) -> torch.Tensor:
    """Return the mask of what moves, for rows of the sequence from ``start`` on."""
    bits, (pattern, row, column) = _bits(values), decision.cut
    flat = torch.arange(values.numel(), device=values.device).view(values.shape)
    is_tie = (bits == pattern) & (flat < (row - start) * values.shape[1] + column)
    return (bits < pattern) | is_tie


def uniforms(keys: torch.Tensor, channels: int) -> torch.Tensor:
    """The channel stage of `distviz.stats.kernels.rng`, in int64 arithmetic modulo 2^32."""
    first, second = keys[:, :1], keys[:, 1:]
    word = (torch.arange(channels, device=keys.device) * 0x9E3779B9 + first) & _WORD
    word = ((word ^ (word >> 16)) * 0x21F0AAAD) & _WORD
    word = ((word ^ (word >> 15)) + second) & _WORD
    word = (word * 0xD35A2D97) & _WORD
    word = ((word ^ (word >> 15)) * 0x735A2D97) & _WORD
    word = word ^ (word >> 15)
    return (word >> 8).to(torch.float32) * (2.0**-24)


def apply(
    values: torch.Tensor,
    out: torch.Tensor,
    rows: NDArray[np.int64],
    keys: NDArray[np.uint32],
    decision: Decision,
    bounds: tuple[float, float] | None = None,
    *,
    adds: bool = False,
) -> None:
    """See `distviz.stats.kernels.plans.apply`."""
    words = torch.from_numpy(keys.astype(np.int64)).to(values.device)
    lower, upper = torch.tensor(
        bounds or decision.bounds, dtype=torch.float32, device=values.device
    )
    wide = torch.float64 if values.dtype == torch.float64 else torch.float32
    for start, part, picked in _pieces(values, rows):
        shares = uniforms(words[start : start + part.size], values.shape[1])
        new = shares * torch.where(picked < 0, lower, upper)
        if adds:
            new = picked.to(wide) + new.to(wide)
        result = torch.where(_selected(picked, decision, start), new.to(values.dtype), picked)
        out[torch.from_numpy(part).to(values.device)] = result


def find_moved(
    values: torch.Tensor, rows: NDArray[np.int64], decision: Decision, moved: torch.Tensor
) -> None:
    """See `distviz.stats.kernels.plans.find_moved`."""
    for start, part, picked in _pieces(values, rows):
        index = torch.from_numpy(part).to(values.device)
        moved[index] = _selected(picked, decision, start).to(torch.uint8)


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
    return count_there(values, rows, channels=channels, details=details).host()


def count_magnitudes(
    values: torch.Tensor, slots: NDArray[np.int64], n_slots: int
) -> NDArray[np.integer]:
    """See `distviz.stats.kernels.cpu.count_magnitudes`."""
    values = values.detach()
    rows = DeviceRows.of(np.flatnonzero(slots >= 0), slots, n_slots, values.device)
    return np.asarray(magnitudes_there(values, rows).cpu().numpy())


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
    there = DeviceRows.of(rows, np.zeros(values.shape[0], np.int64), 1, values.device)
    found, row, channel = to_host(largest_there(values, there, most))
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
