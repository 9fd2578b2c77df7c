"""The kernels in plain torch operations, for tensors on any device (and for float64).

Nothing but tables of 65,536 integers, a few scalars and the few values that decide a rank leaves
the device. The answers equal those of :mod:`distviz.kernels.cpu`, the random numbers included.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distviz import grid
from distviz.kernels.types import ChannelSums, Cut, Moments, Observation, Tally

_WORD = 0xFFFFFFFF


def _at(values: torch.Tensor, rows: NDArray[np.int64]) -> torch.Tensor:
    """The chosen rows; the whole tensor, uncopied, where they are all of them in order."""
    if rows.size == values.shape[0] and bool((np.diff(rows) == 1).all()):
        return values
    return values[torch.from_numpy(rows).to(values.device)]


def _upper_codes(values: torch.Tensor) -> torch.Tensor:
    """Upper 16 bits as int64 (float32), or all bits of a 16-bit type."""
    if values.dtype == torch.float32:
        return (values.contiguous().view(torch.int32).to(torch.int64) >> 16) & 0xFFFF
    return values.contiguous().view(torch.int16).to(torch.int64) & 0xFFFF


def _grid_codes(values: torch.Tensor) -> torch.Tensor:
    """Codes on the grid of the dtype; wider types are rounded to bf16, finite staying finite."""
    if values.dtype in (torch.bfloat16, torch.float16):
        return _upper_codes(values)
    narrow = values.float().to(torch.bfloat16)
    codes = _upper_codes(narrow)
    overflow = torch.isfinite(values) & ~torch.isfinite(narrow)
    sign = codes & grid.SIGN
    return torch.where(overflow, sign | (grid.first_nonfinite("bf16") - 1), codes)


def _doubles(values: torch.Tensor) -> torch.Tensor:
    """As float64; on the CPU where the device has no such type."""
    try:
        return values.double()
    except (TypeError, RuntimeError):
        return values.cpu().double()


def _bits(values: torch.Tensor) -> torch.Tensor:
    """Magnitudes as integers that sort as they do."""
    width = {2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()]
    return values.abs().contiguous().view(width)


def count(values: torch.Tensor, rows: NDArray[np.int64]) -> Tally:
    """See `distviz.kernels.cpu.count`."""
    picked = _at(values, rows)
    table = torch.bincount(_upper_codes(picked).flatten(), minlength=grid.CELLS).cpu().numpy()
    lowest = torch.where(torch.isfinite(picked), picked, 0).amin() if picked.numel() else 0.0
    return Tally(table, [table], min(float(lowest), 0.0))


def gather(
    values: torch.Tensor, rows: NDArray[np.int64], cells: NDArray[np.int64], tally: Tally
) -> NDArray[np.float32]:
    """See `distviz.kernels.cpu.gather`."""
    del tally
    picked = _at(values, rows)
    codes = _upper_codes(picked)
    wanted = torch.zeros(grid.CELLS, dtype=torch.bool)
    wanted[torch.from_numpy(cells)] = True
    chosen = wanted.to(values.device)[codes]
    order = torch.argsort(codes[chosen], stable=True)
    return np.asarray(picked[chosen][order].cpu().numpy())


def find_cut(values: torch.Tensor, rows: NDArray[np.int64], magnitude: float, ties: int) -> Cut:
    """See `distviz.kernels.cpu.find_cut`."""
    flags = _bits(_at(values, rows)) == _threshold(values, magnitude)
    places = flags.flatten().nonzero().flatten()
    row, column = divmod(int(places[ties - 1]), values.shape[1])
    return Cut(magnitude, row, column + 1)


def _threshold(values: torch.Tensor, magnitude: float) -> torch.Tensor:
    scalar = torch.tensor([magnitude], dtype=torch.float64).to(values.dtype)
    return _bits(scalar).to(values.device)


def _selected(values: torch.Tensor, cut: Cut) -> torch.Tensor:
    """Boolean mask of what the cut selects among the sequence's own rows."""
    bits, limit = _bits(values), _threshold(values, cut.magnitude)
    flat = torch.arange(values.numel(), device=values.device).view(values.shape)
    is_tie = (bits == limit) & (flat < cut.row * values.shape[1] + cut.column)
    return (bits < limit) | is_tie


