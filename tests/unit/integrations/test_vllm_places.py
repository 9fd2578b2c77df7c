"""Places of pretended models of vLLM: other activations, experts, and what is left out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch
from support.pretended_engine import Group, PretendedModel, Ranks, SiluAndMul
from torch import nn

from distviz.errors import MeasurementError, RequestError
from distviz.integrations.vllm_places import OF_MLP, find_places
from distviz.sites import SITES

if TYPE_CHECKING:
    from typing import Any

FUSED = SiluAndMul.__module__
GATE = torch.tensor([[-2.0, -0.5, 0.5, 3.0]], dtype=torch.bfloat16)
UP = torch.tensor([[4.0, -1.0, 0.25, 2.0]], dtype=torch.bfloat16)


@pytest.fixture
def model() -> PretendedModel:
    return PretendedModel(2, Group(Ranks(1), 0))


def sites_of(model: nn.Module, layer: int = 0) -> list[str]:
    return [place.point.site for place in find_places(model).found if place.point.layer == layer]


def read(model: nn.Module, site: str, value: Any) -> Any:
    (place,) = (one for one in find_places(model).found if one.point.site == site)
    return place.read(value)


def activation(name: str, forward: Any) -> nn.Module:
    """A module of a class of vLLM's activations."""
    members = {"forward": staticmethod(forward), "__module__": FUSED}
    return type(name, (nn.Module,), members)()


def test_all_sites_are_found_once_a_layer(model: PretendedModel) -> None:
    for layer in (0, 1):
        assert sorted(sites_of(model, layer)) == sorted(SITES)
    places = find_places(model)
    assert places.layers == ("layers.0", "layers.1")
    paths = {place.point.site: place.point.module for place in places.found}
    assert paths["act"] == "layers.1.mlp.act_fn"
    assert paths["residual"] == "layers.1"
    assert paths["attention"] == "layers.1.self_attn.o_proj"
    assert {place.point.stack for place in places.found} == {"decoder"}


@pytest.mark.parametrize(
    ("name", "first"), [("SiluAndMul", True), ("GeluAndMul", True), ("MulAndSilu", False)]
)
def test_the_kernel_itself_computes_the_activation(
    model: PretendedModel, name: str, first: bool
) -> None:
    function = nn.functional.gelu if "Gelu" in name else nn.functional.silu

    def forward(x: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2, dim=-1)
        return function(a) * b if first else a * function(b)

    model.layers = model.layers[:1]
    model.layers[0].mlp.act_fn = activation(name, forward)
    value = torch.cat([GATE, UP] if first else [UP, GATE], dim=-1)
    assert torch.equal(read(model, "gate", value), GATE)
    assert torch.equal(read(model, "up", value), UP)
    act = read(model, "act", value)
    assert act.dtype == torch.bfloat16
    assert torch.equal(act, function(GATE))
    assert torch.equal(act * UP, forward(value))


def test_a_kernel_that_changes_the_up_projection_too_offers_no_activation(
    model: PretendedModel,
) -> None:
    model.layers[0].mlp.act_fn = activation("SwigluOAIAndMul", lambda x: x[..., ::2])
    assert set(sites_of(model)) == set(SITES) - {"gate", "act", "up"}


@pytest.mark.parametrize("made", [nn.GELU(), nn.ReLU(), activation("NewGELU", torch.relu)])
def test_an_activation_of_its_own_is_read_at_both_ends(
    model: PretendedModel, made: nn.Module
) -> None:
    model.layers[0].mlp.act_fn = made
    by_site = {one.point.site: one.point for one in find_places(model).found if not one.point.layer}
    assert "up" not in by_site
    assert (by_site["gate"].module, by_site["gate"].takes) == ("layers.0.mlp.act_fn", "input")
    assert (by_site["act"].module, by_site["act"].takes) == ("layers.0.mlp.act_fn", "output")
    assert by_site["product"].module == "layers.0.mlp.down_proj"


def test_separate_projections_have_an_up_site(model: PretendedModel) -> None:
    mlp = model.layers[0].mlp
    mlp.act_fn, mlp.gate_proj, mlp.up_proj = nn.SiLU(), mlp.gate_up_proj, mlp.gate_up_proj
    del mlp.gate_up_proj
    by_site = {one.point.site: one.point for one in find_places(model).found if not one.point.layer}
    assert by_site["mlp_in"].module == "layers.0.mlp.gate_proj"
    # The pretended projections are one module, which has the first of its names.
    assert "up" not in by_site
    mlp.up_proj = type(mlp.gate_proj)(mlp.gate_proj.weight, Group(Ranks(1), 0))
    by_site = {one.point.site: one.point for one in find_places(model).found if not one.point.layer}
    assert (by_site["up"].module, by_site["up"].takes) == ("layers.0.mlp.up_proj", "output")


