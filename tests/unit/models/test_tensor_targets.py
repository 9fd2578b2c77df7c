"""Stored tensors find the parameter that transformers puts them into."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.conversion_mapping import get_model_conversion_mapping

from distviz.models.tensor_targets import match_tensors

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "vocab_size": 32}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 2}


def test_experts_are_merged_and_prefixes_follow_the_class() -> None:
    config = AutoConfig.for_model("mixtral", **SIZES, **HEADS)
    expert = "model.layers.0.block_sparse_moe.experts.1"
    names = [f"{expert}.w1.weight", f"{expert}.w3.weight", "model.norm.weight", "extra.weight"]
    for auto, prefix in ((AutoModelForCausalLM, "model."), (AutoModel, "")):
        with torch.device("meta"):
            model = auto.from_config(config)
        found = match_tensors(model, names, get_model_conversion_mapping(model))
        merged = found.filled[f"{prefix}layers.0.mlp.experts.gate_up_proj"]
        assert merged.is_converted
        assert set(merged.stored.values()) == set(names[:2])
        assert list(found.filled[f"{prefix}norm.weight"].stored.values()) == ["model.norm.weight"]
        assert not found.filled[f"{prefix}norm.weight"].is_converted
        assert found.unread == {"extra.weight": "extra.weight"}
