"""Recognize the activation and the projections of an MLP and of an attention, by class and name.

Nothing is specific to one model: activations are recognized by class or a usual name, linear layers
by the usual names, checked against their widths.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from distviz.models.architectures.attention_inputs import KEY, VALUE, reads_apart

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from torch import nn

Part = tuple[int, int]


class SitePlace(NamedTuple):
    """One site of a layer; fields as in :class:`~distviz.sites.HookPoint`."""

    site: str
    module: str
    takes: str
    part: Part | None = None
    chain: tuple[str, ...] = ()
    also: tuple[str, ...] = ()


_ACTIVATION_NAMES = (
    "act_fn", "activation_fn", "act", "gelu_impl", "intermediate_act_fn", "activation",
    "activation_function",
)  # fmt: skip
_NOT_MLP = re.compile(
    r"norm|router|adapter|att(n|ention)|pooler|head|mamba|mlstm|temporal_block|predict|hyper|^gate$",
    re.IGNORECASE,
)
_NOT_LAYERS = re.compile(r"head|hyper|predict", re.IGNORECASE)
_DOWN = (
    "down_proj", "fc2", "c_proj", "dense_4h_to_h", "wo", "Wo", "w2", "fc_out", "lin2",
    "linear2", "linear_2", "linear_fc2", "dense2", "dense_2", "proj_out", "out_proj",
    "output_linear", "proj_down", "layer_2", "output_dense", "ffn_output", "output", "linear_down",
    "ffw_layer_2",
)  # fmt: skip
_UP = ("up_proj", "wi_1", "w_1", "w3", "proj_up")
_GATE_THEN_UP = ("gate_up_proj", "Wi", "input_linear", "fc1")
_QUERY = ("q_proj", "query", "q", "q_lin", "Wq")
_ATTENTION_OUT = (
    "o_proj", "out_proj", "dense", "c_proj", "wo", "Wo", "o", "out_lin", "out", "proj",
)  # fmt: skip
_EXPERT_NDIM = 3
_ATTENTION_IN = (*_QUERY, "q_b_proj", "query_key_value", "qkv_proj", "c_attn", "Wqkv", "qkv")
_READERS = {
    *_QUERY, *KEY, *VALUE, "query_key_value", "qkv_proj", "c_attn", "Wqkv", "qkv", "q_a_proj",
    "kv_a_proj_with_mqa",
}  # fmt: skip
"""Projections that read the input of the attention."""
_CROSS = re.compile(r"cross|encdec|encoder_attn", re.IGNORECASE)
# Fused projections in the order [q | k | v], with the classes whose code was read: others of the
# same name interleave their heads (CodeGen's qkv_proj, GPT-BigCode's c_attn).
_PLAIN_QKV = {
    "c_attn": ("GPT2", "DecisionTransformerGPT2", "ImageGPT"),
    "qkv_proj": ("Phi3", "Phi4Multimodal"),
    "Wqkv": ("Mpt", "Dbrx", "ModernBert"),
}


_FUNCTIONAL_NAMES = {
    ("silu",): "SiLU",
    ("gelu",): "GELU",
    ("erf",): "GELU",
    ("tanh",): "Tanh",
    ("tanh", "shift", "mul"): "GELUTanh",
    ("relu",): "ReLU",
    ("relu", "square"): "ReLUSquared",
    ("sigmoid",): "Sigmoid",
    ("sigmoid", "mul"): "Swish",
}


@dataclass(frozen=True, slots=True)
class Shape:
    """The projections around one activation (paths); ``fused``: parameters of many experts.

    ``firsts`` read the input of the MLP.
    """

    down: str | None
    up: str | None = None
    up_part: Part | None = None
    gated: bool = False
    fused: bool = False
    firsts: tuple[str, ...] = ()


def parent(path: str) -> str:
    """Return the path of the parent of the module at `path`."""
    return path.rpartition(".")[0]


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class Functional:
    """An activation applied as a function, by its chains
    (:mod:`distviz.models.architectures.function_tracer`).

    Attributes
    ----------
    act
        Chain whose result is the output of the activation.
    product
        Chain whose result is the input of the down projection.
    down
        Path of the down projection; None in fused experts, where it is a parameter.
    is_last
        Whether the module returns the output of the down projection.
    """

    act: tuple[str, ...]
    product: tuple[str, ...]
    down: str | None
    is_last: bool = True

    @property
    def gated(self) -> bool:
        """Whether the activation is multiplied before the down projection."""
        return "mul" in self.product[len(self.act) :]

    @property
    def name(self) -> str:
        """Name of the activation's module class."""
        return _FUNCTIONAL_NAMES.get(self.act) or _FUNCTIONAL_NAMES.get(self.act[:1], self.act[0])


