"""The kernels on the CPU: compiled loops on as many threads as torch uses.

The loops release the GIL and threads share the rows. Counters are integers and float sums of
channels are merged in a fixed order, so results do not depend on the split.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distviz.stats import float_grid
from distviz.stats.kernels import numba_loops, pair_loops
from distviz.stats.kernels.types import (
    ChannelSums,
    Observation,
    PairSums,
    Pooled,
    PowerSums,
)
from distviz.stats.moments import Moments

_SMALL = 1 << 16
_MAGNITUDE_16 = np.uint16(0x7FFF)
_MAGNITUDE_32 = np.uint32(0x7FFFFFFF)


_of_pool = threading.local()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "distviz", setattr, (_of_pool, "threads", 1))


def _threads() -> int:
    """Return the number of threads to use: those of torch, one inside of a shared task."""
    return getattr(_of_pool, "threads", None) or torch.get_num_threads()


def share(task: Callable[[Any], Any], parts: list[Any]) -> list[Any]:
    """Run the task on each part; return results in order.

    Other threads help this one: none of them waits for the processor while this one is idle.
    """
    threads = min(_threads(), len(parts))
    if threads < 2:
        return [task(part) for part in parts]
    results: list[Any] = [None] * len(parts)
    left = iter(range(len(parts)))  # whose next is one step for all threads

    def work() -> None:
        for index in left:
            results[index] = task(parts[index])

    helpers = [_pool(threads).submit(work) for _ in range(threads - 1)]
    _of_pool.threads = 1
    try:
        work()
    finally:
        _of_pool.threads = None
        deque(left, maxlen=0)  # nothing is left to do after an error
        waiting = [helper for helper in helpers if not helper.cancel()]
        for helper in waiting:
            helper.exception()
    for helper in waiting:
        helper.result()
    return results


def chunks_of(rows: NDArray[np.int64], width: int) -> list[NDArray[np.int64]]:
    """Split rows into one chunk per thread, or one chunk if there are few."""
    return [rows] if rows.size * width < _SMALL else np.array_split(rows, _threads())


def _codes(values: torch.Tensor) -> NDArray[np.uint16]:
    return values.view(torch.int16).numpy().view(np.uint16)


def words_of(values: torch.Tensor) -> NDArray[Any]:
    """Return the bit patterns of (rows, channels): uint16 for 16-bit types, uint32 for float32."""
    return values.numpy().view(np.uint32) if values.dtype == torch.float32 else _codes(values)


def _magnitude_mask(values: torch.Tensor) -> Any:
    return _MAGNITUDE_32 if values.dtype == torch.float32 else _MAGNITUDE_16


def magnitude_bits(magnitude: float, dtype: torch.dtype) -> Any:
    """Return the bit pattern of a non-negative value that the dtype represents exactly."""
    scalar = torch.tensor([[magnitude]], dtype=torch.float64).to(dtype)
    return words_of(scalar)[0, 0]


def _items(slots: NDArray[np.int64], width: int) -> list[tuple[int, NDArray[np.int64]]]:
    """Split rows into (slot, rows) items, an equal share per thread."""
    order = np.argsort(slots, kind="stable")
    order = order[np.searchsorted(slots[order], 0) :]
    items: list[tuple[int, NDArray[np.int64]]] = []
    for chunk in chunks_of(order, width):
        own = np.split(chunk, np.flatnonzero(np.diff(slots[chunk])) + 1)
        items += [(int(slots[rows[0]]), rows) for rows in own if rows.size]
    return items


def observe(
    values: torch.Tensor,
    slots: NDArray[np.int64],
    n_slots: int,
    *,
    channels: bool = True,
    details: bool = False,
) -> Observation:
    """Count a tensor by slot.

    Parameters
    ----------
    values
        (rows, channels), any floating-point type.
    slots
        int64 (rows,): the table of each row, -1 for none.
    n_slots
        Number of tables.
    channels
        Whether to compute statistics of each channel.
    details
        Whether these include higher moments and the rows whose largest magnitude is there.
    """
    values = values.detach()
    is_rounded = values.dtype == torch.float32
    items = _items(slots, values.shape[1])
    tables = np.zeros((n_slots, float_grid.CELLS), np.uint32)
    first = {slot: index for index, (slot, _) in reversed(list(enumerate(items)))}
    # Only a slot that is split among threads needs a second table.
    own = [
        tables[slot] if first[slot] == index else np.zeros(float_grid.CELLS, np.uint32)
        for index, (slot, _) in enumerate(items)
    ]
    rows = [rows for _, rows in items]
    parts, sums = _sums_of_parts(values, rows, own, details=details)
    zeros = np.zeros(n_slots, np.int64)
    low, high = np.full(n_slots, np.inf), np.full(n_slots, -np.inf)
    moments = [Moments() for _ in range(n_slots)]
    for index, ((slot, _), part) in enumerate(zip(items, parts, strict=True)):
        if first[slot] != index:
            tables[slot] += own[index]
        zeros[slot] += part.zeros
        low[slot], high[slot] = min(low[slot], part.low), max(high[slot], part.high)
        moments[slot] += part.moments
    name = float_grid.grid_for_dtype(str(values.dtype))
    return Observation(
        name, tables, zeros, low, high, moments, is_rounded, sums if channels else None
    )


def count_magnitudes(
    values: torch.Tensor, slots: NDArray[np.int64], n_slots: int
) -> NDArray[np.integer]:
    """Count magnitudes by slot, as `observe` does: unsigned or signed integers (n_slots, 32768).

    The cells are the codes of the grid without the sign, those of infinities and NaN included.
    """
    values = values.detach()
    words, items = words_of(values), _items(slots, values.shape[1])
    is_wide = words.dtype == np.uint32
    add = numba_loops.count_magnitudes_32 if is_wide else numba_loops.count_magnitudes_16

    def one(rows: NDArray[np.int64]) -> NDArray[np.uint32]:
        table = np.zeros(float_grid.SIGN, np.uint32)
        add(words, rows, table)
        return table

    tables = np.zeros((n_slots, float_grid.SIGN), np.uint32)
    parts = share(one, [rows for _, rows in items]) if items else []
    for (slot, _), table in zip(items, parts, strict=True):
        tables[slot] += table
    return tables


def summarise(
    table: NDArray[Any], magnitudes: NDArray[np.float64], c: float, given_eps: float
) -> tuple[Any, ...]:
    """Return (count, mean, std, eps, near_zero, l1, l2, gini, absmax) of a table of 16-bit codes.

    ``table`` is of any integer type, (65,536,); ``given_eps`` < 0 asks for its own
    1.4826 * MAD * c.
    """
    values = np.empty(magnitudes.size)
    negative, positive = np.empty((2, magnitudes.size), np.int64)
    filled = numba_loops.compress(table, magnitudes, values, negative, positive)
    cells = (values[:filled], negative[:filled], positive[:filled])
    found: tuple[Any, ...] = numba_loops.summarise(*cells, c, given_eps)
    return found


def _sums_of_parts(
    values: torch.Tensor,
    rows: list[NDArray[np.int64]],
    tables: list[NDArray[np.uint32]],
    *,
    details: bool,
) -> tuple[list[Pooled], ChannelSums]:
    """Count parts of the rows, each into its table.

    Returns what all channels of each part have together, and the sums of each channel over all
    parts. Parts with NaN or infinities use masked NumPy.
    """
    n_powers = 5 if values.dtype == torch.float32 or details else 2
    shift = (
        values[int(rows[0][0])].float().numpy() if rows else np.zeros(values.shape[1], np.float32)
    )
    shift = np.where(np.isfinite(shift), shift, np.float32(0))
    sums = PowerSums.empty([part.size for part in rows], shift, n_powers)
    tops = np.zeros((len(rows) if details else 0, values.shape[1]), np.int64)

    def one(index: int) -> None:
        found = (tuple(sums.powers[index]), sums.ends[index], sums.signs[index])
        _observe_rows(values, rows[index], shift, tables[index], *found)
        numba_loops.pool_channels(rows[index].size, shift, *found, sums.together[index])
        if details:
            _count_tops(values, rows[index], tops[index])

    share(one, list(range(len(rows))))
    top = float_grid.first_nonfinite(float_grid.grid_for_dtype(str(values.dtype)))
    halves = (slice(top, float_grid.SIGN), slice(top + float_grid.SIGN, None))
    finite = np.array([not any(table[half].any() for half in halves) for table in tables], bool)
    sums = sums.only(finite)
    total, pooled = sums.channels(details=details), iter(sums.pooled())
    parts = []
    for part, is_finite in zip(rows, finite.tolist(), strict=True):
        if is_finite:
            parts.append(next(pooled))
            continue
        masked = ChannelSums.from_values(values[torch.from_numpy(part)].double().numpy())
        parts.append(masked.pooled())
        total = total + masked
    return parts, replace(total, top=tops.sum(axis=0)) if details else total


def _observe_rows(
    values: torch.Tensor,
    rows: NDArray[np.int64],
    shift: NDArray[np.float32],
    table: NDArray[np.uint32],
    powers: tuple[NDArray[np.float64], ...],
    ends: NDArray[np.float32],
    signs: NDArray[np.uint32],
) -> None:
    state = (rows, shift, table, powers, ends, signs)
    if values.dtype == torch.float32:
        array = values.numpy()
        numba_loops.observe_32(array, array.view(np.uint32), *state)
    elif values.dtype == torch.bfloat16:
        numba_loops.observe_bf16(_codes(values), *state)
    else:
        numba_loops.observe_16(_codes(values), _floats_of_fp16(), *state)


def _count_tops(values: torch.Tensor, rows: NDArray[np.int64], found: NDArray[np.int64]) -> None:
    """Count by channel, in place, the rows whose first largest finite magnitude is there."""
    mask = np.uint32(_magnitude_mask(values))
    infinite = np.uint32(magnitude_bits(np.inf, values.dtype))
    numba_loops.count_tops(words_of(values), rows, mask, infinite, found)


def find_largest(
    values: torch.Tensor,
    rows: NDArray[np.int64],
    channels: NDArray[np.int64],
    highest: float,
    most: int,
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the largest finite magnitudes of some channels, none of which exceeds ``highest``.

    At most ``most``, by descending magnitude, of equal ones the first in the order of ``rows`` and
    then ``channels``: the values with sign, their positions in ``rows``, and their channels.
    """
    values = values.detach()
    places = np.empty((most, 2), np.int64)
    limits = tuple(np.uint32(magnitude_bits(one, values.dtype)) for one in (highest, np.inf))
    mask = np.uint32(_magnitude_mask(values))
    filled = numba_loops.find_largest(words_of(values), rows, channels, mask, limits, places)
    row, channel = places[:filled].T
    channel = channels[channel]
    picked = values[torch.from_numpy(rows[row]), torch.from_numpy(channel)]
    return picked.double().numpy(), row, channel


