"""One fused kernel for CUDA: counts, sums of channels and maxima of rows by one read of the values.

Needs Triton, which builds of torch for CUDA bring along. Tables take integer additions, whose order
does not matter; each program sums its rows in float64 in a fixed order, and torch adds up the
programs, so that results are the same in every run.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_ROWS, _STEP, _COLUMNS = 256, 8, 128


@triton.jit
def _value_of(code, infinite: tl.constexpr):
    """Return the float32 value of codes of bfloat16 or float16."""
    if infinite == 0x7F80:
        value = (code << 16).to(tl.float32, bitcast=True)
    else:
        value = code.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    return value


@triton.jit
def _add_powers(sums, value, centred, n_powers: tl.constexpr):
    """Return the sums of five powers with those of further rows."""
    first, second, third, fourth, absolute = sums
    square = centred * centred
    first += tl.sum(centred, 0)
    second += tl.sum(square, 0)
    if n_powers == 5:
        third += tl.sum(square * centred, 0)
        fourth += tl.sum(square * square, 0)
        absolute += tl.sum(tl.abs(value).to(tl.float64), 0)
    return first, second, third, fourth, absolute


@triton.jit
def _store(out, numbers, n: tl.constexpr, column, width):
    """Write the first n of some numbers per column below each other."""
    block = out + tl.program_id(0) * n * width + column
    for index in tl.static_range(n):
        tl.store(block + index * width, numbers[index], mask=column < width)


@triton.jit
def _count(
    codes,
    rows_slots_shift,
    table,
    outputs,
    n_rows,
    width,
    infinite: tl.constexpr,
    n_powers: tl.constexpr,
    rows: tl.constexpr,
    step: tl.constexpr,
    columns: tl.constexpr,
):
    """Count a block of rows and columns; see `count_fused` for what the pointers hold."""
    places, slots, shift = rows_slots_shift
    signs, powers, ends, tops, firsts = outputs
    column = tl.program_id(1) * columns + tl.arange(0, columns)
    origin = tl.load(shift + column, mask=column < width, other=0.0)
    zero = tl.zeros((columns,), tl.float64)
    sums = (zero, zero, zero, zero, zero)
    number = tl.zeros((columns,), tl.int32)
    none, above = number, number
    low = tl.full((columns,), float("inf"), tl.float32)
    high = -low
    for start in range(0, rows, step):
        row = tl.program_id(0) * rows + start + tl.arange(0, step)
        is_row = row < n_rows
        place = tl.load(places + row, mask=is_row, other=0)
        slot = tl.load(slots + row, mask=is_row, other=0)
        inside = is_row[:, None] & (column < width)[None, :]
        at = place[:, None] * width + column[None, :]
        code = tl.load(codes + at, mask=inside, other=0).to(tl.int32) & 0xFFFF
        tl.atomic_add(table + slot[:, None] * 65536 + code, 1, mask=inside, sem="relaxed")
        kept = inside & ((code & 0x7FFF) < infinite)
        value = tl.where(kept, _value_of(code, infinite), 0.0)
        number += tl.sum(kept.to(tl.int32), 0)
        none += tl.sum((kept & (value == 0)).to(tl.int32), 0)
        above += tl.sum((kept & (value > 0)).to(tl.int32), 0)
        low = tl.minimum(low, tl.min(tl.where(kept, value, float("inf")), 0))
        high = tl.maximum(high, tl.max(tl.where(kept, value, float("-inf")), 0))
        centred = tl.where(kept, value.to(tl.float64) - origin[None, :], 0.0)
        sums = _add_powers(sums, value, centred, n_powers)
        sizes = tl.where(kept, tl.abs(value), -1.0)
        most, first = tl.max(sizes, 1, return_indices=True)
        of_row = row * tl.num_programs(1) + tl.program_id(1)
        tl.store(tops + of_row, most, mask=is_row)
        tl.store(firsts + of_row, first, mask=is_row)
    _store(signs, (number, none, above), 3, column, width)
    _store(ends, (low, high), 2, column, width)
    _store(powers, sums, n_powers, column, width)


def count_fused(
    values: torch.Tensor,
    places: torch.Tensor,
    slots: torch.Tensor,
    table: torch.Tensor,
    shift: torch.Tensor,
    *,
    n_powers: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Count rows of a 16-bit type (rows, channels) into ``table``, and sum each channel.

    Parameters
    ----------
    places, slots
        int64 (n,): the rows, and the table of each.
    table
        int32 (slots * 65536,): is added to.
    shift
        float64 (channels,): what the powers are about.
    n_powers
        2 or 5, see `ChannelSums.of_powers`.

    Returns
    -------
    tuple
        int64 (3, channels) finite values, zeros, positive ones; float64 (powers, channels);
        float32 (2, channels) extremes; float32 (n,) the largest magnitude of each row, -1 without
        finite values; int64 (n,) the first channel that has it.
    """
    n, width, device = len(places), values.shape[1], values.device
    blocks, parts = max(triton.cdiv(n, _ROWS), 1), triton.cdiv(width, _COLUMNS)
    signs = torch.empty(blocks, 3, width, dtype=torch.int32, device=device)
    powers = torch.empty(blocks, n_powers, width, dtype=torch.float64, device=device)
    ends = torch.empty(blocks, 2, width, dtype=torch.float32, device=device)
    tops = torch.empty(n, parts, dtype=torch.float32, device=device)
    firsts = torch.empty(n, parts, dtype=torch.int32, device=device)
    infinite = 0x7C00 if values.dtype == torch.float16 else 0x7F80
    sizes = (n, width, infinite, n_powers, _ROWS, _STEP, _COLUMNS)
    outputs = (signs, powers, ends, tops, firsts)
    _count[blocks, parts](values.view(torch.int16), (places, slots, shift), table, outputs, *sizes)
    extremes = torch.stack([ends[:, 0].amin(0), ends[:, 1].amax(0)])
    best = tops.argmax(1, keepdim=True)
    first = (best * _COLUMNS + firsts.gather(1, best))[:, 0]
    return signs.sum(0), powers.sum(0), extremes, tops.amax(1), first