# The MLP ------------------------------------------------------------------------------------


@cache
def _activation_classes() -> frozenset[type]:
    from torch.nn.modules import activation
    from transformers import activations

    classes: dict[str, Any] = activations.ACT2CLS
    known: set[type] = {
        entry[0] if isinstance(entry, tuple) else entry for entry in classes.values()
    }
    not_elementwise = ("MultiheadAttention", "GLU", "Softmax", "Softmax2d", "Softmin", "LogSoftmax")
    names = set(activation.__all__).difference(not_elementwise)
    return frozenset(known | {getattr(activation, name) for name in names})


def is_mlp_activation(
    path: str, module: nn.Module, place: tuple[str, int], modules: Mapping[str, nn.Module]
) -> bool:
    """Return whether the module at `path` is the activation of an MLP of the layer at `place`."""
    is_one = is_known_activation(path, module)
    return is_one and not is_outside_mlps(parent(path), place, modules)


def is_known_activation(path: str, module: nn.Module) -> bool:
    """Return whether the module at `path` is an activation by its class or a usual name."""
    by_name = path.rpartition(".")[2] in _ACTIVATION_NAMES and next(module.children(), None) is None
    return by_name or type(module) in _activation_classes()


def is_outside_mlps(holder: str, place: tuple[str, int], modules: Mapping[str, nn.Module]) -> bool:
    """Return whether `holder` is part of an attention, router, norm, convolution or head."""
    from torch import nn

    if _NOT_LAYERS.search(place[0].rpartition(".")[2]):
        return True
    inside = holder.removeprefix(f"{place[0]}.{place[1]}").split(".")
    if any(_NOT_MLP.search(part) for part in inside):
        return True
    if inside[-1] != "mlp" and any("conv" in part.lower() for part in inside):
        return True
    convolutions = nn.Conv1d | nn.Conv2d | nn.Conv3d
    return any(isinstance(child, convolutions) for child in modules[holder].children())


def linear_widths(module: nn.Module) -> tuple[int, int] | None:
    """Return (input, output) width of a linear layer.

    Includes quantized layers, GPT-2's ``Conv1D``, and modules that wrap one ``linear`` (to clip or
    normalize its values).
    """
    for names in (("in_features", "out_features"), ("nx", "nf")):
        widths = tuple(getattr(module, name, None) for name in names)
        if all(isinstance(width, int) for width in widths):
            return widths  # type: ignore[return-value]
    inner = getattr(module, "linear", None)
    others = [child for child in module.children() if child is not inner]
    if inner is None or any(value.ndim > 1 for one in others for value in one.parameters()):
        return None
    return linear_widths(inner)