def uniforms(keys: torch.Tensor, channels: int) -> torch.Tensor:
    """The channel stage of `distviz.kernels.random`, in int64 arithmetic modulo 2^32."""
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
    cut: Cut,
    bounds: tuple[float, float],
    adds: bool,
) -> None:
    """See `distviz.kernels.cpu.apply`; any floating-point type."""
    picked = _at(values, rows)
    words = torch.from_numpy(keys.astype(np.int64)).to(values.device)
    lower, upper = torch.tensor(bounds, dtype=torch.float32, device=values.device)
    new = uniforms(words, values.shape[1]) * torch.where(picked < 0, lower, upper)
    if adds:
        wide = torch.float64 if values.dtype == torch.float64 else torch.float32
        new = picked.to(wide) + new.to(wide)
    result = torch.where(_selected(picked, cut), new.to(values.dtype), picked)
    out[torch.from_numpy(rows).to(values.device)] = result


def find_moved(
    values: torch.Tensor, rows: NDArray[np.int64], cut: Cut, moved: torch.Tensor
) -> None:
    """See `distviz.kernels.cpu.find_moved`."""
    index = torch.from_numpy(rows).to(values.device)
    moved[index] = _selected(_at(values, rows), cut).to(torch.uint8)


def observe(
    values: torch.Tensor, slots: NDArray[np.int64], n_slots: int, channels: bool
) -> Observation:
    """See `distviz.kernels.cpu.observe`."""
    rows = np.flatnonzero(slots >= 0)
    picked = _at(values, rows)
    of_row = torch.from_numpy(np.ascontiguousarray(slots[rows])).to(values.device)
    cells = _grid_codes(picked) + of_row[:, None] * grid.CELLS
    tables = torch.bincount(cells.flatten(), minlength=n_slots * grid.CELLS)
    zeros = torch.zeros(n_slots, dtype=torch.int64, device=values.device)
    zeros.index_add_(0, of_row, (picked == 0).sum(1))
    wide = _doubles(picked)
    low, high = _extremes(wide, of_row.to(wide.device), n_slots)
    name = grid.grid_for_dtype(str(values.dtype))
    return Observation(
        name,
        tables.cpu().numpy().reshape(n_slots, grid.CELLS),
        zeros.cpu().numpy(),
        low,
        high,
        _moments(wide, of_row.to(wide.device), n_slots),
        values.element_size() > 2,
        _channel_sums(wide) if channels else None,
    )


def _moments(wide: torch.Tensor, of_row: torch.Tensor, n_slots: int) -> list[Moments]:
    finite = torch.isfinite(wide)
    counts, sums, squares = (
        torch.zeros(n_slots, dtype=torch.float64, device=wide.device) for _ in range(3)
    )
    counts.index_add_(0, of_row, finite.sum(1).double())
    sums.index_add_(0, of_row, torch.where(finite, wide, 0.0).sum(1))
    means = sums / counts.clamp(min=1)
    deviations = torch.where(finite, wide - means[of_row][:, None], 0.0)
    squares.index_add_(0, of_row, (deviations**2).sum(1))
    found = zip(counts.tolist(), means.tolist(), squares.tolist(), strict=True)
    return [Moments.of(int(count), mean, m2) for count, mean, m2 in found]


def _extremes(
    wide: torch.Tensor, of_row: torch.Tensor, n_slots: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    def reduce(fill: float, by: str) -> Any:
        kept = torch.where(torch.isfinite(wide), wide, fill)
        ends = kept.amin(1) if by == "amin" else kept.amax(1)
        start = torch.full((n_slots,), fill, dtype=wide.dtype, device=wide.device)
        return start.scatter_reduce(0, of_row, ends, reduce=by).cpu().numpy()

    return reduce(float("inf"), "amin"), reduce(float("-inf"), "amax")


def _channel_sums(wide: torch.Tensor) -> ChannelSums:
    finite = torch.isfinite(wide)
    number = finite.sum(0)
    kept = torch.where(finite, wide, 0.0)
    mean = kept.sum(0) / number.clamp(min=1)
    m2 = (torch.where(finite, wide - mean, 0.0) ** 2).sum(0)
    if wide.shape[0] == 0:
        return ChannelSums.from_values(wide.cpu().numpy())
    low = torch.where(finite, wide, float("inf")).amin(0)
    high = torch.where(finite, wide, float("-inf")).amax(0)
    return ChannelSums(*(part.cpu().numpy() for part in (number, mean, m2, low, high)))
