"""Find the activations of a model: modules by class or name, functions by a traced forward."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distviz.models.architectures.functional_activations import find_functional
from distviz.models.architectures.projections import (
    SitePlace,
    functional_sites,
    is_mlp_activation,
    is_outside_mlps,
    mlp_shape,
    mlp_sites,
    parent,
)

if TYPE_CHECKING:
    from torch import nn

Place = tuple[str, int]
"""A layer: path of its module list, and its index."""


@dataclass(frozen=True, slots=True)
class Activation:
    """One activation, with its surroundings.

    Attributes
    ----------
    holder
        Path of the module that applies it.
    name
        Class of the activation without a trailing ``Activation``.
    gated
        Whether it is multiplied by an up projection.
    fused
        Whether its projections are the parameters of many experts.
    is_complete
        Whether its down projection is known.
    sites
        Sites of its MLP.
    """

    holder: str
    name: str
    gated: bool
    fused: bool
    is_complete: bool
    sites: tuple[SitePlace, ...]


def find_activations(
    modules: Mapping[str, nn.Module], lists: Collection[str]
) -> Iterator[tuple[Place, Activation]]:
    """Yield the activations of every layer: modules first, then functions.

    Parameters
    ----------
    modules
        From ``named_modules(remove_duplicate=False)``: an activation that several layers share
        belongs to each of them.
    lists
        Paths of the module lists among them.
    """
    holders: set[str] = set()
    others: list[tuple[str, Place]] = []
    for path, place in _in_layers(modules, lists):
        module = modules[path]
        if not is_mlp_activation(path, module, place, modules):
            others.append((path, place))
            continue
        shape = mlp_shape(path, modules)
        if shape.down is None and not _has_matrix(modules[parent(path)]):
            continue
        holder, name = parent(path), type(module).__name__.removesuffix("Activation")
        holders.add(holder)
        sites = tuple(mlp_sites(path, shape))
        is_complete = shape.down is not None
        yield place, Activation(holder, name, shape.gated, shape.fused, is_complete, sites)
    for path, place in others:
        is_around = any(f"{holder}.".startswith(f"{path}.") for holder in holders)
        if is_around or is_outside_mlps(path, place, modules):
            continue
        if found := find_functional(path, modules):
            sites = tuple(functional_sites(path, found, modules))
            fused = found.down is None
            shown = Activation(path, found.name, found.gated, fused, is_complete=True, sites=sites)
            yield place, shown


def _has_matrix(holder: nn.Module) -> bool:
    """Return whether there is a linear layer; a residual block of convolutions has none."""
    return any(parameter.ndim == 2 for parameter in holder.parameters())


def _in_layers(
    modules: Mapping[str, nn.Module], lists: Collection[str]
) -> Iterator[tuple[str, Place]]:
    """Yield the paths inside layers; a layer with several paths only once."""
    seen: set[tuple[int, int]] = set()
    for path, module in modules.items():
        place = place_of(path, lists)
        if place is None:
            continue
        both = (id(module), id(modules[f"{place[0]}.{place[1]}"]))
        if both not in seen:
            seen.add(both)
            yield path, place


def shared_modules(modules: Mapping[str, nn.Module], places: Collection[Place]) -> set[int]:
    """Return the ids of modules that belong to several of these layers."""
    owners: dict[int, set[int]] = {}
    for list_path, layer in places:
        element = modules[f"{list_path}.{layer}"]
        for module in element.modules():
            owners.setdefault(id(module), set()).add(id(element))
    return {module for module, elements in owners.items() if len(elements) > 1}


def module_lists(modules: Mapping[str, nn.Module]) -> set[str]:
    """Return the paths of the module lists, including sequences of layers with attention."""
    from torch import nn

    def is_list(module: nn.Module) -> bool:
        if not isinstance(module, nn.Sequential):
            return isinstance(module, nn.ModuleList)
        return len({type(layer) for layer in module}) == 1 and _attends(module[0])

    return {path for path, module in modules.items() if is_list(module)}


def _attends(layer: nn.Module) -> bool:
    return any("att" in type(part).__name__.lower() for part in layer.children())


def place_of(path: str, lists: Collection[str]) -> tuple[str, int] | None:
    """Return the outermost module list above `path` and the index in it; None for its elements."""
    parts = path.split(".")
    for end in range(1, len(parts) - 1):
        prefix = ".".join(parts[:end])
        if prefix in lists and f"{prefix}.{parts[end]}" not in lists:
            return prefix, int(parts[end])
    return None


def layers_around(model: nn.Module, paths: Collection[str]) -> list[str]:
    """Return the paths of the layers that hold, or are, the modules at some paths."""
    lists = module_lists(dict(model.named_modules()))
    places = dict.fromkeys(place_of(f"{path}.", lists) for path in paths)
    return [f"{place[0]}.{place[1]}" for place in places if place is not None]
