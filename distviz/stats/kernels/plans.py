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

_WORDS = {2: (torch.int16, np.uint16), 4: (torch.int32, np.uint32), 8: (torch.int64, np.uint64)}
_MANY = 1 << 16
_FEW_BITS = 13


def words_of(values: torch.Tensor) -> NDArray[Any]:
    """Return the bit patterns of a tensor: unsigned integers of its width."""
    signed, unsigned = _WORDS[values.element_size()]
    return values.view(signed).numpy().view(unsigned)


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
    bias = (1 << (exponents - 1)) - 1
    words = (shift, mantissa, (1023 - bias) << 52, (1 << (info.bits - 1)) - 1)
    first, *others = map(np.uint64, words)
    return first, finite, *others, info.smallest_normal * info.eps


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
    parts = list(enumerate(chunks_of(rows, width)))
    tables = np.zeros((len(parts), 2 * int(form[4] >> form[0]) + 2), np.uint32)
    share(lambda part: sequence_loops.count_cells(words, part[1], form, tables[part[0]]), parts)
    bracketed = plan_loops.bracket(tables, form, request)
    lot, sizes = bracketed[1:3]

    def gather(part: tuple[int, NDArray[np.int64]]) -> NDArray[np.uint64]:
        out = np.empty(int(sizes[part[0]]) + 1, np.uint64)
        sequence_loops.gather_words(words, part[1], form, lot, out)
        return out[:-1]

    found = np.concatenate(share(gather, parts)) if sizes.any() else np.empty(0, np.uint64)
    *plan, pattern = plan_loops.complete(bracketed, found, form, request)
    cut = (rows.size, 0) if plan[0] else (0, 0)
    if plan[-2] != plan[-1]:
        cut = sequence_loops.find_cut(words, rows, pattern, plan[-2])
    return Decision(tuple(plan), (pattern, *cut))


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
    of_rows = np.asarray(slots, np.int64).reshape(-1)
    found: NDArray[np.uint32] = sequence_loops.row_keys(
        (seed, layer, number), of_rows, document, tokens
    )
    return found
