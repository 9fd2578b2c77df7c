"""Read the tokens of the current forward call from its arguments.

Where the rows of a point are not these tokens (patches of an image or of bytes, prepended prompts,
parallel streams), they are split evenly among the rows of the batch, in order, and all are counted,
without token classes. This requires a batch without padding. The patches of several images in one
row are split by the grid of each image.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from distviz.errors import MeasurementError
from distviz.hooks.calls import Calls, parameter_names
from distviz.hooks.tokens import Tokens
from distviz.models import is_of_transformers
from distviz.output import counted
from distviz.sites import HookPoint

if TYPE_CHECKING:
    import torch
    from torch import nn

_SOURCES = ("input_ids", "inputs_embeds")
_GRIDS = ("grid_thw", "image_grid_thw", "target_sizes")
_DECODER_SOURCES = ("decoder_input_ids", "decoder_inputs_embeds")
_REMOVE = "remove this site, or narrow its pattern"


@dataclass
class _OwnModel:
    """What is known of the batch in calls of a model that is not one of transformers.

    ``sequence_first`` is the path of a module that takes (tokens, batch, channels), None without
    one; ``n_dims`` are the dimensions of the tensor that was read as the batch.
    """

    sequence_first: str | None
    n_dims: int = 0

    @classmethod
    def of(cls, model: nn.Module) -> _OwnModel:
        named = model.named_modules()
        return cls(next((p for p, m in named if getattr(m, "batch_first", True) is False), None))

    def check(self, point: HookPoint, value: torch.Tensor, batch: int) -> None:
        """Raise MeasurementError if the rows of a tensor may belong to other documents."""
        shape = tuple(value.shape)
        is_sure = self.n_dims != 3 and shape[0] == batch and shape[1:2] != (batch,)
        if self.sequence_first is not None and value.ndim == 3 and not is_sure:
            where = self.sequence_first or "the model"
            raise MeasurementError(
                f"{point.module} (site {point.site}) has shape {shape}, of (tokens, batch, "
                f"channels) or (batch, tokens, channels): {where} has batch_first=False",
                "build it with batch_first=True",
            )
        if batch and value.ndim and shape[0] % batch:
            raise MeasurementError(
                f"{point.module} (site {point.site}) has shape {shape}, which does not begin with "
                f"the batch of {batch}, so its rows belong to no document",
                "leave it out: choose layers, or narrow the pattern",
            )


@dataclass
class Tracker:
    """Tracks the tokens of the current forward call.

    Parameters
    ----------
    given
        Set by the measuring loop, which knows documents and classes; None: read from the call.
    tokens
        The tokens of the call; of the encoder in an encoder-decoder.
    decoder
        The tokens of the decoder in an encoder-decoder, else None.
    calls
        Number of calls so far.
    in_training, with_gradients
        Whether the current call was made in training mode, and with gradients enabled.
    """

    given: Tokens | None = None
    tokens: Tokens | None = None
    decoder: Tokens | None = None
    calls: int = 0
    in_training: bool = False
    with_gradients: bool = False
    _calls: Calls = field(default_factory=Calls)
    _model: nn.Module | None = None
    _own: _OwnModel | None = None
    _encoder: nn.Module | None = None
    _encoder_ran: bool = False
    _is_begun: bool = False
    _unfinished: set[int] = field(default_factory=set)

    @property
    def past(self) -> int:
        """Tokens in the cache before the current call."""
        tokens = self.decoder or self.tokens
        return 0 if tokens is None else tokens.past

    @property
    def is_in_call(self) -> bool:
        """Whether a call of the model runs."""
        return self._calls.depth > 0

    @property
    def unfinished(self) -> set[int]:
        """Which calls, by their number in `calls`, an error or an interruption has ended."""
        if self._is_begun and not self.is_in_call:
            self._unfinished.add(self.calls)
        return self._unfinished

    def track_calls(self, model: nn.Module, stack: ExitStack) -> None:
        """Track the calls of a model until `stack` is closed.

        This includes direct calls of its base model, and of its encoder, which ``generate`` calls
        first.
        """
        self._model = model
        self._own = None if is_of_transformers(model) else _OwnModel.of(model)
        tracked: list[Any] = [model, getattr(model, "base_model", model)]
        if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            self._encoder = model.get_encoder()  # type: ignore[operator]
            tracked.append(self._encoder)
        for module in dict.fromkeys(tracked):
            before = module.register_forward_pre_hook(self.enter, prepend=True, with_kwargs=True)
            finished = module.register_forward_hook(self.finish)
            after = module.register_forward_hook(self.leave, always_call=True)
            for handle in (before, finished, after):
                stack.callback(handle.remove)

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the model: read mask, shape and cache from the arguments."""
        self._calls.enter(module)
        if self._calls.depth > 1:  # the base model inside the called model
            return
        if self._is_begun:
            self._unfinished.add(self.calls)
        self.in_training, self.with_gradients = module.training, _computes_gradients()
        given = kwargs
        if args:
            given = dict(zip(parameter_names(module.forward), args, strict=False)) | kwargs
        source = _first(given, _SOURCES)
        continues = source is None and self._encoder_ran
        self._encoder_ran = False
        self.calls += not continues
        self._is_begun = True
        if self.given is not None:
            self.tokens = self.given
            return
        # Known by its method: `past_key_values` is called `cache` since transformers 5.24.
        lengths = (getattr(value, "get_seq_length", None) for value in given.values())
        past = next((int(length()) for length in lengths if callable(length)), 0)
        of_decoder = _first(given, _DECODER_SOURCES)
        self.decoder = None
        if of_decoder is not None:
            self.decoder = _read(of_decoder, given.get("decoder_attention_mask"), past)
        if source is not None:
            past = past if of_decoder is None else 0
            self.tokens = _read(source, given.get("attention_mask"), past)
        elif not continues:
            self.tokens = _without_tokens(given, is_needed=of_decoder is None)
            if self._own is not None:
                source = _batched(given)
                self._own.n_dims = 0 if source is None else source.ndim

    def finish(self, module: nn.Module, *_: Any) -> None:
        """Forward hook of the model, which an error or an interruption skips."""
        if self._calls.depth == 1:
            self._is_begun = False
            self._encoder_ran = module is self._encoder

    def leave(self, module: nn.Module, *_: Any) -> None:
        """Forward hook of the model, also after an error: what runs later is no part of the call.

        The code that calls a base model may continue with its head.
        """
        self._calls.leave(module)
        if module is self._model and not self.is_in_call:
            self.tokens = self.decoder = None

    def check_batch(self, point: HookPoint, value: torch.Tensor) -> None:
        """Raise MeasurementError if a tensor of an own model does not begin with the batch."""
        if self._own is not None and self.tokens is not None and not self.tokens.are_read:
            self._own.check(point, value, len(self.tokens.documents))

    def current(self, point: HookPoint, rows: int) -> Tokens:
        """Return the tokens of a point's rows; MeasurementError if no tokens match them."""
        of_decoder = self.decoder is not None and point.stack == "decoder"
        tokens = self.decoder if of_decoder else self.tokens
        if tokens is None:
            raise MeasurementError(
                f"{point.module} ran outside a call of the observed model",
                "call the model that was given to distviz, not a part of it",
            )
        if rows == tokens.valid.size:
            return tokens
        if tokens.lengths and all(rows * n % tokens.valid.size == 0 for n in tokens.lengths):
            return _packed([rows * n // tokens.valid.size for n in tokens.lengths])
        batch, length = tokens.valid.shape
        if self.given is None and tokens.valid.all() and not tokens.lengths:
            if rows % batch == 0:
                return _all_valid(batch, rows // batch, tokens.past)
            if rows % length == 0:
                return _all_valid(rows // length, length, tokens.past)
        raise MeasurementError(
            f"{point.module} (site {point.site}) has {counted(rows, 'row')} for "
            f"{counted(tokens.valid.size, 'token')}",
            "its rows cannot be matched to tokens; "
            + ("name sites in place of linear" if point.may_be_silent else _REMOVE),
        )


def rows_of(tensor: torch.Tensor, tokens: Tokens | None) -> torch.Tensor:
    """Return (rows, channels); parallel streams of a token become its channels.

    Raises
    ------
    MeasurementError
        If the tensor is (tokens, batch, channels), as in XLNet.
    """
    if tensor.dim() == 3 and tokens is not None and min(tokens.valid.shape) > 1:
        batch, length = tokens.valid.shape
        if batch != length and tensor.shape[:2] == (length, batch):
            raise MeasurementError(
                "the layers of this model return (tokens, batch, channels), which distviz cannot "
                "match with padding",
                "measure one text at a time: --batch-size 1",
            )
    if tensor.dim() == 4 and tokens is not None and tokens.are_read:
        shape = tokens.valid.shape
        if _streams_first(tensor, tokens):
            tensor = tensor.permute(1, 2, 0, 3)
        if tensor.shape[:2] == shape:
            return tensor.reshape(tokens.valid.size, -1)
    return tensor.reshape(-1, tensor.shape[-1])


def from_rows(rows: torch.Tensor, like: torch.Tensor, tokens: Tokens | None) -> torch.Tensor:
    """Return rows in the shape of the tensor whose `rows_of` they are."""
    if tokens is not None and _streams_first(like, tokens):
        streams, batch, length, channels = like.shape
        return rows.reshape(batch, length, streams, channels).permute(2, 0, 1, 3)
    return rows.reshape(like.shape)


def _streams_first(tensor: torch.Tensor, tokens: Tokens) -> bool:
    """Whether a tensor is (streams, batch, tokens, channels)."""
    shape = tokens.valid.shape
    same = tensor.dim() == 4 and tensor.shape[1:3] == shape and tensor.shape[:2] != shape
    return same and tokens.are_read


def _computes_gradients() -> bool:
    import torch

    return torch.is_grad_enabled()


def _first(given: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((given[name] for name in names if given.get(name) is not None), None)


def _read(source: torch.Tensor, mask: torch.Tensor | None, past: int) -> Tokens:
    batch, length = source.shape[:2]
    is_ids = source.dim() == 2 and not source.is_floating_point()
    ids = source.detach().cpu().long().numpy() if is_ids else None
    if mask is None:
        return replace(_all_valid(batch, length, past), ids=ids)
    # The mask may be as wide as a static cache that is not yet full.
    whole = _plain_mask(mask, batch)[:, : past + length]
    valid = whole[:, -length:]
    index = np.maximum(np.cumsum(whole, axis=1) - 1, 0)[:, -length:]
    zeros = np.zeros(valid.shape, np.int64)
    return Tokens(valid, valid, np.arange(batch), index, zeros, past=past, ids=ids)


def _without_tokens(given: dict[str, Any], *, is_needed: bool) -> Tokens | None:
    """Return one position per row of a batch without text (pixels, audio).

    Patches in one row are split by the given grids of the images; padding is read from the mask.
    """
    import torch

    grid = _first(given, _GRIDS)
    if isinstance(grid, torch.Tensor) and grid.dim() == 2 and len(grid):
        return _packed(grid.prod(1).tolist())
    mask = given.get("pixel_attention_mask")
    if isinstance(mask, torch.Tensor) and mask.dim() == 2:
        return replace(_read(mask, mask, 0), ids=None)
    if (source := _batched(given)) is not None:
        return replace(_all_valid(source.shape[0], 1, 0), are_read=False)
    if is_needed:
        raise MeasurementError(
            "the model was called without input_ids, inputs_embeds or another tensor of two or "
            "more dimensions",
            "call it with a batch: the first dimension of the first such tensor",
        )
    return None


def _batched(given: dict[str, Any]) -> torch.Tensor | None:
    """Return the tensor whose first dimension is the batch, where there is no text."""
    import torch

    for name, value in given.items():
        if isinstance(value, torch.Tensor) and value.dim() > 1 and "decoder" not in name:
            return value
    return None


def _all_valid(batch: int, length: int, past: int) -> Tokens:
    valid = np.ones((batch, length), bool)
    index = np.broadcast_to(np.arange(past, past + length), valid.shape)
    return Tokens(valid, valid, np.arange(batch), index, np.zeros(valid.shape, np.int64), past=past)


def _packed(lengths: list[int]) -> Tokens:
    """Return one row that holds several sequences in a row."""
    return replace(_all_valid(1, sum(lengths), 0), lengths=tuple(lengths))


def _plain_mask(mask: torch.Tensor, batch: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return (batch, all tokens) bool from a 2-D mask, or from the allowed keys of a 4-D mask."""
    if mask.dim() == 4:
        # A key without any query is padding; an additive mask is 0 where attention is allowed.
        allowed = mask == 0 if mask.dtype.is_floating_point else mask
        mask = allowed.bool().any(dim=1).any(dim=1)
    elif mask.dim() != 2:
        raise MeasurementError(
            f"attention_mask has {counted(mask.dim(), 'dimension')}, expected 2 or 4"
        )
    return np.broadcast_to(mask.detach().cpu().numpy() != 0, (batch, mask.shape[-1]))
