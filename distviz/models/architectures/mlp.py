"""Find the MLPs of a transformers model, and every site in their layers that can be observed.

An MLP is recognized by an activation inside an indexed layer (an element of a module list) that is
not part of an attention, router, norm, convolution or head. See
:mod:`distviz.models.architectures.projections`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from distviz.errors import RequestError
from distviz.models.architectures.activations import (
    Activation,
    Place,
    find_activations,
    module_lists,
    shared_modules,
)
from distviz.models.architectures.projections import SitePlace, layer_sites, linear_widths, parent
from distviz.sites import HookPoint

if TYPE_CHECKING:
    from torch import nn

_ENCODER_DECODER = ("encoder", "decoder", "text_encoder", "text_decoder")
_NOT_TEXT = re.compile(r"vision|visual|image|img|audio|speech|video|pixel", re.IGNORECASE)
_WRAPPERS = frozenset(("model", "transformer", "module", "base_model", "_orig_mod"))


@dataclass(frozen=True, slots=True)
class Mlp:
    """One MLP, or the routed experts of one layer, with the sites of its layer.

    Parameters
    ----------
    layer
        0-based index of the layer in its stack.
    stack
        ``"decoder"``, ``"encoder"``, or the path prefix of another tower.
    path
        Path of the module that contains the activation (for OPT, the decoder layer itself).
    activation
        Class name of the activation module without a trailing ``Activation``: ``"SiLU"``.
    gated
        Whether the activation is multiplied by an up projection.
    points
        Every observable site of the layer: this MLP's, the attention's and the residual stream.
    routed
        Whether rows are tokens routed to experts, rather than (batch, tokens, channels).
    """

    layer: int
    stack: str
    path: str
    activation: str
    gated: bool
    points: tuple[HookPoint, ...]
    routed: bool = False


def find_mlps(model: nn.Module, *, towers: bool = False, needed: bool = True) -> list[Mlp]:
    """Find every MLP inside an indexed layer; ordered by stack, layer and path.

    Activations of heads, poolers, routers, norms, convolutions and attention are ignored, and so
    is an activation without a known down projection if its layer has one with it. If several
    layers share a module, each layer has its own points; a layer that is called several times has
    one set of points.

    Parameters
    ----------
    model
        Any transformers model.
    towers
        Include the image and audio towers of a model with a language model, and such branches in
        its layers (experts for images); text does not reach them.
    needed
        Whether it is an error that there is none.

    Raises
    ------
    RequestError
        If the model has no MLP activation, and needs one.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    lists = module_lists(modules)
    by_layer: dict[Place, list[Activation]] = {}
    for place, found in find_activations(modules, lists):
        by_layer.setdefault(place, []).append(found)
    if not by_layer and not needed:
        return []
    if not by_layer:
        raise RequestError(
            f"no MLP activation found in {type(model).__name__}",
            "a model needs one to be measured; distviz inspect --architectures lists the types",
        )
    paths = list(dict.fromkeys(place[0] for place in by_layer))
    stacks = _stack_names(model, modules, paths)
    kept = paths if towers else _of_text(model, paths)
    if not towers:
        by_layer = _without_branches(by_layer)
    shared = shared_modules(modules, by_layer)
    mlps: list[Mlp] = []
    for (list_path, layer), all_found in by_layer.items():
        if list_path not in kept:
            continue
        holders = {found.holder for found in all_found}
        around = layer_sites(f"{list_path}.{layer}", modules, holders)
        chosen = [found for found in all_found if found.is_complete or _experts_above(found)]

        def within(module: str, layer_path: str = f"{list_path}.{layer}") -> str:
            return layer_path if id(modules[module]) in shared else ""

        for found in chosen or all_found:
            mlp = _build(found, (layer, stacks[list_path]), around, modules, within)
            if "*" not in mlp.path or all(mlp.path != other.path for other in mlps):
                mlps.append(mlp)
    return sorted(mlps, key=lambda mlp: (mlp.stack, mlp.layer, mlp.path))


def _build(
    found: Activation,
    place: tuple[int, str],
    around: Sequence[SitePlace],
    modules: Mapping[str, nn.Module],
    within: Callable[[str], str],
) -> Mlp:
    """Build one MLP; the path of one that represents all experts of its layer contains ``*``.

    The output of all experts together (site ``down``) has one row per token.
    """
    layer, stack = place
    container = _experts_above(found)
    experts = container
    if container is not None and not has_forward(modules[container]):
        experts = parent(container)  # a list is never called, its parent is
    sites = list(found.sites)
    if experts is not None and not found.is_complete:
        sites.append(SitePlace("down", experts, "output"))
    points = []
    for site in sites:
        is_output = site.module == experts and not site.chain
        is_sum = is_output and (experts != container or _adds_up(modules[site.module]))
        module, *also = (
            _of_every_expert(one, container, modules) for one in (site.module, *site.also)
        )
        where = site._replace(module=module, also=tuple(also))
        routed = None if is_sum else experts
        points.append(HookPoint(layer, stack, *where, within=within(site.module), experts=routed))
    points += [HookPoint(layer, stack, *site, within=within(site.module)) for site in around]
    holder = _of_every_expert(found.holder, container, modules)
    return Mlp(layer, stack, holder, found.name, found.gated, tuple(points), experts is not None)


