"""How a type is called: with tokens, pixels or sound, whatever its forward pass accepts.

What is tried follows from the names in the signature of ``forward`` and from the sizes in the
configuration and its parts: first tokens alone, then tokens with one kind of noise at a time, then
the same with what goes with it (masks, grids, boxes). A few types have inputs of their own.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from support.architectures.companions import companions, special
from support.architectures.noise import noise
from support.architectures.sizes import BATCH, LENGTH, field

__all__ = ["BATCH", "LENGTH", "call", "inputs_of"]


def call(model: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
    """Return the first tensor that the model gives."""
    torch.manual_seed(0)
    with torch.no_grad():
        output = model(**inputs)
    return next(_tensors(output))


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        if value.is_floating_point() and value.numel():
            yield value
        return
    if isinstance(value, dict | tuple | list):
        for one in value.values() if hasattr(value, "values") else value:
            yield from _tensors(one)


def inputs_of(model: Any) -> dict[str, Any]:
    """Return the first inputs that the model accepts; raises what it said to complete ones."""
    said: list[Exception] = []
    for inputs in _candidates(model):
        try:
            if not torch.isfinite(call(model, inputs)).all():
                raise ValueError("the output is not finite")
        except Exception as error:  # noqa: BLE001  (whatever it is, others are tried)
            said.append(error)
        else:
            return inputs
    # An argument that is missing says less than what the model made of the others.
    said.sort(key=lambda error: isinstance(error, TypeError))
    raise said[0] if said else ValueError("takes neither tokens nor pixels nor sound")


def _candidates(model: Any) -> Iterator[dict[str, Any]]:
    known = set(inspect.signature(model.forward).parameters)
    text = _text(model, known)
    if (given := special(model, text)) is not None:
        yield given
        return
    if "input_ids" in text:
        yield text
    kinds = [one for one in noise(model, known) if one.keys() <= known]
    for one in kinds:
        yield text | one
    for one in [{}, *kinds]:
        for axis in (1, 2):
            if more := companions(model, known, text | one, axis):
                yield text | more | one


def _text(model: Any, known: set[str]) -> dict[str, Any]:
    ids = (torch.arange(BATCH * LENGTH) * 5 % 83 + 3).reshape(BATCH, LENGTH)
    vocabulary = field(model.config, "vocab_size", default=128)
    if isinstance(vocabulary, int) and vocabulary < 90:
        ids = ids % (vocabulary - 4) + 3
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
