"""Which linear layers read the values that a hook point observes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from distviz.models.architectures.projections import linear_widths
from distviz.sites import LINEAR

if TYPE_CHECKING:
    from torch import nn

    from distviz.sites import HookPoint


def linear_inputs(model: nn.Module, points: Iterable[HookPoint]) -> dict[str, dict[str, list[str]]]:
    """Return paths of linear layers by site and by module of the point whose values enter them.

    Points inside a module's forward, and routed experts, whose rows are not the tokens in order,
    are left out.
    """
    modules = dict(model.named_modules())
    found: dict[str, dict[str, list[str]]] = {}
    for point in points:
        if point.takes != "input" or point.chain or point.experts is not None:
            continue
        readers = [path for path in (point.module, *point.also) if path in modules]
        if linear := [path for path in readers if linear_widths(modules[path])]:
            found.setdefault(point.site, {})[point.module] = linear
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
    read = {path for places in inputs.values() for paths in places.values() for path in paths}
    found = {one.module for one in points if one.site in LINEAR and one.experts is not None}
    layers = tuple({f"{one.within or _layer_of(one)}." for one in points} - {"."})
    last = "-"
    for path, module in model.named_modules():
        if path.startswith(layers) and not path.startswith(f"{last}.") and linear_widths(module):
            last = path  # what it consists of is not a layer of its own
            found |= {path} - read
    return sorted({re.sub(r"(?<=\.)\d+(?=\.|$)", "*", path) for path in found})


def _layer_of(point: HookPoint) -> str:
    """Return the path of the layer of a point; empty if its path does not tell it."""
    before, number, _ = f".{point.module}.".partition(f".{point.layer}.")
    return f"{before}{number}".strip(".") if number else ""