def test_routed_experts_are_refused_and_other_layers_are_not(model: PretendedModel) -> None:
    experts = type(
        "MoERunner", (nn.Module,), {"__module__": "vllm.model_executor.layers.fused_moe.x"}
    )
    model.layers[1].mlp.experts = experts()
    places = find_places(model)
    assert places.routed == {1}
    with pytest.raises(RequestError, match=r"experts of layer 1 in one kernel.*product cannot"):
        places.choose(["q", "product"], [0, 1])
    assert {one.point.layer for one in places.choose(["q", "product"], [0])} == {0}
    assert {one.point.layer for one in places.choose(["q", "residual"], [0, 1])} == {0, 1}
    assert not set(sites_of(model, 1)) & set(OF_MLP)


def test_an_activation_in_an_attention_is_no_mlp(model: PretendedModel) -> None:
    model.layers[0].self_attn.gate = nn.SiLU()
    assert sorted(sites_of(model)) == sorted(SITES)


def test_attention_may_be_kept_outside_the_layers(model: PretendedModel) -> None:
    for layer in model.layers:  # as in vLLM's models that run the code of transformers
        layer.self_attn.attn = nn.Identity()
    assert sorted(sites_of(model)) == sorted(SITES)


def test_two_activations_in_front_of_one_projection_are_left_out(model: PretendedModel) -> None:
    model.layers[0].mlp.other = nn.SiLU()
    assert not set(sites_of(model)) & set(OF_MLP)


def test_a_sum_that_is_not_complete_is_left_out() -> None:
    group = Group(Ranks(2), 0)
    model = PretendedModel(1, group)
    assert "down" in sites_of(model)
    model.layers[0].mlp.down_proj.reduce_results = False
    assert "down" not in sites_of(model)
    alone = PretendedModel(1, Group(Ranks(1), 0))
    alone.layers[0].mlp.down_proj.reduce_results = False
    assert "down" in sites_of(alone)
    alone.layers[0].mlp.down_proj.skip_bias_add = True
    alone.layers[0].mlp.down_proj.bias = torch.ones(1)
    assert "down" not in sites_of(alone)


def test_slices_are_those_of_the_down_projection() -> None:
    model = PretendedModel(1, Group(Ranks(2), 0))
    slices = {one.point.site: one.slices for one in find_places(model).found}
    replicated = {"mlp_in", "attn_in", "down", "residual"}
    assert slices == {site: 1 if site in replicated else 2 for site in SITES}
    model.layers[0].mlp.down_proj.input_is_parallel = False
    slices = {one.point.site: one.slices for one in find_places(model).found}
    assert slices["act"] == slices["product"] == 1


def test_queries_with_a_gate_among_them_are_left_out(model: PretendedModel) -> None:
    model.layers[0].self_attn.o_proj.input_size_per_partition //= 2
    assert set(sites_of(model)) == set(SITES) - {"q"}


def test_the_residual_stream_is_what_the_next_norm_adds(model: PretendedModel) -> None:
    model.layers = model.layers[:1]
    assert torch.equal(read(model, "residual", (GATE, UP)), GATE + UP)
    assert torch.equal(read(model, "residual", GATE), GATE)
    assert torch.equal(read(model, "residual", (GATE, None)), GATE)
    with pytest.raises(MeasurementError, match="3 values"):
        read(model, "residual", (GATE, UP, UP))
    model.layers[0].input_layernorm = model.layers[0].post_attention_layernorm = nn.Identity()
    with pytest.raises(MeasurementError, match="may not be the residual stream"):
        read(model, "residual", (GATE, UP))  # as in Cohere's models, which add them before


def test_what_is_no_tensor_is_an_error(model: PretendedModel) -> None:
    model.layers = model.layers[:1]
    with pytest.raises(MeasurementError, match="SimpleNamespace instead of a tensor") as error:
        read(model, "product", SimpleNamespace(quantized=GATE))
    assert "kernel" in error.value.hint


def test_a_model_inside_another_has_whole_paths(model: PretendedModel) -> None:
    outer = nn.Module()
    outer.visual = PretendedModel(1, Group(Ranks(1), 0))
    outer.text = model
    with pytest.raises(RequestError, match="2 stacks of layers"):
        find_places(outer)
    outer.get_language_model = lambda: model
    assert {one.point.module.split(".")[0] for one in find_places(outer).found} == {"text"}


def test_a_model_without_layers_of_vllm_is_refused() -> None:
    with pytest.raises(RequestError, match="0 stacks"):
        find_places(nn.Sequential(nn.Linear(2, 2)))
