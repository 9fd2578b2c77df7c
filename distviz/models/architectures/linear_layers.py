"""Which linear layers read the values that a hook point observes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from distviz.models.architectures.projections import linear_widths

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
