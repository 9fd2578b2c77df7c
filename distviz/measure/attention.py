"""The share of attention that the prompt's own tokens keep, in chosen layers.

Source: arXiv 2510.01032, section 3.2, where it is called lambda. Only the eager implementation
returns attention weights. The chosen layers use it during a measurement; the others keep the one
that the model was opened with.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distviz.errors import MeasurementError, RequestError
from distviz.models.architectures import count_layers
from distviz.output import listed
from distviz.sites import parse_layers

if TYPE_CHECKING:
    import torch
    from torch import nn

    from distviz.measure.forward import Measurement
    from distviz.models.architectures import Mlp

_BESIDE_EAGER = "distviz_beside_eager"
"""Scaled dot-product attention that takes the additive mask of the eager implementation."""


def attention_modules(mlps: Sequence[Mlp], layers: str, option: str) -> dict[int, str]:
    """Return layer -> path of its attention, for the requested layers.

    Raises
    ------
    RequestError
        If a layer does not exist.
    """
    wanted = parse_layers(layers, max(count_layers(mlps).values()), option)
    found: dict[int, str] = {}
    for mlp in mlps:
        for point in mlp.points:
            if point.site in ("q", "attention") and point.layer in wanted:
                found.setdefault(point.layer, point.module.rpartition(".")[0])
    return dict(sorted(found.items()))


@dataclass
class AttentionKept:
    """Collects the share of attention that own tokens keep while a model runs.

    Of the weights that an own token after the filler gives to all keys, the share on own keys: the
    mean over heads, tokens and prompts (1 without filler).

    Attributes
    ----------
    measurement
        Its partial result receives a number for each prompt with own tokens after the filler; NaN
        where attention weights are not available.
    modules
        Layer -> path of its attention.
    own
        Document -> bool (tokens,): false where a token belongs to the filler.
    """

    measurement: Measurement
    modules: Mapping[int, str]
    own: Mapping[int, NDArray[np.bool_]]

    @property
    def shares(self) -> dict[int, list[float]]:
        """The shares collected so far, by layer."""
        return self.measurement.partial.attention

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hook the modules; the tracker knows the documents of a call."""
        model, tracker = self.measurement.opened.model, self.measurement.tracker
        with ExitStack() as stack:
            stack.enter_context(_eager_at(model, list(self.modules.values())))
            for layer, path in self.modules.items():

                def collect(_module: Any, _args: Any, output: Any, layer: int = layer) -> None:
                    if tracker.given is None:  # a call before those of the measurement
                        return
                    weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
                    if tracker.tokens is None or weights is None:
                        self.shares.setdefault(layer, []).append(math.nan)
                    else:
                        self._add(layer, weights, tracker.tokens.documents)

                handle = model.get_submodule(path).register_forward_hook(collect)
                stack.callback(handle.remove)
            yield

    def _add(self, layer: int, weights: torch.Tensor, documents: NDArray[np.int64]) -> None:
        """Add the weights of a call, (batch, heads, queries, keys)."""
        by_row = weights.detach().float().mean(dim=1).cpu().double().numpy()
        for document, of_row in zip(documents.tolist(), by_row, strict=True):
            own = self.own[document]
            fillers = np.flatnonzero(~own)
            queries = own & (np.arange(own.size) > (fillers[0] if fillers.size else -1))
            if queries.any():
                weights_given = of_row[: own.size][queries][:, : own.size]
                share = float(weights_given[:, own].sum(axis=1).mean())
                self.shares.setdefault(layer, []).append(share)

    def rows(self, count: int) -> list[dict[str, Any]]:
        """Return the rows of ``attention.csv`` for one number of filler tokens."""
        return [
            {"filler_count": count, "layer": layer}
            | {"attention_kept": math.fsum(shares) / len(shares), "prompts": len(shares)}
            | {"module": self.modules[layer]}
            for layer, shares in sorted(self.shares.items())
            if not any(map(math.isnan, shares))
        ]

    def check(self, *, required: bool) -> str | None:
        """Return a warning where attention weights are not available.

        Raises
        ------
        MeasurementError
            If they are ``required``.
        """
        missing = [layer for layer, found in self.shares.items() if any(map(math.isnan, found))]
        if not missing:
            return None
        names = ", ".join(map(str, sorted(missing)))
        message = f"attention weights are not available in {listed('layer', names)}"
        hint = "try --attn-implementation eager, or --attention-layers none"
        if required:
            raise MeasurementError(message, hint)
        return f"{message}: {hint}"


@contextmanager
def _eager_at(model: nn.Module, paths: Sequence[str]) -> Iterator[None]:
    """Make some attention modules eager while the context lasts; the others are unchanged."""
    configs = _configs(model)
    ways = {config._attn_implementation for config in configs}  # noqa: SLF001
    switched = [config for config in configs if config._attn_implementation == "sdpa"]  # noqa: SLF001
    if not paths or not switched:
        if paths and ways - {"eager", None}:
            raise RequestError(
                f"attention weights are not available with {', '.join(sorted(ways))}",
                "give --attn-implementation sdpa or eager, or --attention-layers none",
            )
        yield
        return
    _register()
    own = {path: getattr(model.get_submodule(path), "config", None) for path in paths}
    try:
        for path, config in own.items():
            if config is not None:
                eager = copy.copy(config)
                eager._attn_implementation_internal = "eager"  # noqa: SLF001
                model.get_submodule(path).config = eager
        for config in switched:
            config._attn_implementation_internal = _BESIDE_EAGER  # noqa: SLF001
        yield
    finally:
        for config in switched:
            config._attn_implementation_internal = "sdpa"  # noqa: SLF001
        for path, config in own.items():
            if config is not None:
                model.get_submodule(path).config = config


def _configs(model: nn.Module) -> list[Any]:
    """Return every distinct configuration of the modules of a model."""
    found: dict[int, Any] = {}
    for module in model.modules():
        config = getattr(module, "config", None)
        if hasattr(config, "_attn_implementation_internal"):
            found[id(config)] = config
    return list(found.values())


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(_BESIDE_EAGER, sdpa_attention_forward)
    AttentionMaskInterface.register(_BESIDE_EAGER, eager_mask)
