"""Find what can be observed in a model that vLLM runs.

vLLM builds every model from its own layers, so places are found by the classes of these layers, not
by the names of modules. Gate and up projection are one linear layer there, and one kernel computes
the activation and the product: ``gate`` and ``up`` are read from what enters it, and ``act`` is
computed by the same kernel from the gate and ones in place of the up projection.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from distviz.errors import MeasurementError, RequestError
from distviz.output import counted, listed
from distviz.sites import HookPoint, join_layers

if TYPE_CHECKING:
    import torch
    from torch import nn

_GATE_FIRST = ("SiluAndMul", "GeluAndMul", "FatreluAndMul", "GeluAndMulSparse")
_GATE_LAST = ("MulAndSilu",)
_PLAIN = ("torch.nn.modules.activation", "transformers.activations")
_FUSED = "vllm.model_executor.layers.activation"
_ATTENTION = ("AttentionLayerBase", "QKVParallelLinear")
_EXPERTS = "vllm.model_executor.layers.fused_moe"
_ADDING_NORMS = ("RMSNorm", "GemmaRMSNorm")
OF_MLP = ("mlp_in", "gate", "act", "up", "product", "down")


@dataclass(frozen=True)
class Place:
    """One place of a model, and how its values come about.

    Attributes
    ----------
    point
        Its layer, site and module; ``takes`` says whether the module's input or output is read.
    read
        Returns the tensor (…, channels) from that input or output.
    slices
        Tensor-parallel ranks that hold different channels; 1 where each has all of them.
    copies
        How many ranks in a row hold the same slice.
    """

    point: HookPoint
    read: Callable[[Any], torch.Tensor]
    slices: int = 1
    copies: int = 1


@dataclass(frozen=True)
class Places:
    """The places of one rank of a model.

    Attributes
    ----------
    found
        By layer, those of this pipeline stage.
    layers
        The path of each layer of the whole model.
    routed
        Layers whose routed experts are one kernel.
    """

    found: tuple[Place, ...]
    layers: tuple[str, ...]
    routed: frozenset[int]

    def choose(self, sites: Collection[str], layers: Collection[int]) -> list[Place]:
        """Return the places of some sites in some layers.

        Raises
        ------
        RequestError
            If a layer has routed experts, and a site of its MLP is chosen.
        """
        hidden = self.routed.intersection(layers)
        inside = [site for site in sites if site in OF_MLP]
        if hidden and inside:
            raise RequestError(
                f"vLLM computes the routed experts of {listed('layer', join_layers(hidden))} in "
                f"one kernel, so that {', '.join(inside)} cannot be observed there",
                "choose layers without experts or sites of the attention, or measure the "
                "checkpoint: distviz run",
            )
        return [
            place
            for place in self.found
            if place.point.layer in layers and place.point.site in sites
        ]


def find_places(model: nn.Module) -> Places:
    """Return what can be observed in the decoder layers of a model of vLLM.

    Raises
    ------
    RequestError
        If there is not exactly one list of layers.
    """
    text = getattr(model, "get_language_model", lambda: model)()
    prefix = next((path for path, module in model.named_modules() if module is text), "")
    stacks = list(_stacks(text))
    if len(stacks) != 1:
        raise RequestError(
            f"{type(model).__name__} has {counted(len(stacks), 'stack')} of layers; in vLLM, only "
            "models with one can be observed",
            "measure the checkpoint instead: distviz run",
        )
    path, layers = stacks[0]
    found: list[Place] = []
    routed = set()
    paths = [".".join(filter(None, (prefix, path, str(index)))) for index in range(len(layers))]
    for index, (layer, where) in enumerate(zip(layers, paths, strict=True)):
        modules = {f"{where}.{name}".rstrip("."): one for name, one in layer.named_modules()}
        has_experts = any(type(one).__module__.startswith(_EXPERTS) for one in modules.values())
        if has_experts:
            routed.add(index)
        else:
            found += _of_mlps(index, modules)
        found += _of_attention(index, modules)
        if not _is(layer, "PPMissingLayer"):
            point = HookPoint(index, "decoder", "residual", where, "output")
            adds = any(_is(child, *_ADDING_NORMS) for child in layer.children())
            found.append(Place(point, partial(_residual, adds=adds)))
    return Places(tuple(found), tuple(paths), frozenset(routed))


def _stacks(model: nn.Module) -> Iterator[tuple[str, nn.ModuleList]]:
    """Yield the outermost lists of layers that have linear layers of vLLM."""
    from torch import nn

    above: list[str] = []
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or any(map(f"{path}.".startswith, above)):
            continue
        if any(_is(part, "RowParallelLinear") for part in module.modules()):
            above.append(f"{path}.")
            yield path, module


def _of_mlps(layer: int, modules: Mapping[str, nn.Module]) -> Iterator[Place]:
    """Yield the places around every activation that has a down projection beside it."""
    for path, module in modules.items():
        if not _is_activation(module):
            continue
        beside = _children(path, modules)
        downs = [name for name, one in beside.items() if _is(one, "RowParallelLinear")]
        alone = sum(map(_is_activation, beside.values())) == 1
        attends = any(_is(one, *_ATTENTION) for one in (modules[_parent(path)], *beside.values()))
        if len(downs) != 1 or not alone or attends:
            continue
        down = beside[downs[0]]
        slices = down.tp_size if down.input_is_parallel else 1
        make = partial(_place, layer, slices=slices)
        firsts = [name for name, one in beside.items() if _is(one, "ColumnParallelLinear")]
        if firsts:
            yield _place(layer, "mlp_in", firsts[0], "input", _whole)
        yield from _of_activation(path, module, make)
        if len(firsts) > 1 and (ups := [name for name in firsts if name.endswith("up_proj")]):
            yield make("up", ups[0], "output", _whole)
        yield make("product", downs[0], "input", _whole)
        if _is_complete(down):
            yield _place(layer, "down", downs[0], "output", _whole)


def _of_activation(path: str, module: nn.Module, make: Callable[..., Place]) -> Iterator[Place]:
    """Yield gate, act and, where it enters the same kernel, up."""
    if "Mul" not in type(module).__name__:
        yield make("gate", path, "input", _whole)
        yield make("act", path, "output", _whole)
    elif _is(module, *_GATE_FIRST, *_GATE_LAST):
        last = _is(module, *_GATE_LAST)
        yield make("gate", path, "input", partial(_half, second=last))
        yield make("act", path, "input", partial(_activated, module, second=last))
        yield make("up", path, "input", partial(_half, second=not last))


def _of_attention(layer: int, modules: Mapping[str, nn.Module]) -> Iterator[Place]:
    """Yield the places around a fused projection of queries, keys and values."""
    for path, module in modules.items():
        if not _is(module, "QKVParallelLinear"):
            continue
        qkv: Any = module
        outs = [
            (name, one)
            for name, one in _children(path, modules).items()
            if _is(one, "RowParallelLinear")
        ]
        yield _place(layer, "attn_in", path, "input", _whole)
        start = 0
        for site, heads, size in (
            ("q", qkv.num_heads, qkv.head_size),
            ("k", qkv.num_kv_heads, qkv.head_size),
            ("v", qkv.num_kv_heads, qkv.v_head_size),
        ):
            read = partial(_part, start=start, stop=start + heads * size)
            copies = 1 if site == "q" else qkv.num_kv_head_replicas
            # Some models keep a gate of the attention's output among the queries.
            width = qkv.num_heads * qkv.v_head_size
            if site != "q" or all(one.input_size_per_partition == width for _, one in outs):
                yield _place(layer, site, path, "output", read, qkv.tp_size, copies)
            start += heads * size
        if len(outs) == 1:
            name, out = outs[0]
            slices = out.tp_size if out.input_is_parallel else 1
            yield _place(layer, "attention", name, "input", _whole, slices)


def _place(
    layer: int,
    site: str,
    module: str,
    takes: str,
    read: Callable[[Any], torch.Tensor],
    slices: int = 1,
    copies: int = 1,
) -> Place:
    return Place(HookPoint(layer, "decoder", site, module, takes), read, slices, copies)


def _children(path: str, modules: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Return the modules beside the one at a path, itself included."""
    return {name: one for name, one in modules.items() if _parent(name) == _parent(path)}


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def _is_activation(module: nn.Module) -> bool:
    return type(module).__module__ in (_FUSED, *_PLAIN)


