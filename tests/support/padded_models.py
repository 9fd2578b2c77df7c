"""Tiny random models of four architectures, and padded batches for them."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from distviz import ARM

SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": SIZES | {"num_key_value_heads": 2},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_inner": 48, "vocab_size": 64,
             "bos_token_id": 1, "eos_token_id": 2},
    "bert": SIZES,
    "opt": SIZES | {"ffn_dim": 48, "word_embed_proj_dim": 32},
}  # fmt: skip
ACTS = {
    "llama": "model.layers.{}.mlp.act_fn",
    "gpt2": "transformer.h.{}.mlp.act",
    "bert": "encoder.layer.{}.intermediate.intermediate_act_fn",
    "opt": "model.decoder.layers.{}.activation_fn",
}
NAMES = sorted(CONFIGS)
CAUSAL = ["gpt2", "llama", "opt"]
WHOLE = ARM(fraction=1.0, p1=100.0, seed=11)
"""Every value moves, to u times the largest (or smallest) of its sequence."""


def tiny(name: str, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(3)
    config = AutoConfig.for_model(name, **CONFIGS[name])
    auto = AutoModel if name == "bert" else AutoModelForCausalLM
    return auto.from_config(config, attn_implementation="eager").to(dtype).eval()


def acts(name: str) -> dict[str, tuple[str, str]]:
    return {str(layer): (ACTS[name].format(layer), "output") for layer in range(3)}


def padded(side: str, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Three rows of 9, 4 and 6 tokens; ids are never the pad token's."""
    ids = torch.randint(3, 64, (3, 9), generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros(3, 9, dtype=torch.int64)
    for row, size in enumerate((9, 4, 6)):
        mask[row, slice(None, size) if side == "right" else slice(9 - size, None)] = 1
    return ids, mask


def kept_rows(tensor: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1, tensor.shape[-1])[mask.reshape(-1).bool()]
