"""Stored tensors find the parameter that transformers puts them into."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.quantized_checkpoints import change_tensors, write_plain
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.conversion_mapping import get_model_conversion_mapping

from distviz.errors import RequestError
from distviz.models.open import open_model
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


@pytest.mark.parametrize("twin", ["norm.weight", "layers.0.self_attn.q_proj.weight"])
def test_two_tensors_for_one_parameter(twin: str, tmp_path: Path, demo_folder: Path) -> None:
    """With and without the prefix of the base model: transformers would read one of them."""
    folder = write_plain(tmp_path / "tiny", demo_folder)
    change_tensors(folder, lambda tensors: tensors.update({twin: tensors[f"model.{twin}"] * 0}))
    with pytest.raises(RequestError, match=rf"two tensors are read as model\.{twin}: \S+ and \S+"):
        open_model(str(folder), device="cpu", needs_tokenizer=False)
