"""Check what `watch` and `redistribute` are given, before anything is hooked."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from distviz.arm import ARM
from distviz.errors import RequestError
from distviz.sites import parse_sites
from distviz.stats import check_width, is_a


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
    if not is_a(words, Sequence[str]):
        raise RequestError(
            f"sites is {sites!r}", "give names, such as 'act,product' or ['act', 'module:*.fc1']"
        )
    return parse_sites(",".join(words), "sites")


def check_layers(layers: Any) -> None:
    """Raise RequestError unless layers are text, an index, indices, or these by stack."""
    for one in layers.values() if isinstance(layers, Mapping) else [layers]:
        if not is_a(one, str | int | Collection[int]):
            raise RequestError(
                f"layers is {one!r}",
                "give 'all', '0,3-5', an index, a list of indices, or these by stack",
            )


def check_channel_dim(channel_dim: Any) -> None:
    """Raise RequestError unless it is None, a dimension, or dimensions by pattern."""
    by_pattern = channel_dim if isinstance(channel_dim, Mapping) else {"*": channel_dim}
    names_dims = is_a([*by_pattern], list[str]) and is_a([*by_pattern.values()], list[int])
    if channel_dim is not None and not names_dims:
        raise RequestError(
            f"channel_dim is {channel_dim!r}",
            "give a dimension, such as 1, or {'PATTERN': 1} by paths of modules",
        )


def check_arm(arm: Any) -> None:
    """Raise RequestError unless it is a redistribution, or None."""
    if not is_a(arm, ARM | None):
        raise RequestError(f"arm is {_kind(arm)}", "give distviz.ARM(...), or nothing")


def check_observation(c: Any, tokenizer: Any) -> None:
    """Raise RequestError unless these say how `watch` may observe."""
    check_width(c)
    check_tokenizer(tokenizer)


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
