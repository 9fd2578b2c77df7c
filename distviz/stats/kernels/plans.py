"""The plan of a redistribution on the CPU, and its new values: compiled loops on threads.

Several threads share the rows of a long sequence; results do not depend on the split.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distviz.stats.kernels import plan_loops, sequence_loops
from distviz.stats.kernels.cpu import chunks_of, share
from distviz.stats.kernels.types import Decision, Request

_WORDS: dict[int, Any] = {2: np.uint16, 4: np.uint32, 8: np.uint64}
_FLOATS: dict[torch.dtype, Any] = {
    torch.float16: np.float16,
    torch.bfloat16: np.float32,
    torch.float32: np.float32,
    torch.float64: np.float64,
}
_MANY = 1 << 16
_FEW_BITS = 13


def words_of(values: torch.Tensor) -> NDArray[Any]:
    """Return the bit patterns of a tensor: unsigned integers of its width."""
    known = values.view(torch.int16) if values.dtype == torch.bfloat16 else values  # to NumPy
    return known.numpy().view(_WORDS[values.element_size()])


@cache
def _form(dtype: torch.dtype, is_long: bool) -> tuple[Any, ...]:
    """Return what `distviz.stats.kernels.plan_loops` has to know of a type.

    The patterns of a long sequence are counted by their first 16 bits, those of a short one by
    fewer, so that the counts stay in the nearest cache.
    """
    info = torch.finfo(dtype)
    mantissa = round(-math.log2(info.eps))
    exponents = info.bits - 1 - mantissa
    shift = info.bits - (16 if is_long else _FEW_BITS)
    finite = ((1 << exponents) - 1) << mantissa >> shift
    least = 2 - (1 << (exponents - 1)) - mantissa
    powers = np.ldexp(1.0, least + np.maximum(np.arange((1 << exponents) - 1) - 1, 0))
    words = (np.uint64(number) for number in (shift, mantissa, (1 << (info.bits - 1)) - 1))
    first, *others = words
    return first, finite, *others, powers


def _pattern_of(magnitude: float, dtype: torch.dtype) -> int:
    """Return the bit pattern of a magnitude that a type represents exactly."""
    number: Any = _FLOATS[dtype](magnitude)
    pattern = int(number.view(f"u{number.itemsize}"))
    return pattern >> 16 if dtype == torch.bfloat16 else pattern


def decide(values: torch.Tensor, rows: NDArray[np.int64], request: Request) -> Decision:
    """Plan a redistribution of the finite values of some rows.

    Parameters
    ----------
    values
        (rows, channels), any floating-point type.
    rows
        int64: those of the sequence, in the order in which ties are broken.
    request
        What is asked for.
    """
    words, width = words_of(values), values.shape[1]
    form = _form(values.dtype, rows.size * width >= _MANY)
    chunks = chunks_of(rows, width)
    if len(chunks) == 1:
        plan = plan_loops.plan_rows(words, rows, form, request)
    else:
        plan = _plan_of_chunks(words, chunks, form, request)
    pattern = _pattern_of(plan[9], values.dtype)
    cut = (rows.size, 0) if plan[0] else (0, 0)
    if plan[-2] != plan[-1]:
        cut = sequence_loops.find_cut(words, rows, pattern, plan[-2])
    return Decision(plan, (pattern, *cut))


def _plan_of_chunks(
    words: NDArray[Any], chunks: list[NDArray[np.int64]], form: tuple[Any, ...], request: Request
) -> tuple[Any, ...]:
    """Do the same as `distviz.stats.kernels.plan_loops.plan_rows`, each chunk on a thread."""
    tables = np.zeros((len(chunks), 2 * int(form[3] >> form[0]) + 2), np.int64)
    parts = list(zip(chunks, tables, strict=True))
    share(lambda part: sequence_loops.count_cells(words, part[0], form, part[1]), parts)
    bracketed = plan_loops.bracket(tables.sum(0), form, request)
    _, lot, size, _ = bracketed

    def gather(part: tuple[NDArray[np.int64], NDArray[np.int64]]) -> NDArray[np.uint64]:
        rows, table = part
        own = np.empty(int(table.reshape(2, -1)[:, lot != 0].sum()) + 1, np.uint64)
        sequence_loops.gather_words(words, rows, form, lot, own)
        return own[:-1]

    found = [np.empty(1, np.uint64), *(share(gather, parts) if size else [])]
    plan: tuple[Any, ...] = plan_loops.complete(
        bracketed, np.concatenate(found[::-1]), form, request
    )
    return plan


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
    """Write redistributed rows to ``out``, which may be ``values``.

    A selected value becomes u * upper (u * lower if negative), added to itself if ``adds``; the
    product is float32, rounded to the type of ``values`` once. ``bounds`` is (lower, upper), by
    default that of the decision.
    """
    if values.dtype == torch.float16:
        index = torch.from_numpy(rows)
        own = values[index]
        wide = own.float()
        apply(wide, wide, np.arange(rows.size), keys, decision.widened(), bounds, adds=adds)
        out[index] = torch.where(own.isnan(), own, wide.half())  # with the bits of its NaN
        return
    source, target = words_of(values), words_of(out)
    lower_upper = np.array(bounds or decision.bounds, np.float32)
    pattern, cut_row, column = decision.cut

    def one(part: tuple[slice, NDArray[np.int64]]) -> None:
        span, chunk = part
        limits = (pattern, cut_row - span.start, column)
        state = (chunk, keys[span], limits, lower_upper, adds)
        if values.dtype == torch.bfloat16:
            sequence_loops.apply_bf16(source, target, *state)
        else:
            sequence_loops.apply_wide(values.numpy(), source, out.numpy(), *state)

    parts, start = [], 0
    for chunk in chunks_of(rows, values.shape[1]):
        parts.append((slice(start, start + chunk.size), chunk))
        start += chunk.size
    share(one, parts)


def find_moved(
    values: torch.Tensor, rows: NDArray[np.int64], decision: Decision, moved: torch.Tensor
) -> None:
    """Set ``moved`` (uint8, shape of values) to 1 where the decision selects a value of the rows.

    ``rows`` are those it was made for.
    """
    sequence_loops.find_moved(words_of(values), rows, decision.cut, moved.numpy())


def row_keys(
    seed: int,
    layer: int,
    number: int,
    slots: NDArray[np.int64] | int,
    document: int,
    tokens: NDArray[np.int64],
) -> NDArray[np.uint32]:
    """Fold the keys of rows into two words each.

    Parameters
    ----------
    seed, layer, number, document
        Integers of 64 bits; ``number`` is that of the pass.
    slots, tokens
        int64 (rows,); one slot may stand for all.

    Returns
    -------
    NDArray
        uint32 (rows, 2): ``first`` and ``second`` of `distviz.stats.kernels.rng`.
    """
    of_rows = np.array(slots, np.int64, ndmin=1)  # contiguous and writable: one compiled type
    found: NDArray[np.uint32] = sequence_loops.row_keys(
        (seed, layer, number), of_rows, document, tokens
    )
    return found
