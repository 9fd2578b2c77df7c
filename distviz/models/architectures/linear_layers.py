"""Which linear layers read the values that a hook point observes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from distviz.models.architectures.projections import linear_widths
from distviz.sites import INPUT_PREFIX, LINEAR, HookPoint

if TYPE_CHECKING:
    from torch import nn


def linear_inputs(
    model: nn.Module,
    points: Iterable[HookPoint],
    n_channels: Mapping[Any, int] | None = None,
) -> dict[str, dict[str, list[str]]]:
    """Return paths of linear layers by site and by module of the point whose values enter them.

    Points inside a module's forward, and routed experts, whose rows are not the tokens in order,
    are left out; with the counted channels by site and module, those that have others, too.
    """
    modules = dict(model.named_modules())
    found: dict[str, dict[str, list[str]]] = {}
    for point in points:
        if point.takes != "input" or point.chain or point.experts is not None:
            continue
        readers = [path for path in (point.module, *point.also) if path in modules]
        own = None if n_channels is None else (n_channels.get((point.site, point.module)),)
        linear = [
            path
            for path in readers
            if (widths := linear_widths(modules[path])) and own in (None, widths[:1])
        ]
        if linear:
            found.setdefault(point.site, {})[point.module] = linear
    return found


def other_linear_inputs(model: nn.Module, points: Collection[HookPoint]) -> list[HookPoint]:
    """Return the inputs of linear layers that are at no point, in layers that have points.

    Such are second projections of a latent attention, those of a linear attention, and routers. A
    layer that is never called, because only its weight is used, is silent. Routed experts, layers
    that share modules, and models with encoder and decoder are left out.
    """
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return []
    own = {f"{_layer_of(one)}.": one for one in points if not one.within and _layer_of(one)}
    experts = tuple(f"{one.experts}." for one in points if one.experts is not None)
    found = []
    for path in _without_point(model, points, linear_inputs(model, points)):
        layer = next((prefix for prefix in own if path.startswith(prefix)), None)
        if layer is not None and not path.startswith(experts):
            one, site = own[layer], f"{INPUT_PREFIX}*.{_of_any_layer(path.removeprefix(layer))}"
            found.append(HookPoint(one.layer, one.stack, site, path, "input", may_be_silent=True))
    return found


def linear_left_out(
    model: nn.Module, points: Collection[HookPoint], inputs: Mapping[str, Mapping[str, list[str]]]
) -> list[str]:
    """Return the linear layers whose input is at no point, in layers that have points.

    Routed experts are among them. In a path, ``*`` stands for every number. ``inputs`` are the
    `linear_inputs` of the points; where there are none, nothing is returned.
    """
    if not inputs:
        return []
    found = {one.module for one in points if one.site in LINEAR and one.experts is not None}
    found.update(_without_point(model, points, inputs))
    return sorted({*map(_of_any_layer, found)})


def _without_point(
    model: nn.Module, points: Iterable[HookPoint], inputs: Mapping[str, Mapping[str, list[str]]]
) -> Iterator[str]:
    """Yield the paths of linear layers in layers that have points."""
    read = {path for places in inputs.values() for paths in places.values() for path in paths}
    layers = tuple({f"{one.within or _layer_of(one)}." for one in points} - {"."})
    last = "-"
    for path, module in model.named_modules():
        if path.startswith(layers) and not path.startswith(f"{last}.") and linear_widths(module):
            last = path  # what it consists of is not a layer of its own
            if path not in read:
                yield path


def _of_any_layer(path: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", path)


def _layer_of(point: HookPoint) -> str:
    """Return the path of the layer of a point; empty if its path does not tell it."""
    before, number, _ = f".{point.module}.".partition(f".{point.layer}.")
    return f"{before}{number}".strip(".") if number else ""
