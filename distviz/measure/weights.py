"""The distributions of the parameters of a model's layers, counted where they are.

Every value of a parameter is counted once among all processes: a parameter that each process has
whole by the first process, one that is divided among them (FSDP's ``fully_shard``) by each for its
own part. Nothing is gathered or copied to the host.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from distviz.errors import RequestError
from distviz.models import unwrapped_path
from distviz.sites import HookPoint, SiteKey
from distviz.stats import Sketch

if TYPE_CHECKING:
    import torch
    from torch import nn

WEIGHT_PREFIX = "weight:"
"""Prefix of the site of a parameter."""
_WEIGHT = ".weight"


def weight_sketches(
    model: nn.Module, points: Sequence[HookPoint], rank: int = 0
) -> dict[SiteKey, Sketch]:
    """Return the part of this process of each parameter of the layers of some points.

    A layer's parameter has site ``weight:`` and its path in the layer, without a final
    ``.weight``; of a point outside the layers, those of its module.

    Raises
    ------
    RequestError
        If the parameters cannot be counted, see `check_weights`.
    """
    found: dict[SiteKey, Sketch] = {}
    for layer, stack, path in _places(points):
        for wrapped, parameter in model.get_submodule(path).named_parameters():
            own = _own_part(f"{path}.{wrapped}", parameter, rank)
            if own is not None:
                name = unwrapped_path(wrapped)
                whole = f"{unwrapped_path(path)}.{name}".removesuffix(_WEIGHT).removeprefix(".")
                site = f"{WEIGHT_PREFIX}{name.removesuffix(_WEIGHT)}"
                key = SiteKey(layer, stack, site, "before", whole)
                wide = own.float() if own.element_size() == 1 else own
                found[key] = Sketch().add(wide.detach())
    return found


def check_weights(model: nn.Module) -> None:
    """Check that the values of a model's parameters can be counted.

    Raises
    ------
    RequestError
        If they are flattened (FSDP1) or elsewhere (DeepSpeed ZeRO-3).
    """
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "_is_flat_param") or "_flat_param" in name:
            raise RequestError(
                f"weights=True: {name} holds several parameters, flattened by "
                "FullyShardedDataParallel",
                "divide the model with fully_shard (FSDP2), or give weights=False",
            )
        if hasattr(parameter, "ds_id") and parameter.numel() == 0:
            raise RequestError(
                f"weights=True: the values of {name} are not in this process (DeepSpeed ZeRO-3)",
                "give weights=False",
            )


def _places(points: Sequence[HookPoint]) -> Iterator[tuple[int, str, str]]:
    """Yield layer, stack and path of each layer, and of each module outside the layers."""
    places: dict[tuple[int, str, str], None] = {}
    for point in points:
        parts = (point.within or point.module).split(".")
        if point.layer >= 0 and str(point.layer) in parts:
            parts = parts[: parts.index(str(point.layer)) + 1]
        places[point.layer, point.stack, ".".join(parts)] = None
    yield from places


def _own_part(name: str, parameter: torch.Tensor, rank: int) -> torch.Tensor | None:
    """Return the values that this process counts; None for none."""
    if not parameter.is_floating_point():
        return None  # packed by a quantization
    distributed: Any = parameter
    if not hasattr(distributed, "placements"):
        return parameter if rank == 0 else None
    place = distributed.device_mesh.get_coordinate() or ()
    for placement, index in zip(distributed.placements, place, strict=True):
        if placement.is_partial():
            raise RequestError(f"weights=True: {name} is a partial sum", "give weights=False")
        if placement.is_replicate() and index:
            return None
    own: torch.Tensor = distributed.to_local()
    return own if own.numel() else None
