"""Settings of layers that are built: the ``[layer]`` table of a TOML file."""

from __future__ import annotations

import math
import typing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from distviz.errors import RequestError
from distviz.option import check_type, records_of, setting
from distviz.parsing import path_of, shown

MOST_LAYERS = 1000
"""Layers that are built from a TOML."""
_positive = partial(setting, minimum=1)


@dataclass(frozen=True, kw_only=True)
class LayerSettings:
    """Decoder layers to build from transformers' own classes; the ``[layer]`` table of a TOML."""

    architecture: str = "llama"
    layers: int = _positive(1, maximum=MOST_LAYERS)
    hidden_size: int = _positive(576)
    intermediate_size: int = _positive(1536)
    heads: int = _positive(9)
    kv_heads: int = _positive(3)
    activation: str = "silu"
    seed: int = 0
    weights: str | None = setting(None, "MODEL")
    weights_layers: list[int] = field(default_factory=list)
    input: str = setting("hidden", choices=("hidden", "tokens"))
    documents: int = _positive(8)
    tokens: int = _positive(256)
    scale: float = 1.0
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, hint in typing.get_type_hints(LayerSettings).items():
            checked = check_type(getattr(self, name), hint, f"layer.{name}")
            object.__setattr__(self, name, checked)
        for name, record in records_of(LayerSettings).items():
            record.check(getattr(self, name), f"layer.{name}")
        if self.weights is not None:
            path_of(self.weights, "layer.weights")
        if not (self.scale > 0 and math.isfinite(self.scale)):
            raise RequestError(f"layer.scale is {shown(self.scale)}, it must be above 0")
        for whole, part in (("hidden_size", "heads"), ("heads", "kv_heads")):
            first, second = getattr(self, whole), getattr(self, part)
            if self.weights is None and first % second:
                raise RequestError(
                    f"layer.{whole} {first} is not a multiple of layer.{part} {second}"
                )
