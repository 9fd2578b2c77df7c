"""Choose the hook points of sites in layers, and of patterns on module paths anywhere."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from distviz.errors import RequestError
from distviz.models.architectures.activations import module_lists, place_of
from distviz.models.architectures.mlp import has_forward
from distviz.sites import INPUT_PREFIX, SITES, HookPoint, pattern_of

if TYPE_CHECKING:
    from torch import nn

    from distviz.models.architectures.mlp import Mlp


def find_points(
    mlps: Sequence[Mlp],
    model: nn.Module,
    sites: Sequence[str],
    layers: Collection[int] | Mapping[str, Collection[int]] | None = None,
    optional: Collection[str] = (),
) -> list[HookPoint]:
    """Choose the points of some sites in some layers; ordered by stack, layer, site and path.

    Parameters
    ----------
    mlps
        The MLPs of `model`, from :func:`find_mlps`.
    model
        Searched for ``module:PATTERN`` and ``input:PATTERN`` sites (shell patterns on whole module
        paths). `layers`
        applies to modules inside a layer; others get layer -1 and stack ``"model"``.
    sites
        Names of :data:`distviz.sites.SITES`, or patterns.
    layers
        Indices for every stack, or a mapping from stack to indices (other stacks are skipped);
        ``None`` for all.
    optional
        Sites that may be absent, but not all of them.

    Raises
    ------
    RequestError
        If another site is absent from all chosen layers, or a pattern matches no module.
    """
    offered = list(dict.fromkeys(point for mlp in mlps for point in mlp.points))
    chosen: list[HookPoint] = []
    for site in dict.fromkeys(sites):
        if pattern_of(site):
            candidates = _matching(model, site, mlps)
        else:
            candidates = [point for point in offered if point.site == site]
        taken = [point for point in candidates if _in_layers(point, layers)]
        if not taken and not (site in optional and _of(offered, optional, layers)):
            raise _absent(site, model, candidates, offered)
        chosen += taken
    order = {site: rank for rank, site in enumerate(SITES)}
    return sorted(
        chosen, key=lambda p: (p.stack, p.layer, order.get(p.site, len(order)), p.site, p.module)
    )


def _of(
    points: Sequence[HookPoint],
    sites: Collection[str],
    layers: Collection[int] | Mapping[str, Collection[int]] | None,
) -> list[HookPoint]:
    return [point for point in points if point.site in sites and _in_layers(point, layers)]


def _in_layers(
    point: HookPoint, layers: Collection[int] | Mapping[str, Collection[int]] | None
) -> bool:
    if layers is None or point.layer < 0:
        return True
    if isinstance(layers, Mapping):
        return point.layer in layers.get(point.stack, ())
    return point.layer in layers


def _absent(
    site: str, model: nn.Module, elsewhere: Sequence[HookPoint], offered: Sequence[HookPoint]
) -> RequestError:
    name = type(model).__name__
    if elsewhere:
        there = sorted({point.layer for point in elsewhere})
        return RequestError(
            f"site '{site}' is in none of the chosen layers of {name}",
            f"layers that have it: {', '.join(map(str, there))} (0 is the first)",
        )
    if pattern_of(site):
        paths = (path for path, module in model.named_modules() if path)
        example = offered[0].module if offered else next(paths, "")
        return RequestError(
            f"{site} matches no module of {name}",
            f"a pattern is matched against whole paths such as {example}; * matches anything",
        )
    here = [other for other in SITES if any(point.site == other for point in offered)]
    known = f"site '{site}' ({SITES[site]})" if site in SITES else f"site '{site}'"
    return RequestError(
        f"{known} does not exist in {name}", f"this architecture has: {', '.join(here)}"
    )


def _matching(model: nn.Module, site: str, mlps: Sequence[Mlp]) -> list[HookPoint]:
    from distviz.models.architectures.channel_dims import has_channels_last

    modules = dict(model.named_modules())
    lists = module_lists(modules)
    stacks = {}
    for mlp in mlps:
        if place := place_of(f"{mlp.path}.", lists):
            stacks[place[0]] = mlp.stack
    pattern = pattern_of(site)
    takes = "input" if site.startswith(INPUT_PREFIX) else "output"
    points = []
    for path, module in modules.items():
        if not path or not has_forward(module) or not fnmatchcase(path, pattern):
            continue
        place = place_of(f"{path}.", lists)
        layer = place[1] if place else -1
        stack = stacks.get(place[0], place[0]) if place else "model"
        dim = -1 if has_channels_last(module) else None
        points.append(HookPoint(layer, stack, site, path, takes, channel_dim=dim))
    return points
