"""Which linear layers read the values of a hook point."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.tiny_models import save_tiny
from transformers import AutoModelForCausalLM

from distviz.models.architectures import (
    find_mlps,
    find_points,
    linear_inputs,
    linear_left_out,
    other_linear_inputs,
)
from distviz.sites import LINEAR

if TYPE_CHECKING:
    from pathlib import Path


def readers(kind: str, tmp_path: Path, demo_folder: Path) -> dict[str, list[str]]:
    """The linear layers of layer 0 by site, without the path of the layer."""
    model = AutoModelForCausalLM.from_pretrained(save_tiny(kind, tmp_path / kind, demo_folder))
    points = find_points(find_mlps(model), model, [*LINEAR, "act", "residual"], [0], LINEAR)
    found = linear_inputs(model, points)
    return {
        site: [path.split(".0.", 1)[1] for path in paths]
        for site, by_place in found.items()
        for paths in by_place.values()
    }


def test_every_first_projection_is_named(tmp_path: Path, demo_folder: Path) -> None:
    assert readers("llama", tmp_path, demo_folder) == {
        "mlp_in": ["mlp.gate_proj", "mlp.up_proj"],
        "product": ["mlp.down_proj"],
        "attn_in": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        "attention": ["self_attn.o_proj"],
    }
    assert readers("gpt2", tmp_path, demo_folder) == {
        "mlp_in": ["mlp.c_fc"],
        "product": ["mlp.c_proj"],
        "attn_in": ["attn.c_attn"],
        "attention": ["attn.c_proj"],
    }
    latent = readers("minicpm3", tmp_path, demo_folder)
    assert latent["attn_in"] == ["self_attn.q_a_proj", "self_attn.kv_a_proj_with_mqa"]


def test_routed_experts_are_left_out(tmp_path: Path, demo_folder: Path) -> None:
    assert set(readers("mixtral", tmp_path, demo_folder)) == {"attn_in", "attention"}


@pytest.mark.parametrize(
    ("kind", "left_out"),
    [
        ("llama", []),
        ("minicpm3", ["self_attn.kv_b_proj", "self_attn.q_b_proj"]),
        ("mixtral", ["mlp.experts"]),
    ],
)
def test_what_no_site_reads_is_named(
    kind: str, left_out: list[str], tmp_path: Path, demo_folder: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(save_tiny(kind, tmp_path / kind, demo_folder))
    points = find_points(find_mlps(model), model, [*LINEAR, "act"], [0, 1], LINEAR)
    inputs = linear_inputs(model, points)
    assert linear_left_out(model, points, inputs) == [f"model.layers.*.{name}" for name in left_out]
    acts = [point for point in points if point.site == "act"]
    assert linear_left_out(model, acts, linear_inputs(model, acts)) == []


def test_linear_layers_that_no_site_reads_have_their_own(tmp_path: Path, demo_folder: Path) -> None:
    kind = "qwen3_next"
    model = AutoModelForCausalLM.from_pretrained(save_tiny(kind, tmp_path / kind, demo_folder))
    points = find_points(find_mlps(model), model, LINEAR, [0, 3], LINEAR)
    others = other_linear_inputs(model, points)
    layer = "model.layers.{}."
    wanted = [
        (0, "linear_attn.in_proj_ba"), (0, "linear_attn.in_proj_qkvz"), (0, "linear_attn.out_proj"),
        (0, "mlp.shared_expert_gate"), (3, "mlp.shared_expert_gate"),
    ]  # fmt: skip
    found = sorted((p.layer, p.module.removeprefix(layer.format(p.layer))) for p in others)
    assert found == wanted
    assert {p.site for p in others} == {f"input:*.{name}" for _, name in wanted}
    assert all(p.takes == "input" and p.stack == "decoder" and p.may_be_silent for p in others)
    inputs = linear_inputs(model, [*points, *others])
    assert linear_left_out(model, points + others, inputs) == ["model.layers.*.mlp.experts"]


def test_places_with_other_channels_are_inputs_of_no_linear_layer(
    tmp_path: Path, demo_folder: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(save_tiny("llama", tmp_path, demo_folder))
    points = find_points(find_mlps(model), model, ["mlp_in", "product"], [1])
    there = {("mlp_in", point.module): 64 for point in points}  # two streams of a token
    there |= {("product", point.module): 48 for point in points}
    inputs = linear_inputs(model, points, there)
    assert inputs == {"product": {"model.layers.1.mlp.down_proj": ["model.layers.1.mlp.down_proj"]}}
    assert linear_inputs(model, points, {}) == {}