def _is_complete(linear: Any) -> bool:
    """Return whether the output of a down projection is the sum of all ranks, with its bias."""
    has_bias = linear.skip_bias_add and linear.bias is not None
    return (linear.reduce_results or linear.tp_size == 1) and not has_bias


def _is(module: nn.Module, *names: str) -> bool:
    """Return whether a module is of a class of these names, or derived from one."""
    return any(one.__name__ in names for one in type(module).__mro__)


# Reading -----------------------------------------------------------------------------------


def _whole(value: Any) -> torch.Tensor:
    """Return the tensor that a module takes or returns; linear layers return their bias, too."""
    import torch

    found = value[0] if isinstance(value, tuple) else value
    if not isinstance(found, torch.Tensor):
        raise MeasurementError(
            f"there is {type(found).__name__} instead of a tensor",
            "a kernel of vLLM computes it together with what follows: choose other sites",
        )
    return found


def _part(value: Any, start: int, stop: int) -> torch.Tensor:
    return _whole(value)[..., start:stop]


def _half(value: Any, *, second: bool) -> torch.Tensor:
    return _whole(value).chunk(2, dim=-1)[second]


def _activated(module: Any, value: Any, *, second: bool) -> torch.Tensor:
    """Return the activation of the gate alone, as the module's own kernel computes it."""
    import torch

    whole = _whole(value)
    gate = _half(whole, second=second)
    ones = torch.ones_like(gate)
    both = (ones, gate) if second else (gate, ones)
    found: torch.Tensor = module.forward(torch.cat(both, dim=-1))  # hooks would call this again
    return found


def _residual(value: Any, *, adds: bool) -> torch.Tensor:
    """Return the residual stream behind a layer: its output, or what the next norm adds up."""
    if not isinstance(value, tuple) or (len(value) == 2 and value[1] is None):
        return _whole(value)
    if len(value) == 2 and adds and value[0].shape == value[1].shape:
        found: torch.Tensor = value[0] + value[1]
        return found
    raise MeasurementError(
        f"the layer returns {counted(len(value), 'value')} whose sum may not be the residual "
        "stream",
        "leave the site residual out",
    )