@cache
def _floats_of_fp16() -> NDArray[np.float32]:
    with np.errstate(invalid="ignore"):
        return np.arange(float_grid.CELLS, dtype=np.uint16).view(np.float16).astype(np.float32)


def compare(first: torch.Tensor, second: torch.Tensor, limit: float = 0.0) -> PairSums:
    """Compare two tensors (rows, channels) of one shape, element by element, in float64.

    Only a difference above ``limit`` is looked for as the largest.
    """
    x, y = (_wide(side).numpy() for side in (first, second))
    rows, width = x.shape
    sums, counts = np.zeros((rows, 5)), np.zeros(rows, np.int64)

    def one(part: NDArray[np.int64]) -> tuple[Any, ...]:
        span = slice(int(part[0]), int(part[-1]) + 1) if part.size else slice(0)
        of_channels = np.zeros(width), np.zeros(width)
        own = (x[span], y[span], sums[span], counts[span], *of_channels)
        most, row, channel = pair_loops.compare_rows(*own, limit)
        return (*of_channels, most, row + span.start if row >= 0 else -1, channel)

    found = share(one, chunks_of(np.arange(rows), width))
    most, row, channel = max((part[2:] for part in found), key=lambda part: part[0])
    errors, squares = (sum((part[n] for part in found), np.zeros(width)) for n in (0, 1))
    return PairSums(sums, counts, errors, squares, most, row, channel)


def _wide(values: torch.Tensor) -> torch.Tensor:
    """Return values of 16 bits in float32, which represents them exactly."""
    return values.float() if values.element_size() < 4 else values