def count_layers(mlps: Sequence[Mlp]) -> dict[str, int]:
    """Return the number of layers of each stack, up to the last that has an MLP."""
    return {
        stack: 1 + max(mlp.layer for mlp in mlps if mlp.stack == stack)
        for stack in dict.fromkeys(mlp.stack for mlp in mlps)
    }


def main_stack(mlps: Sequence[Mlp]) -> str:
    """Return the stack for a redistribution: the decoder if there is one."""
    stacks = dict.fromkeys(mlp.stack for mlp in mlps)
    return "decoder" if "decoder" in stacks else next(iter(stacks))


# Routed experts ----------------------------------------------------------------------------


def _experts_above(found: Activation) -> str | None:
    """Return the path of the module that routes tokens to experts; None outside experts."""
    parts = found.holder.split(".")
    if "experts" in parts:
        return ".".join(parts[: len(parts) - parts[::-1].index("experts")])
    return found.holder if found.fused else None


def _adds_up(experts: nn.Module) -> bool:
    """Return whether experts sum their rows per token; shared experts return all their rows."""
    names = inspect.signature(type(experts).forward).parameters
    return len(names) > 2 or any(name in ("router", "gate") for name, _ in experts.named_children())


def _of_every_expert(path: str, experts: str | None, modules: Mapping[str, nn.Module]) -> str:
    """Replace the expert's index in a path by ``*`` where each expert is a module."""
    from torch import nn

    if experts is None or not path.startswith(f"{experts}."):
        return path
    if not isinstance(modules[experts], nn.ModuleList | nn.ModuleDict):
        return path
    _, _, rest = path.removeprefix(f"{experts}.").partition(".")
    return f"{experts}.*.{rest}" if rest else f"{experts}.*"


# Names of stacks ---------------------------------------------------------------------------


def _stack_names(
    model: nn.Module, modules: Mapping[str, nn.Module], list_paths: Sequence[str]
) -> dict[str, str]:
    names: dict[str, str] = {}
    for list_path in list_paths:
        tower = _tower(model, list_path)
        if not tower or tower[0] == "language_model" or len(list_paths) == 1:
            name = "decoder" if _is_causal(model, modules, list_path) else "encoder"
        else:
            name = tower[0]
        if name in names.values():
            name = ".".join(tower) or list_path
        names[list_path] = list_path if name in names.values() else name
    return names


def _tower(model: nn.Module, list_path: str) -> list[str]:
    """Return the path of a list of layers without its last name and without wrappers."""
    wrappers = _WRAPPERS | {getattr(model, "base_model_prefix", "")}
    tower = list_path.split(".")[:-1]
    while tower and tower[0] in wrappers:
        tower = tower[1:]
    return tower


def _of_text(model: nn.Module, list_paths: Sequence[str]) -> list[str]:
    """Return the stacks that read text: unnamed or named as a language model, else the encoder and
    decoder.
    """
    towers = {path: _tower(model, path) for path in list_paths}
    reads = {
        path: tower[0] if tower else ""
        for path, tower in towers.items()
        if not any(_NOT_TEXT.search(part) for part in tower)
    }
    for names in (("", "language_model", "text_model"), _ENCODER_DECODER):
        if found := [path for path, name in reads.items() if name in names]:
            return found
    return list(reads) or list(list_paths)


def _without_branches(by_layer: dict[Place, list[Activation]]) -> dict[Place, list[Activation]]:
    """Drop branches for images or audio from layers that have an MLP for text."""
    kept = {}
    for place, all_found in by_layer.items():
        start = len(f"{place[0]}.{place[1]}")
        of_text = [found for found in all_found if not _NOT_TEXT.search(found.holder[start:])]
        kept[place] = of_text or all_found
    return kept


def _is_causal(model: nn.Module, modules: Mapping[str, nn.Module], list_path: str) -> bool:
    from transformers.models.auto import modeling_auto

    config: Any = getattr(model, "config", None)
    if getattr(config, "is_decoder", False):
        return True
    # Cross-attention of a decoder is not causal, its self-attention is.
    inside = (module for path, module in modules.items() if path.startswith(f"{list_path}."))
    flags = [flag for m in inside if isinstance(flag := getattr(m, "is_causal", None), bool)]
    if flags:
        return any(flags)
    kind = getattr(config, "model_type", "")
    if kind in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return False
    causal = kind in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return causal or "CausalLM" in type(model).__name__


def has_forward(module: nn.Module) -> bool:
    """Return whether a module has a forward, and is not only a container of others."""
    from torch import nn

    return type(module).forward is not nn.Module.forward


def modules_at(model: nn.Module, point: HookPoint) -> list[nn.Module]:
    """Return the modules of a point: one, or one per expert."""
    if "*" not in point.module:
        return [model.get_submodule(point.module)]
    return [module for path, module in model.named_modules() if fnmatchcase(path, point.module)]


def point_width(model: nn.Module, point: HookPoint) -> int | None:
    """Return the channels of a point; None unless it is the input or output of a projection."""
    if point.part is not None:
        return point.part[1] - point.part[0]
    widths = linear_widths(modules_at(model, point)[0])
    return None if widths is None else widths[0 if point.takes == "input" else 1]
