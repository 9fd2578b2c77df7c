"""Follow the channel dimension of tensors through the torch functions of a call.

A convolution, and the norms and poolings of its kind, define the dimension of its output that
holds the channels; a linear layer, an embedding and an attention define the last. Functions that
keep, move, split or merge dimensions take it along. Where it gets lost it is unknown, never
guessed.

Cost: 5 to 15 microseconds for each torch function of the call. Tensors are held by weak references.
Importing this module imports torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from distviz.models.architectures.function_tracer import function_name

_CONVOLUTIONAL = re.compile(r"conv|pool|batchnorm|instancenorm|groupnorm", re.IGNORECASE)
_SPATIAL = re.compile(r"(?:conv|conv_transpose|\w*pool)(\d)d(?:_with_indices)?")
_DIM_ONE = frozenset(
    ("batch_norm", "instance_norm", "group_norm", "local_response_norm", "interpolate", "upsample")
)
_IMAGES = frozenset(("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "fold", "col2im"))
_LAST = frozenset(
    (
        *("linear", "bilinear", "embedding", "embedding_bag", "one_hot", "lstm", "gru", "rnn_tanh"),
        *("rnn_relu", "scaled_dot_product_attention", "multi_head_attention_forward"),
    )
)
_LAYER_NORMS = frozenset(("layer_norm", "rms_norm"))
_PRODUCTS = frozenset(("matmul", "rmatmul", "bmm", "mm", "mv", "addmm", "baddbmm"))
_MOVES = frozenset(
    (
        *("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "adjoint"),
        *("T", "mT", "H", "mH", "squeeze", "unsqueeze", "select", "stack", "unbind", "mean", "sum"),
        *("amax", "amin", "max", "min", "std", "var", "norm", "logsumexp", "prod", "median"),
    )
)
_RESHAPES = frozenset(("reshape", "view", "flatten", "unflatten", "view_as", "reshape_as", "ravel"))
_BROADCASTS = frozenset(("expand", "expand_as", "broadcast_to", "repeat", "tile"))
_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
_PLAIN = frozenset(
    (int, float, bool, str, slice, type(None), torch.Size, torch.dtype, torch.device)
)

_BASIC_INDICES = frozenset((int, slice, type(None), type(Ellipsis)))


class Span(NamedTuple):
    """The dimensions that hold the channels: from the negative index ``first``, ``n`` of them.

    ``n`` is 0 where they are unknown.
    """

    first: int
    n: int = 1


LAST = Span(-1)
UNKNOWN = Span(0, 0)


def is_convolutional(model: nn.Module) -> bool:
    """Return whether a model has modules whose channels are not the last dimension."""
    return any(_CONVOLUTIONAL.search(type(module).__name__) for module in model.modules())


def has_channels_last(module: nn.Module) -> bool:
    """Return whether the output of a module has its channels last, as its class tells."""
    is_norm = type(module) in (nn.LayerNorm, nn.RMSNorm)
    return is_norm or isinstance(module, nn.Linear | nn.Embedding)


class ChannelTracer(TorchFunctionMode):
    """Follows channel dimensions while its context lasts."""

    def __init__(self, is_convolutional: bool) -> None:
        super().__init__()
        self._is_convolutional = is_convolutional
        self._known: dict[int, tuple[Any, Span]] = {}

    def clear(self) -> None:
        """Forget the tensors of earlier calls."""
        self._known.clear()

    def dim_of(self, tensor: torch.Tensor) -> int | None:
        """Return the dimension of the channels, -1 for the last; None where it is not known."""
        span = self._span(tensor)
        if span is None and (tensor.ndim < 3 or (tensor.ndim == 3 and not self._is_convolutional)):
            return -1
        if span == UNKNOWN and tensor.ndim < 3:
            return -1
        if span is None or span.n != 1 or -span.first > tensor.ndim:
            return None
        return -1 if span == LAST else tensor.ndim + span.first

    def copy(self, tensor: torch.Tensor, new: torch.Tensor) -> None:
        """Let ``new``, which replaces a tensor, have its channels where that has them."""
        span = self._span(tensor)
        if span is not None:
            self._known[id(new)] = (ref(new), span)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call the function, and note where its results have their channels."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if type(result) in _PLAIN or not isinstance(result, torch.Tensor | tuple | list):
            return result
        operands = [*_tensors((*args, *kwargs.values()))]
        name = function_name(func)
        with torch._C.DisableTorchFunction():  # noqa: SLF001
            for made in _tensors([result]):
                span = self._span_of(func, name, args, kwargs, operands, made)
                if span is not None:
                    self._known[id(made)] = (ref(made), span)
        return result

    def _span(self, tensor: Any) -> Span | None:
        known = self._known.get(id(tensor))
        return known[1] if known is not None and known[0]() is tensor else None

    def _span_of(
        self,
        func: Any,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        operands: Sequence[torch.Tensor],
        made: torch.Tensor,
    ) -> Span | None:
        defined = _defined(func, name, made)
        if defined is not None:
            return defined
        if name in _PRODUCTS:
            return _of_product(*(self._span(one) for one in operands[-2:]))
        spans = [(one, span) for one in operands if (span := self._span(one)) is not None]
        if name in _LAYER_NORMS:
            kept = _kept(spans, made)
            return LAST if kept in (None, UNKNOWN) else kept
        if not spans:
            return None
        source, span = spans[0]
        if name == "einsum":
            return LAST if _are_last(spans) else UNKNOWN
        is_pairwise = name in ("max", "min") and len(operands) > 1
        if span == UNKNOWN or is_pairwise:
            return _kept(spans, made)
        if name in _MOVES:
            return _moved(func, name, args, kwargs, source, span, made)
        if name in _RESHAPES:
            return _reshaped(source.shape, span, made.shape)
        if name == "getitem":
            return _indexed(args[1], source, span)
        if name in _BROADCASTS:
            return span
        return _kept(spans, made)


def _tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        if type(value) in _PLAIN:  # asking a tensor's class takes longer
            continue
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors(value)


def _defined(func: Any, name: str, made: torch.Tensor) -> Span | None:
    """Return where the results of a function have their channels whatever it is given."""
    if match := _SPATIAL.fullmatch(name):
        return Span(-1 - int(match[1]))
    if name in _DIM_ONE:
        return Span(1 - made.ndim)
    if name in _IMAGES:
        return Span(-3)
    if func is functional.unfold:
        return Span(-2)
    return LAST if name in _LAST else None


def _of_product(left: Span | None = None, right: Span | None = None) -> Span:
    """Return the channels of a matrix product: rows of the first, or columns of the second."""
    if left is not None and left.n == 1 and left.first == -2 and right != LAST:
        return left
    if left is not None and left.n and left.first < -2:
        return left
    if UNKNOWN in (left, right) and right not in (LAST, None):
        return UNKNOWN
    return LAST


def _kept(spans: Sequence[tuple[torch.Tensor, Span]], made: torch.Tensor) -> Span | None:
    """Return the channels of what has the dimensions of an operand."""
    alike = [(one, span) for one, span in spans if one.ndim == made.ndim]
    known = [(one, span) for one, span in alike if span != UNKNOWN]
    whole = [span for one, span in known if one.shape == made.shape]
    if whole or known:
        return whole[0] if whole else known[0][1]
    return None if not spans else LAST if _are_last(spans) else UNKNOWN


def _are_last(spans: Sequence[tuple[torch.Tensor, Span]]) -> bool:
    return all(span == LAST for _, span in spans)


def _moved(
    func: Any,
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    source: torch.Tensor,
    span: Span,
    made: torch.Tensor,
) -> Span:
    """Find the channels by the same function of a tensor whose sizes differ."""
    sizes = [*_PRIMES[: source.ndim]]
    first = source.ndim + span.first
    wanted = sizes[first : first + span.n]
    if name == "squeeze":
        kept = range(first, first + span.n)
        sizes = [
            p if n > 1 or at in kept else 1
            for at, (n, p) in enumerate(zip(source.shape, sizes, strict=True))
        ]
    shape = _shape_of(func, sizes, args, kwargs)
    if shape is None or len(shape) != made.ndim:
        return LAST if span == LAST and made.ndim == source.ndim else UNKNOWN
    places = [n for n, size in enumerate(shape) if size in wanted]
    if len(places) == span.n and places[-1] - places[0] == span.n - 1:
        return Span(places[0] - made.ndim, span.n)
    if not places and made.ndim == source.ndim:
        return span  # reduced to one channel
    return LAST if span == LAST else UNKNOWN


def _shape_of(
    func: Any, sizes: Sequence[int], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[int, ...] | None:
    """Return the shape of the first result of a function of a tensor; None where it fails."""
    marker = torch.empty(tuple(sizes), device="meta")
    with suppress(Exception):
        first = [marker] * len(args[0]) if isinstance(args[0], tuple | list) else marker
        return next(tuple(one.shape) for one in _tensors([func(first, *args[1:], **kwargs)]))
    return None


def _reshaped(old: Sequence[int], span: Span, new: Sequence[int]) -> Span:
    """Return the dimensions that hold the same channels in another shape."""
    first = len(old) + span.first
    before, size = math.prod(old[:first]), math.prod(old[first : first + span.n])
    for start in range(len(new)):
        if math.prod(new[:start]) != before or (new[start] == 1 and size != 1):
            continue
        for stop in range(start + 1, len(new) + 1):
            if math.prod(new[start:stop]) == size:
                is_split_last = span == LAST and stop - start > 1
                return LAST if is_split_last else Span(start - len(new), stop - start)
    # Features made of channels and positions, such as what enters a classifier.
    is_merged = math.prod(new[:-1]) <= before
    return LAST if span == LAST or is_merged else UNKNOWN


def _indexed(index: Any, source: torch.Tensor, span: Span) -> Span:
    """Return the channels of ``source[index]``."""
    given = [*index] if isinstance(index, tuple) else [index]
    if any(type(one) not in _BASIC_INDICES for one in given):
        return LAST if span == LAST else UNKNOWN
    if Ellipsis in given:
        at = given.index(Ellipsis)
        n_named = sum(one is not None for one in given) - 1
        given[at : at + 1] = [slice(None)] * (source.ndim - n_named)
    given += [slice(None)] * (source.ndim - sum(one is not None for one in given))
    kept: list[int | None] = []
    dim = 0
    for one in given:
        if one is None:
            kept.append(None)
            continue
        if isinstance(one, slice):
            kept.append(dim)
        dim += 1
    first = source.ndim + span.first
    places = [n for n, one in enumerate(kept) if one in range(first, first + span.n)]
    if len(places) == span.n and places[-1] - places[0] == span.n - 1:
        return Span(places[0] - len(kept), span.n)
    return LAST if span == LAST else UNKNOWN
