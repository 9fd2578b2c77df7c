"""Check what `watch` and `redistribute` are given, before anything is hooked."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from distviz.arm import ARM
from distviz.errors import RequestError
from distviz.sites import parse_sites


def check_common(model: Any, layers: Any, channel_dim: Any) -> None:
    """Check what `watch` and `redistribute` have in common.

    Raises
    ------
    RequestError
        That names the argument and what it may be.
    """
    check_model(model)
    check_layers(layers)
    check_channel_dim(channel_dim)


def check_model(model: Any) -> None:
    """Raise RequestError unless a model is a module of torch."""
    from torch import nn

    if isinstance(model, nn.Module):
        return
    if isinstance(model, type):
        raise RequestError(f"model is the class {model.__name__}", "give an instance of it")
    hint = "give a torch.nn.Module"
    if isinstance(model, str):
        hint += "; distviz.run measures a checkpoint"
    raise RequestError(f"model is {_kind(model)}", hint)


def site_names(sites: str | Sequence[str]) -> list[str]:
    """Return the names of sites; RequestError if one is unknown or none is given."""
    words = [sites] if isinstance(sites, str) else sites
    if not isinstance(words, Sequence) or not all(isinstance(word, str) for word in words):
        raise RequestError(
            f"sites is {sites!r}", "give names, such as 'act,product' or ['act', 'module:*.fc1']"
        )
    return parse_sites(",".join(words), "sites")


def check_layers(layers: Any) -> None:
    """Raise RequestError unless layers are text, an index, indices, or these by stack."""
    if isinstance(layers, Mapping):
        for one in layers.values():
            check_layers(one)
        return
    is_list = isinstance(layers, Collection) and not isinstance(layers, str | bytes)
    for one in layers if is_list else [layers]:
        is_index = isinstance(one, Integral) and not isinstance(one, bool)
        if not is_index and (is_list or not isinstance(one, str)):
            raise RequestError(
                f"layers is {layers!r}",
                "give 'all', '0,3-5', an index, a list of indices, or these by stack",
            )


def check_channel_dim(channel_dim: Any) -> None:
    """Raise RequestError unless it is None, a dimension, or dimensions by pattern."""
    by_pattern = channel_dim if isinstance(channel_dim, Mapping) else {"*": channel_dim}
    for pattern, dim in by_pattern.items():
        is_dim = isinstance(dim, Integral) and not isinstance(dim, bool)
        if not (isinstance(pattern, str) and is_dim) and channel_dim is not None:
            raise RequestError(
                f"channel_dim is {channel_dim!r}",
                "give a dimension, such as 1, or {'PATTERN': 1} by paths of modules",
            )


def check_arm(arm: Any) -> None:
    """Raise RequestError unless it is a redistribution, or None."""
    if arm is not None and not isinstance(arm, ARM):
        raise RequestError(f"arm is {_kind(arm)}", "give distviz.ARM(...), or nothing")


def check_observation(c: Any, tokenizer: Any) -> None:
    """Raise RequestError unless these say how `watch` may observe."""
    check_band(c)
    check_tokenizer(tokenizer)


def check_band(c: Any) -> None:
    """Raise RequestError unless the width of the near-zero band is a number above 0."""
    is_number = isinstance(c, Real) and not isinstance(c, bool)
    if not (is_number and math.isfinite(c) and c > 0):
        raise RequestError(f"c is {c!r}", "give a number above 0; published: 0.05 to 0.45")


def check_tokenizer(tokenizer: Any) -> None:
    """Raise RequestError unless it decodes tokens, or is None."""
    decodes = callable(getattr(tokenizer, "decode", None)) and not isinstance(tokenizer, str | type)
    if tokenizer is not None and not decodes:
        raise RequestError(
            f"tokenizer is {_kind(tokenizer)}",
            "give a loaded tokenizer, such as AutoTokenizer.from_pretrained(...)",
        )


def _kind(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