def mlp_shape(path: str, modules: Mapping[str, nn.Module]) -> Shape:
    """Return the projections around the activation at `path`."""
    holder_path, _, name = path.rpartition(".")
    holder = modules[holder_path]
    own = {**dict(holder.named_parameters(recurse=False)), **dict(holder.named_children())}
    stacked = [key for key, value in own.items() if is_stack_of_experts(value)]
    if stacked:
        gated = any(re.search(r"gate|input_linear", key) for key in stacked)
        return Shape(holder_path, gated=gated, fused=True)
    linears = {key: child for key, child in holder.named_children() if linear_widths(child)}
    if not linears and sum(getattr(value, "ndim", 0) > 1 for value in own.values()) > 2:
        return Shape(None, gated=True)  # two projections in, one out, all parameters
    down = _down(holder_path, name, linears, modules)
    firsts = [key for key in linears if _join(holder_path, key) != down]
    readers = readers_of(holder_path, down, modules)
    if len(firsts) > 1:
        up = next((_join(holder_path, key) for key in _UP if key in firsts), None)
        return Shape(down, up, gated=True, firsts=readers)
    if firsts and down:
        width, inner = linear_widths(linears[firsts[0]]), linear_widths(modules[down])
        if width and inner and width[1] == 2 * inner[0]:
            if firsts[0] not in _GATE_THEN_UP:
                return Shape(down, gated=True, firsts=readers)
            up, part = _join(holder_path, firsts[0]), (inner[0], width[1])
            return Shape(down, up, part, gated=True, firsts=readers)
    return Shape(down, firsts=readers)


def readers_of(holder: str, down: str | None, modules: Mapping[str, nn.Module]) -> tuple[str, ...]:
    """Return the first projections of an MLP: linear layers whose output is as wide as its inside.

    One that is twice as wide computes both sides of a gated MLP.
    """
    inner = linear_widths(modules[down]) if down else None
    children = dict(modules[holder].named_children())
    widths = {key: linear_widths(child) for key, child in children.items()}
    names = [
        key
        for key, own in widths.items()
        if inner and own and own[1] in (inner[0], 2 * inner[0]) and _join(holder, key) != down
    ]
    return _alike(holder, children, names)


def _alike(path: str, children: Mapping[str, nn.Module], names: Collection[str]) -> tuple[str, ...]:
    """Return the paths of the linear layers of these names that have an input of one width."""
    found = {key: linear_widths(child) for key, child in children.items() if key in names}
    widths = {key: own[0] for key, own in found.items() if own}
    width = next(iter(widths.values()), 0)
    return tuple(_join(path, key) for key, own in widths.items() if own == width)


def is_stack_of_experts(value: object) -> bool:
    """Return whether a parameter, or a module's weight, has an axis for experts."""
    shape = getattr(getattr(value, "weight", value), "shape", ())
    return len(shape) == _EXPERT_NDIM and tuple(shape[:2]) != (1, 1)


def _down(
    holder: str, name: str, linears: Mapping[str, nn.Module], modules: Mapping[str, nn.Module]
) -> str | None:
    from torch import nn

    if isinstance(modules[holder], nn.Sequential):
        later = [key for key in linears if int(key) > int(name)] if name.isdigit() else []
        return _join(holder, later[0]) if later else None
    numbered = getattr(modules[holder], "layers", None)  # D-FINE's two projections in a list
    if not linears and isinstance(numbered, nn.ModuleList) and len(numbered) == 2:
        return _join(holder, "layers.1") if linear_widths(numbered[1]) else None
    within = [_join(holder, key) for key in _DOWN if key in linears]
    return within[0] if within else down_beside(holder, modules)


def down_beside(holder: str, modules: Mapping[str, nn.Module]) -> str | None:
    """Return the down projection of an MLP that consists of two modules.

    Examples: BERT's ``intermediate`` and ``output``, LXMERT's ``lang_inter`` and ``lang_output``,
    CLVP's gated ``fc1`` and ``fc2``, CPM-Ant's ``w_out``.
    """
    own = holder.rpartition(".")[2]
    twins = [re.sub("inter(mediate)?", "output", own)] if "inter" in own else []
    names = [*(f"{twin}.dense" for twin in twins), "output.dense", "w_out"]
    if own == "fc1":
        names.append("fc2")
    beside = (_join(parent(holder), name) for name in names)
    return next((path for path in beside if path in modules), None)


