"""Sizes of a measurement from shapes: operations by hand, the types that would be loaded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
)

from distviz.cli.forward_cost import trace
from distviz.models.architectures.mlp import find_mlps
from distviz.models.architectures.points import find_points
from distviz.sites import join_layers, parse_layers

SIZES: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
HEADS: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64}


def empty(config: Any) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config).eval()


# One forward pass ---------------------------------------------------------------------------


def test_operations_by_hand() -> None:
    model = empty(LlamaConfig(**SIZES, **HEADS))
    points = find_points(find_mlps(model), model, ["act", "down"])
    cost = trace(model, points, 2, 10)
    layer = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 48
    positions = 20
    attention = 4 * 2 * 4 * 10 * 10 * 8  # two products, a multiplication and an addition each
    rope = cost.operations - 3 * (2 * positions * layer + attention)
    assert 0 <= rope <= 2 * positions * 8 * 2
    assert {point.site: count for point, count in cost.values.items()} == {
        "act": positions * 48,
        "down": positions * 32,
    }
    assert cost.peak > 4 * positions * (48 * 2 + 32)
    assert not cost.is_rough
    assert all(parameter.is_meta for parameter in model.parameters())


def test_an_expert_counts_the_tokens_that_it_gets() -> None:
    sizes = SIZES | {"num_hidden_layers": 1, "num_local_experts": 8, "num_experts_per_tok": 2}
    model = empty(MixtralConfig(**sizes, **HEADS))
    cost = trace(model, [], 2, 64)
    experts = 2 * 128 * 2 * 3 * 32 * 48  # tokens by experts per token, three projections
    others = 2 * 128 * (2 * 32 * 32 + 2 * 32 * 16 + 32 * 8) + 4 * 2 * 4 * 64 * 64 * 8
    assert cost.operations == pytest.approx(experts + others, rel=0.02)


class DependsOnValues(LlamaForCausalLM):
    """Reads a value before it computes anything."""

    def forward(self, input_ids: Any = None, **kwargs: Any) -> Any:
        if int(input_ids.sum()) > 0:
            kwargs = {}
        return super().forward(input_ids, **kwargs)


def test_a_pass_that_depends_on_values_is_estimated_from_the_matrices(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with torch.device("meta"):
        model = DependsOnValues(LlamaConfig(**SIZES, **HEADS)).eval()
    model.base_model_prefix = ""  # so that the whole model is called
    points = find_points(find_mlps(model), model, ["act"])
    rough = trace(model, points, 2, 10)
    assert capfd.readouterr() == ("", "")
    exact = trace(empty(LlamaConfig(**SIZES, **HEADS)), points, 2, 10)
    assert rough.is_rough
    assert set(rough.values) == set(points)
    assert rough.peak > 0
    assert rough.operations == pytest.approx(exact.operations, rel=0.2)


def test_other_architectures() -> None:
    config = GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=64, n_positions=32)
    cost = trace(empty(config), [], 1, 16)
    assert cost.operations == pytest.approx(2 * 16 * 2 * 12 * 32 * 32, rel=0.1)


@given(st.sets(st.integers(0, 40)))
def test_layers_are_written_as_they_are_read(layers: set[int]) -> None:
    text = join_layers(layers)
    assert parse_layers(text, 41) == sorted(layers)
    assert len(text) <= len(",".join(map(str, sorted(layers)))) or text == "none"
