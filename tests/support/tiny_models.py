"""Tiny random checkpoints of several architectures, saved as folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
_SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4}

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": _SIZES | _HEADS,
    "qwen3": _SIZES | _HEADS | {"head_dim": 8},
    "gemma3_text": _SIZES | _HEADS | {"head_dim": 8, "sliding_window": 8, "layer_types": [
        "sliding_attention", "full_attention", "sliding_attention", "full_attention"]},
    "gpt2": {"n_embd": 32, "n_layer": 4, "n_head": 4, "tie_word_embeddings": True},
    "phi": _SIZES | {"num_attention_heads": 4},
    "mixtral": _SIZES | _HEADS | {"num_local_experts": 4},
    "minicpm3": _SIZES | {"num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 16,
        "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8},
    "qwen3_next": _SIZES | _HEADS | {"head_dim": 8, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 24},
    "bert": _SIZES | {"num_attention_heads": 4},
    "t5": {"d_model": 32, "d_ff": 48, "num_layers": 3, "num_heads": 4, "d_kv": 8},
}  # fmt: skip
WITHOUT_HEAD = ("bert", "t5")
SMALLEST: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2,
    "vocab_size": 32,
}  # fmt: skip
"""Sizes for configurations that use the usual names."""


def save_tiny(kind: str, folder: Path, demo: Path, *, dtype: str = "float32") -> Path:
    """Save a seeded random model in several shards, with the demo's tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "vocab_size": 2048}
    config = AutoConfig.for_model(kind, **(CONFIGS[kind] | special))
    auto: Any = AutoModel if kind in WITHOUT_HEAD else AutoModelForCausalLM
    torch.manual_seed(7)
    model = auto.from_config(config, dtype=getattr(torch, dtype))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.dim() > 1 and "embed" not in name:
                value.mul_(4)  # so that the layers matter beside the residual stream
    model.save_pretrained(folder, max_shard_size="60KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(demo / name, folder / name)
    return folder


def save_tiny_llama(folder: Path, demo: Path, **fields: Any) -> Path:
    """Save a random Llama of two layers with the demo's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 2048}
    config = LlamaConfig(**(sizes | fields), bos_token_id=0, eos_token_id=1, pad_token_id=2)
    torch.manual_seed(5)
    LlamaForCausalLM(config).save_pretrained(folder)
    save_tokenizer(demo, folder)
    return folder


def save_tokenizer(demo: Path, folder: Path) -> None:
    """Put the demo's tokenizer (2,048 words) into a checkpoint's folder."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(demo / name, folder / name)


def edit_config(folder: Path, **fields: Any) -> None:
    """Set fields of a checkpoint's ``config.json``; None removes a field."""
    change = {key: value for key, value in fields.items() if value is not None}

    def update(config: dict[str, Any]) -> None:
        config.update(change)
        for key in fields.keys() - change.keys():
            config.pop(key, None)

    edit_json(folder / "config.json", update)


def edit_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Read a JSON file, change its content in place, and write it again."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
