"""The kernels in plain torch operations, for tensors on any device (and for float64).

Only tables of 65,536 integers, a few numbers per row or channel and the few values around a rank
are copied from the device, and the additional memory is bounded. Results equal those of
:mod:`distviz.stats.kernels.cpu`, random numbers included; sums are float64, or two passes of
float32 on devices without float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from distviz.stats import float_grid
from distviz.stats.kernels.types import (
    ChannelSums,
    Decision,
    Observation,
    PairSums,
    Request,
    central_sums,
)
from distviz.stats.moments import Moments
from distviz.stats.statistics import MAD_TO_SIGMA, SMALLEST_MAD

_WORD = 0xFFFFFFFF
_CHUNK_VALUES = 1 << 23


def _at(values: torch.Tensor, rows: NDArray[np.int64]) -> torch.Tensor:
    """Return some rows; the tensor itself, not a copy, if these are all rows in order."""
    if rows.size == values.shape[0] and bool((np.diff(rows) == 1).all()):
        return values
    return values[torch.from_numpy(rows).to(values.device)]


def _pieces(
    values: torch.Tensor, rows: NDArray[np.int64]
) -> Iterator[tuple[int, NDArray[np.int64], torch.Tensor]]:
    """Yield (start, rows, values) of some million values at a time."""
    step = max(1, _CHUNK_VALUES // max(values.shape[1], 1))
    if rows.size <= step:
        yield 0, rows, _at(values, rows)
        return
    for start in range(0, rows.size, step):
        part = rows[start : start + step]
        yield start, part, values[torch.from_numpy(part).to(values.device)]


def _upper_codes(values: torch.Tensor) -> torch.Tensor:
    """Return the upper 16 bits (float32) or all bits of a 16-bit type, as int64."""
    if values.dtype == torch.float32:
        return (values.contiguous().view(torch.int32).to(torch.int64) >> 16) & 0xFFFF
    return values.contiguous().view(torch.int16).to(torch.int64) & 0xFFFF


def _grid_codes(values: torch.Tensor) -> torch.Tensor:
    """Return codes on the grid of the dtype; wider types are rounded to bf16, finite to finite."""
    if values.dtype in (torch.bfloat16, torch.float16):
        return _upper_codes(values)
    narrow = values.float().to(torch.bfloat16)
    codes = _upper_codes(narrow)
    overflow = torch.isfinite(values) & ~torch.isfinite(narrow)
    sign = codes & float_grid.SIGN
    return torch.where(overflow, sign | (float_grid.first_nonfinite("bf16") - 1), codes)


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
    rows = np.flatnonzero(slots >= 0)
    tables = torch.zeros(n_slots * float_grid.CELLS, dtype=torch.int64, device=values.device)
    zeros = np.zeros(n_slots, np.int64)
    low, high = np.full(n_slots, np.inf), np.full(n_slots, -np.inf)
    moments = [Moments() for _ in range(n_slots)]
    is_rounded = values.element_size() > 2
    sums: ChannelSums | None = None
    for _, part, picked in _pieces(values, rows):
        of_row = slots[part]
        offsets = torch.from_numpy(of_row * float_grid.CELLS).to(values.device)
        cells = _grid_codes(picked) + offsets[:, None]
        tables += torch.bincount(cells.flatten(), minlength=n_slots * float_grid.CELLS)
        np.add.at(zeros, of_row, (picked == 0).sum(1).cpu().numpy())
        if not picked.numel():
            continue
        wide = widened(picked)
        finite = torch.isfinite(wide)
        ends = _ends(wide, finite, 1)
        np.minimum.at(low, of_row, ends[0])
        np.maximum.at(high, of_row, ends[1])
        found = _moments(wide, finite, of_row, n_slots, 4 if is_rounded else 2)
        moments = [before + new for before, new in zip(moments, found, strict=True)]
        if channels:
            of_piece = _channel_sums(wide, finite, details=details)
            sums = of_piece if sums is None else sums + of_piece
    if channels and sums is None:
        sums = ChannelSums.from_values(np.empty((0, values.shape[1])))
    counted = tables.cpu().numpy().reshape(n_slots, float_grid.CELLS)
    name = float_grid.grid_for_dtype(str(values.dtype))
    return Observation(name, counted, zeros, low, high, moments, is_rounded, sums)


def count_magnitudes(
    values: torch.Tensor, slots: NDArray[np.int64], n_slots: int
) -> NDArray[np.integer]:
    """See `distviz.stats.kernels.cpu.count_magnitudes`."""
    size = n_slots * float_grid.SIGN
    table = torch.zeros(size, dtype=torch.int64, device=values.device)
    for _, part, picked in _pieces(values.detach(), np.flatnonzero(slots >= 0)):
        offsets = torch.from_numpy(slots[part] * float_grid.SIGN).to(values.device)
        cells = (_grid_codes(picked) & (float_grid.SIGN - 1)) + offsets[:, None]
        table += torch.bincount(cells.flatten(), minlength=size)
    return table.cpu().numpy().reshape(n_slots, float_grid.SIGN)


def _ends(wide: torch.Tensor, finite: torch.Tensor, dim: int) -> NDArray[np.float64]:
    """Return the smallest and the largest finite values along an axis, float64 (2, ...)."""
    low = torch.where(finite, wide, float("inf")).amin(dim)
    high = torch.where(finite, wide, float("-inf")).amax(dim)
    return np.stack([_host(low), _host(high)])


def _host(numbers: torch.Tensor) -> NDArray[np.float64]:
    return numbers.cpu().double().numpy()


def _power_sums(
    wide: torch.Tensor, finite: torch.Tensor, center: torch.Tensor, dim: int, highest: int
) -> NDArray[np.float64]:
    """Sum along an axis what `ChannelSums.of_powers` takes."""
    deviations = torch.where(finite, wide - center, 0.0)
    sums = [(deviations**power).sum(dim) for power in range(1, highest + 1)]
    if highest > 2:
        sums.append(torch.where(finite, wide.abs(), 0.0).sum(dim))
    return np.stack([_host(one) for one in sums])


def _moments(
    wide: torch.Tensor, finite: torch.Tensor, of_row: NDArray[np.int64], n_slots: int, highest: int
) -> list[Moments]:
    """Return moments by two passes; rows are summed on the device, slots on the host in order."""
    counts = np.bincount(of_row, finite.sum(1).cpu().numpy(), n_slots).astype(np.int64)
    sums = np.bincount(of_row, _host(torch.where(finite, wide, 0.0).sum(1)), n_slots)
    centers = torch.from_numpy(sums / np.maximum(counts, 1)).to(wide.dtype)
    own = centers[of_row].to(wide.device)[:, None]
    of_rows = _power_sums(wide, finite, own, 1, highest)
    powers = np.stack([np.bincount(of_row, one, n_slots) for one in of_rows]).astype(float)
    shift, m2, higher = central_sums(counts, powers)
    means = centers.double().numpy() + shift
    more = [None] * n_slots if higher is None else [tuple(one) for one in higher.T.tolist()]
    return list(map(Moments.of, counts.tolist(), means.tolist(), m2.tolist(), more))


def _channel_sums(wide: torch.Tensor, finite: torch.Tensor, *, details: bool) -> ChannelSums:
    number = finite.sum(0)
    kept = torch.where(finite, wide, 0.0)
    center = kept.sum(0) / number.clamp(min=1)
    powers = _power_sums(wide, finite, center, 0, 4 if details else 2)
    signs = [number, (wide == 0).sum(0), (kept > 0).sum(0)]
    counted = np.stack([one.cpu().numpy() for one in signs])
    found = ChannelSums.of_powers(counted, _host(center), powers, _ends(wide, finite, 0))
    if not details:
        return found
    first = torch.where(finite, wide.abs(), -1.0).argmax(1)[finite.any(1)]
    return replace(found, top=torch.bincount(first, minlength=wide.shape[1]).cpu().numpy())


def find_largest(
    values: torch.Tensor,
    rows: NDArray[np.int64],
    channels: NDArray[np.int64],
    highest: float,
    most: int,
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """See :func:`distviz.stats.kernels.cpu.find_largest`."""
    columns = torch.from_numpy(channels).to(values.device)
    found = np.empty(0), np.empty(0, np.int64)  # values, and places among rows times channels
    for start, _, part in _pieces(values.detach(), rows):
        picked = part[:, columns].flatten()
        sizes = torch.where(picked.isfinite(), picked.abs(), -1)
        least = sizes.topk(min(most, sizes.numel())).values[-1].clamp(min=0)
        above, equal = ((torch.nonzero(one)[:most, 0]) for one in (sizes > least, sizes == least))
        places = torch.cat([above, equal])
        own = _host(picked[places]), places.cpu().numpy() + start * channels.size
        found = np.concatenate([found[0], own[0]]), np.concatenate([found[1], own[1]])
        if (np.abs(found[0]) == highest).sum() >= most:  # later rows have nothing larger
            break
    order = np.lexsort((found[1], -np.abs(found[0])))[:most]
    row, column = np.divmod(found[1][order], max(channels.size, 1))
    return found[0][order], row, channels[column]


def compare(first: torch.Tensor, second: torch.Tensor, limit: float = 0.0) -> PairSums:
    """See :func:`distviz.stats.kernels.cpu.compare`; on the CPU where a device has no float64."""
    rows, width = first.shape
    device = first.device if has_float64(first.device.type) else torch.device("cpu")
    sums, counts, of_channels, best = [], [], torch.zeros(2, width, device=device).double(), limit
    place = (-1, -1)
    step = max(1, _CHUNK_VALUES // max(width, 1))
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