def mlp_sites(path: str, shape: Shape) -> Iterator[SitePlace]:
    """Yield the sites around the activation module at `path`."""
    holder, _, name = path.rpartition(".")
    yield from _input_of("mlp_in", shape.firsts)
    yield SitePlace("gate", path, "input")
    yield SitePlace("act", path, "output")
    if shape.up:
        yield SitePlace("up", shape.up, "output", shape.up_part)
    if shape.gated and (shape.fused or not shape.down):
        # The down projections of fused experts are parameters, not modules: their input is the
        # product with the activation, and only the weighted sum of their outputs is a tensor.
        yield SitePlace("product", holder, "output", chain=(f"{name}()", "mul"))
    elif shape.fused:
        yield SitePlace("product", path, "output")
    elif shape.down:
        yield SitePlace("product", shape.down, "input")
    if shape.down:
        yield SitePlace("down", shape.down, "output")


def _input_of(site: str, readers: tuple[str, ...]) -> Iterator[SitePlace]:
    """Yield the site of what several linear layers read, observed at the first."""
    if readers:
        yield SitePlace(site, readers[0], "input", also=readers[1:])


def functional_sites(
    holder: str, found: Functional, modules: Mapping[str, nn.Module]
) -> Iterator[SitePlace]:
    """Yield the sites of an MLP that applies its activation as a function."""
    yield from _input_of("mlp_in", readers_of(holder, found.down, modules))
    yield SitePlace("gate", holder, "input", chain=found.act)
    yield SitePlace("act", holder, "output", chain=found.act)
    children = dict(modules[holder].named_children())
    up = next((key for key in _UP if key in children), None)
    if up and found.gated:
        yield SitePlace("up", _join(holder, up), "output")
    if found.down is None:
        yield SitePlace("product", holder, "output", chain=found.product)
    else:
        yield SitePlace("product", found.down, "input")
    yield SitePlace("down", (found.down or holder) if found.is_last else holder, "output")


# The attention and the residual stream ------------------------------------------------------


def layer_sites(
    layer_path: str, modules: Mapping[str, nn.Module], holders: Collection[str]
) -> list[SitePlace]:
    """Return the sites of a layer's attention, and its output to the residual stream."""
    sites: list[SitePlace] = []
    for relative, module in modules[layer_path].named_modules():
        called = relative.rpartition(".")[2] + type(module).__name__
        if relative and "att" in called.lower() and not _CROSS.search(relative):
            sites += _attention_sites(_join(layer_path, relative), module, modules)
    # In a list of bare MLPs (XLM's `ffns`), no element outputs the residual stream.
    if sites or layer_path not in holders:
        sites.append(SitePlace("residual", layer_path, "output"))
    return sites


def _attention_sites(
    path: str, attention: nn.Module, modules: Mapping[str, nn.Module]
) -> Iterator[SitePlace]:
    children = {key: child for key, child in attention.named_children() if linear_widths(child)}
    if not any(key in children for key in _ATTENTION_IN):
        return
    within = [_join(path, key) for key in _ATTENTION_OUT if key in children]
    beside = _join(parent(path), "output.dense")
    out = next((found for found in [*within, beside] if found in modules), None)
    out_widths = linear_widths(modules[out]) if out else None
    apart = reads_apart(attention)
    yield from _input_of("attn_in", _alike(path, children, _READERS.difference(apart)))
    for site, names in (("q", _QUERY), ("k", KEY), ("v", VALUE)):
        for key in names:
            if key not in children:
                continue
            widths = linear_widths(children[key])
            # Qwen3-Next and Qwen3.5 interleave an output gate with the query, head by head.
            if not (site == "q" and widths and out_widths and widths[1] == 2 * out_widths[0]):
                yield SitePlace(site, _join(path, key), "output")
    for key, classes in _PLAIN_QKV.items():
        fused = linear_widths(children[key]) if key in children else None
        if fused and out_widths and type(attention).__name__.startswith(classes):
            q, kv = out_widths[0], (fused[1] - out_widths[0]) // 2
            for site, start, stop in (("q", 0, q), ("k", q, q + kv), ("v", q + kv, q + 2 * kv)):
                yield SitePlace(site, _join(path, key), "output", (start, stop))
    if out:
        yield SitePlace("attention", out, "input")
