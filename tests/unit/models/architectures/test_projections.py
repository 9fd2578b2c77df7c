"""Shapes of MLPs and sites of attentions, for modules written down here."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from distviz.models.architectures.projections import (
    Functional,
    Shape,
    is_mlp_activation,
    is_stack_of_experts,
    layer_sites,
    linear_widths,
    mlp_shape,
    mlp_sites,
)


def module(**children: nn.Module | nn.Parameter) -> nn.Module:
    holder = nn.Module()
    for name, child in children.items():
        setattr(holder, name, child)
    return holder


def shape_of(holder: nn.Module, name: str = "act_fn") -> Shape:
    modules = dict(module(mlp=holder).named_modules(remove_duplicate=False))
    return mlp_shape(f"mlp.{name}", modules)


def test_widths_of_linear_layers_by_their_fields() -> None:
    class Conv1D(nn.Module):
        nx, nf = 3, 5

    assert linear_widths(nn.Linear(3, 5)) == (3, 5)
    assert linear_widths(Conv1D()) == (3, 5)
    assert linear_widths(module(linear=nn.Linear(3, 5), norm=nn.LayerNorm(5))) == (3, 5)
    assert linear_widths(module(linear=nn.Linear(3, 5), other=nn.Linear(5, 3))) is None
    assert linear_widths(nn.LayerNorm(5)) is None
    assert linear_widths(nn.Conv1d(3, 5, 1)) is None


def test_shapes_of_mlps() -> None:
    silu, gate, down = nn.SiLU(), nn.Linear(4, 6), nn.Linear(6, 4)
    plain = module(fc1=gate, act_fn=silu, fc2=down)
    assert shape_of(plain) == Shape("mlp.fc2", firsts=("mlp.fc1",))
    gated = module(gate_proj=gate, up_proj=nn.Linear(4, 6), act_fn=silu, down_proj=down)
    firsts = ("mlp.gate_proj", "mlp.up_proj")
    assert shape_of(gated) == Shape("mlp.down_proj", "mlp.up_proj", gated=True, firsts=firsts)
    fused = module(gate_up_proj=nn.Linear(4, 12), act_fn=silu, down_proj=down)
    first = "mlp.gate_up_proj"
    expected = Shape("mlp.down_proj", first, (6, 12), gated=True, firsts=(first,))
    assert shape_of(fused) == expected
    unknown_order = module(first=nn.Linear(4, 12), act_fn=silu, down_proj=down)
    assert shape_of(unknown_order) == Shape("mlp.down_proj", gated=True, firsts=("mlp.first",))
    assert shape_of(module(up_proj=gate, act_fn=silu)) == Shape(None)


def test_shape_of_a_sequence_and_of_an_mlp_of_two_modules() -> None:
    sequence = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Dropout(0.1), nn.Linear(6, 4))
    assert shape_of(sequence, "1") == Shape("mlp.3", firsts=("mlp.0",))
    first = module(dense=nn.Linear(4, 6), act_fn=nn.GELU())
    layer = module(intermediate=first, output=module(dense=nn.Linear(6, 4)))
    found = mlp_shape("intermediate.act_fn", dict(layer.named_modules()))
    assert (found.down, found.firsts) == ("output.dense", ("intermediate.dense",))


def test_experts_are_parameters_with_an_axis_for_them() -> None:
    stack = nn.Parameter(torch.zeros(3, 4, 6))
    assert is_stack_of_experts(stack)
    assert not is_stack_of_experts(torch.zeros(4, 6))
    assert not is_stack_of_experts(torch.zeros(1, 1, 6))
    experts = module(gate_up_proj=stack, down_proj=stack, act_fn=nn.SiLU())
    assert shape_of(experts) == Shape("mlp", gated=True, fused=True)
    sites = {site.site: site for site in mlp_sites("mlp.act_fn", shape_of(experts))}
    assert sites["product"].chain == ("act_fn()", "mul")
    assert (sites["down"].module, sites["gate"].takes) == ("mlp", "input")


@pytest.mark.parametrize(
    ("path", "kind", "is_found"),
    [
        ("layers.0.mlp.act_fn", nn.SiLU, True),
        ("layers.0.mlp.anything", nn.GELU, True),
        ("layers.0.mlp.act_fn", nn.Identity, True),  # by its name
        ("layers.0.mlp.anything", nn.Identity, False),
        ("layers.0.mlp.anything", nn.Softmax, False),
        ("layers.0.self_attn.act_fn", nn.SiLU, False),
        ("layers.0.router.act_fn", nn.SiLU, False),
        ("layers.0.norm.act_fn", nn.SiLU, False),
        ("layers.0.conv_block.act_fn", nn.SiLU, False),
        ("heads.0.mlp.act_fn", nn.SiLU, False),
    ],
)
def test_activations_of_mlps_only(path: str, kind: type, is_found: bool) -> None:
    holder, _, name = path.rpartition(".")
    activation: Any = kind()
    modules = {holder: module(**{name: activation}), path: activation}
    list_path, index, *_ = path.split(".")
    assert is_mlp_activation(path, activation, (list_path, int(index)), modules) is is_found


def test_a_convolution_beside_it_is_no_mlp() -> None:
    holder = module(act_fn=nn.SiLU(), conv=nn.Conv1d(2, 2, 1))
    modules = {"layers.0.mlp": holder, "layers.0.mlp.act_fn": holder.act_fn}
    assert not is_mlp_activation("layers.0.mlp.act_fn", holder.act_fn, ("layers", 0), modules)


def test_sites_of_an_attention_and_the_residual_stream() -> None:
    attention = module(q_proj=nn.Linear(4, 4), k_proj=nn.Linear(4, 2), o_proj=nn.Linear(4, 4))
    layer = module(self_attn=attention, mlp=nn.Linear(4, 4))
    modules = dict(module(layer=layer).named_modules())
    found = {site.site: (site.module, site.takes) for site in layer_sites("layer", modules, ())}
    (entered,) = (one for one in layer_sites("layer", modules, ()) if one.site == "attn_in")
    assert entered.also == ("layer.self_attn.k_proj",)
    assert found == {
        "attn_in": ("layer.self_attn.q_proj", "input"),
        "q": ("layer.self_attn.q_proj", "output"),
        "k": ("layer.self_attn.k_proj", "output"),
        "attention": ("layer.self_attn.o_proj", "input"),
        "residual": ("layer", "output"),
    }
    bare = {"layer": nn.Linear(4, 4)}
    assert layer_sites("layer", bare, holders=["layer"]) == []


def test_a_fused_projection_is_split_only_in_classes_that_were_read() -> None:
    def sites(class_name: str) -> dict[str, Any]:
        attention = type(class_name, (nn.Module,), {})()
        attention.c_attn, attention.c_proj = nn.Linear(4, 8), nn.Linear(4, 4)
        modules = dict(module(layer=module(attn=attention)).named_modules())
        return {site.site: site.part for site in layer_sites("layer", modules, ())}

    parts = {"q": (0, 4), "k": (4, 6), "v": (6, 8)}
    others = dict.fromkeys(("attn_in", "attention", "residual"))
    assert sites("GPT2Attention") == parts | others
    assert set(sites("GPTBigCodeAttention")) == set(others)


def test_names_of_activation_functions() -> None:
    assert Functional(("silu",), ("silu", "mul"), "down").name == "SiLU"
    assert Functional(("relu", "square"), ("relu", "square"), None).name == "ReLUSquared"
    assert Functional(("mish",), ("mish",), None).name == "mish"
    assert Functional(("silu",), ("silu", "mul"), None).gated
    assert not Functional(("sigmoid", "mul"), ("sigmoid", "mul"), None).gated


def test_values_without_positions_do_not_read_what_keys_read() -> None:
    class Plain(nn.Module):
        def forward(self, hidden: Any) -> Any:
            return self.q_proj(hidden), self.k_proj(hidden), self.v_proj(hidden)

    class Added(nn.Module):
        def forward(self, hidden: Any, positions: Any) -> Any:
            moved = hidden + positions
            return self.q_proj(moved), self.k_proj(moved), self.v_proj(hidden)

    for kind, also in ((Plain, ("k_proj", "v_proj")), (Added, ("k_proj",))):
        attention = kind()
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(attention, name, nn.Linear(4, 4))
        modules = dict(module(layer=module(self_attn=attention)).named_modules())
        (entered,) = (one for one in layer_sites("layer", modules, ()) if one.site == "attn_in")
        assert entered.also == tuple(f"layer.self_attn.{name}" for name in also)
