"""What a model of any type can be called with: tokens, else pictures or sound as well or alone."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

BATCH, LENGTH = 2, 7


def call(model: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
    """Return the first tensor that the model gives."""
    torch.manual_seed(0)
    with torch.no_grad():
        output = model(**inputs)
    values = output.values() if hasattr(output, "values") else output
    return next(value for value in values if isinstance(value, torch.Tensor))


def inputs_of(model: Any) -> dict[str, Any]:
    """Return the first inputs that the model accepts; raises what it said to the first of all."""
    first: Exception | None = None
    for inputs in _candidates(model):
        try:
            if not torch.isfinite(call(model, inputs)).all():
                raise ValueError("the output is not finite")
        except Exception as error:  # noqa: BLE001  (whatever it is, others are tried)
            first = first or error
        else:
            return inputs
    raise first or ValueError("takes neither tokens nor pixels nor sound")


def _candidates(model: Any) -> Iterator[dict[str, Any]]:
    known = inspect.signature(model.forward).parameters
    text = _text(model, known)
    if "input_ids" in text:
        yield text
    for name, value in _noise(model):
        if name in known:
            yield text | {name: value}


def _text(model: Any, known: Any) -> dict[str, Any]:
    ids = (torch.arange(BATCH * LENGTH) * 5 % 83 + 3).reshape(BATCH, LENGTH)
    inputs: dict[str, Any] = {}
    if "input_ids" in known:
        is_musicgen = type(model).__name__.startswith("Musicgen")
        books = model.config.num_codebooks if is_musicgen else 1
        inputs["input_ids"] = ids.repeat_interleave(books, 0)
    if "decoder_input_ids" in known:
        inputs["decoder_input_ids"] = (ids + 7) % 90
    if "use_cache" in known or getattr(model.config, "use_cache", None):
        inputs["use_cache"] = False
    return inputs


def _noise(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    config = model.config
    channels, size = getattr(config, "num_channels", 3), getattr(config, "image_size", 32)
    size = size if isinstance(size, int) else 32
    frames = getattr(config, "num_frames", 8)
    bands = getattr(config, "num_mel_bins", None) or getattr(config, "input_feat_per_channel", 80)
    for name, shape in (
        ("pixel_values", (BATCH, channels, size, size)),
        ("pixel_values", (BATCH, frames, channels, size, size)),
        ("pixel_values_videos", (BATCH, frames, channels, size, size)),
        ("input_values", (BATCH, 4000)),
        ("input_features", (BATCH, bands, 64)),
        ("input_features", (BATCH, 64, bands)),
    ):
        yield name, torch.randn(shape, generator=torch.Generator().manual_seed(2))
