"""Norms, sums and scales of tiny layers, against what their modeling code says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.tiny_models import SMALLEST
from transformers import AutoConfig, AutoModel

from distviz.models.architectures import find_mlps
from distviz.models.architectures.layer_order import trace_order
from distviz.sites import LayerOrder

HEADS = SMALLEST | {"num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}
NORMED = {"on_q": 1, "on_k": 1}
SANDWICH = {"after_attention": ("norm",), "after_mlp": ("norm",)}
NO_PRE = {"before_attention": 0, "before_mlp": 0}
TOGETHER = {"is_parallel": True, "shares_norm": True}
POST = NO_PRE | {"stream_after_attention": 1, "stream_after_mlp": 1}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 32}
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("llama", HEADS, {}),
    ("gpt2", GPT2, {}),
    ("qwen3", HEADS, NORMED),
    ("gemma2", HEADS, SANDWICH),
    ("gemma3_text", HEADS, NORMED | SANDWICH),
    ("olmo2", SMALLEST | {"pad_token_id": 0}, NO_PRE | NORMED | SANDWICH),
    ("glm4", HEADS, SANDWICH),
    ("gptj", GPT2 | {"rotary_dim": 4}, TOGETHER),
    ("phi", SMALLEST | {"pad_token_id": 0}, TOGETHER),
    ("cohere", HEADS, TOGETHER),
    ("falcon", SMALLEST | {"pad_token_id": 0}, TOGETHER),
    ("gpt_neox", SMALLEST | {"pad_token_id": 0}, {"is_parallel": True}),
    (
        "granite",
        HEADS | {"residual_multiplier": 0.22},
        {"after_attention": ("× 0.22",), "after_mlp": ("× 0.22",)},
    ),
    ("bitnet", HEADS, {"before_output": 1, "before_down": 1}),
    ("bert", SMALLEST, POST),
    ("t5", {"d_model": 16, "d_ff": 24, "num_layers": 2, "num_heads": 2, "d_kv": 8}, {}),
    ("mixtral", HEADS | {"num_local_experts": 4}, {}),
    ("qwen3_moe", HEADS | {"num_experts": 4, "moe_intermediate_size": 8}, NORMED),
]


@pytest.mark.parametrize(("kind", "fields", "expected"), CASES, ids=[case[0] for case in CASES])
def test_the_order_is_that_of_the_forward_pass(
    kind: str, fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    config = AutoConfig.for_model(kind, **fields)
    with torch.device("meta"):
        model = AutoModel.from_config(config, attn_implementation="eager").eval()
    hooks = _hooks(model)
    assert trace_order(model, find_mlps(model)[0]) == LayerOrder(**expected)
    assert _hooks(model) == hooks
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_learned_scale_of_a_branch_is_noted() -> None:
    config = AutoConfig.for_model("llama", **SMALLEST)
    with torch.device("meta"):
        model: Any = AutoModel.from_config(config, attn_implementation="eager").eval()
        scale = torch.nn.Parameter(torch.ones(16))
    mlp = model.layers[0].mlp
    whole = type(mlp).forward
    mlp.forward = lambda x: whole(mlp, x) * scale
    assert trace_order(model, find_mlps(model)[0]) == LayerOrder(after_mlp=("scale",))


def test_what_cannot_be_traced_has_no_order() -> None:
    config = AutoConfig.for_model("llama", **SMALLEST)
    with torch.device("meta"):
        model: Any = AutoModel.from_config(config, attn_implementation="eager").eval()
    model.layers[0].self_attn.forward = lambda *_, **__: 1 / 0
    assert trace_order(model, find_mlps(model)[0]) is None


def _hooks(model: Any) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    )
