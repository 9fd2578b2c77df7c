"""What ARM will do to one sequence, the rows of the sequence, and helpers for tensors and masks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distviz.errors import RequestError
from distviz.stats import check_tensor, to_keys, to_mask

if TYPE_CHECKING:
    import torch

    from distviz.stats.kernels import Decision


@dataclass(frozen=True, slots=True)
class Plan:
    """One redistribution of one sequence; every field is deterministic and exact.

    Attributes
    ----------
    n
        Finite values in the sequence.
    center, mad
        Lower median of abs(x) and lower median of abs(abs(x) - center), without a lower limit.
    eps
        1.4826 * max(mad, 1e-12) * c.
    near
        Share of abs(x) < eps.
    fraction, k
        Fraction (clipped or given) and number of values that move.
    upper, lower
        Bounds of the new values of either sign.
    magnitude, ties
        The k-th smallest magnitude, and how many values equal to it move (lowest flat index first).
    ties_in_all
        How many values are equal to it.
    """

    n: int
    center: float
    mad: float
    eps: float
    near: float
    fraction: float
    k: int
    upper: float
    lower: float
    magnitude: float
    ties: int
    ties_in_all: int

    @classmethod
    def of(cls, decision: Decision | None) -> Plan | None:
        """Return the plan that was decided, None if no value is finite; waits for a device."""
        if decision is None:
            return None
        numbers = decision.numbers()
        return cls(*numbers) if numbers[0] else None


@dataclass(frozen=True)
class SequenceRows:
    """The rows of one sequence, in the order in which ties are broken, and their random keys.

    Attributes
    ----------
    rows
        int64 (n,): rows of the tensor.
    document
        Key of the random numbers.
    tokens, slots
        Further keys, one per row: the token, and the expert's rank among the token's experts (0
        without experts).
    """

    rows: NDArray[np.int64]
    document: int
    tokens: NDArray[np.int64]
    slots: NDArray[np.int64] | int = 0

    def keys(self, seed: int, layer: int, number: int) -> NDArray[np.uint32]:
        """Return the keys of the rows in a pass, see `distviz.stats.kernels.row_keys`."""
        from distviz.stats import kernels

        return kernels.row_keys(seed, layer, number, self.slots, self.document, self.tokens)


def copy_rows(source: torch.Tensor, target: torch.Tensor, rows: NDArray[np.int64]) -> None:
    """Copy some rows, unless both tensors share their memory."""
    from distviz.stats import kernels

    if rows.size and source.data_ptr() != target.data_ptr():
        index = kernels.to_device(rows, source.device)
        target[index] = source[index]


def target_of(flat: torch.Tensor, x: torch.Tensor, out: torch.Tensor | None) -> torch.Tensor:
    """Return the (rows, channels) tensor to write: a view of ``out`` if that is contiguous."""
    import torch

    if out is not None:
        _check_out(x, out)
    if out is None or not out.is_contiguous():
        return torch.empty_like(flat)
    return out.detach().view(flat.shape)


def _check_out(x: torch.Tensor, out: torch.Tensor) -> None:
    check_tensor(out, "out")
    if (out.shape, out.dtype, out.device) != (x.shape, x.dtype, x.device):
        given, wanted = (
            f"{tuple(one.shape)} {one.dtype}{f' on {one.device}' * (x.device != out.device)}"
            for one in (out, x)
        )
        raise RequestError(f"out is {given}, x is {wanted}")
    is_x = out.data_ptr() == x.data_ptr() and out.stride() == x.stride()
    shared = out.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
    if (shared and not is_x and _overlaps(x, out)) or _has_repeated(out):
        raise RequestError(
            "out shares memory with x, or holds a value several times",
            "give x itself, or a tensor of its own",
        )


def _overlaps(x: torch.Tensor, out: torch.Tensor) -> bool:
    """Whether the ranges of memory of two tensors overlap."""
    (a, a_end), (b, b_end) = (
        (one.data_ptr(), one.data_ptr() + one.element_size() * (1 + _reach(one)))
        for one in (x, out)
    )
    return a < b_end and b < a_end


def _reach(x: torch.Tensor) -> int:
    return sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True))


def _has_repeated(x: torch.Tensor) -> bool:
    """Whether several places of a tensor are the same memory, as after ``expand``."""
    return any(n > 1 and step == 0 for n, step in zip(x.shape, x.stride(), strict=True))


def sequences_of(x: torch.Tensor, mask: Any, documents: Any, tokens: Any) -> list[SequenceRows]:
    """Return the rows of each sequence of a batch; arguments as of a call of `ARM`."""
    check_tensor(x, "x", (2, 3))
    count, length = shape = (x.shape[0], x.shape[1]) if x.dim() == 3 else (1, x.shape[0])
    valid = None if mask is None else _of_shape(to_mask(mask, "mask"), "mask", shape)
    if tokens is not None:
        tokens = _of_shape(to_keys(tokens, "tokens"), "tokens", shape)
    owners: Any = range(count)
    if documents is not None:
        owners = _of_shape(to_keys(documents, "documents"), "documents", (count,)).tolist()
    sequences = []
    for index, owner in enumerate(owners):
        inside = np.arange(length) if valid is None else np.flatnonzero(valid[index])
        own = np.arange(inside.size) if tokens is None else tokens[index, inside]
        sequences.append(SequenceRows(inside + index * length, owner, own))
    return sequences


def _of_shape(array: NDArray[Any], name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return an array of a shape; a batch of one may omit the batch dimension."""
    if array.shape not in (shape, shape[1:] if shape[0] == 1 else shape):
        raise RequestError(f"{name} has shape {array.shape}, expected {shape}")
    return array.reshape(shape)


def one_sequence(x: torch.Tensor, mask: Any) -> tuple[torch.Tensor, NDArray[np.int64]]:
    """Return one sequence of any shape as (rows, channels), and its rows that take part."""
    check_tensor(x, "x")
    values = x.detach().contiguous()
    leading = tuple(values.shape[:-1])
    rows = values.view(math.prod(leading), values.shape[-1] if values.dim() else 1)
    if mask is None:
        return rows, np.arange(rows.shape[0])
    return rows, np.flatnonzero(_of_shape(to_mask(mask, "mask"), "mask", leading))
