"""A tiny random model of any transformers type, its sizes found by the names of config fields."""

from __future__ import annotations

import copy
import re
from typing import Any

import torch
import transformers
from transformers import AutoModel, AutoModelForCausalLM
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from support.architectures.unset import (
    HEAD_DIM,
    HEADS,
    HIDDEN,
    INNER,
    KV_HEADS,
    LAYERS,
    UNSET,
    VOCAB,
)

CAUSAL = tuple(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)

# A field's whole name is compared with the patterns in this order; sub-configurations too.
_SIZES: tuple[tuple[int, str], ...] = (
    (0, r"(num|max|n)_window_layers|num_kv_shared_layers|num_nextn_predict_layers"),
    (1, r"first_k_dense_replace|num_dense_layers|(moe_)?n(um)?_shared_experts"),
    (1, r"moe_layer_start_index|(expert|attn)_layer_offset|num_residual_layers"),
    (2, r"(expert|attn)_layer_period"),
    (1, r"num_layers_per_stack"),
    (LAYERS, r"(num_|n_)?((encoder|decoder|hidden|global)_)?layers?|conf_num_hidden_layers"),
    (LAYERS, r"depth|num_blocks|moe_layer_end_index"),
    (KV_HEADS, r"num_(key_value(_attention)?|kv)_heads|(swa|cross)_num_key_value_heads|kv_n_heads"),
    (8, r"mamba_n_heads|mamba_num_heads|n_mamba_heads"),
    (HEADS, r"linear_num_(key_|value_)?heads|index_n_heads|num_query_groups"),
    (HEADS, r"(swa_)?(num_|n_)?((\w+_)?attention_)?heads?"),
    (2 * HEAD_DIM, r"qk_head_dim"),
    (HEAD_DIM, r"(\w+_)?head_dim|d_kv|d_head|dim_head|mamba_d_head|mamba_headdim|kv_channels"),
    (HEAD_DIM, r"attention_head_size|qk_(rope|nope)_head_dim"),
    (HEAD_DIM // 2, r"rotary_dim"),
    (VOCAB, r"(\w+_)?vocab_size(_\w+)?|vocab_offset"),
    (4, r"(num_|n_)?((\w+_)?experts)"),
    (2, r"zero_expert_num|num_experts_per_tok(en)?|moe_top_?k|moe_k|top_k(_experts)?"),
    (1, r"n_groups?|topk_group|num_expert_group|mamba_n_?groups"),
    (16, r"(\w+_)?rank|hc_lowrank"),
    (4, r"index_topk(_blocks)?|num_queries"),
    (2, r"index_kpool"),
    (4, r"image_embedding_size"),
    (32, r"num_pos_feats"),
    (INNER, r"(\w+_)?(intermediate_size|ffn_dim|ffn_hidden_size)(_mlp)?|d_ff|dff|dim_ff|d_inner"),
    (INNER, r"n_inner|mlp_dim|feed_forward_size"),
    (2 * HIDDEN, r"mamba_d_ssm"),
    (HIDDEN, r"(\w+_)?hidden_size(_\w+)?|n_embd|d_model|emb_dim|embed_dim|lru_width|dim"),
    (HIDDEN, r"(\w+_)?projection_(dim|size)|pooler_output_size|condition_dim"),
    (HIDDEN, r"embedding_(dim|size)|(in|out)put_embedding_size|word_embed_proj_dim"),
    (HIDDEN, r"adapter_(in_dim|out_dim|input_size)"),
    (8, r"mamba_d_state|ssm_state_size|state_size"),
    (4, r"sliding_window(_size)?|(attention_)?window_size|local_attention"),
    (64, r"(max_|n_)?\w*(positions|position_embeddings|ctx|seq_len)|context_length"),
    (HIDDEN, r"upsample_groups"),
    (32, r"image_size|crop_size|max_img_size"),
    (8, r"patch_size|context_size|(mamba_)?chunk_size|\w+_attn_chunk_length"),
)  # fmt: skip

# Types whose causal model is built from a part of their configuration.
_PART = {"musicgen": "decoder", "musicgen_melody": "decoder"}
# Drafts read the cache of another model: every layer of theirs shares it.
_DRAFTS = {
    "gemma4_assistant": {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0},
    "gemma4_unified_assistant": {},
}
_OF_STAGES = ("stage_names", "out_features", "out_indices", "_out_features", "_out_indices")
_NOT_FIELDS = frozenset(
    ("transformers_version", "model_type", "dtype", "architectures", "id2label", "label2id")
)


def tiny_config(kind: str) -> Any:
    """Return the smallest configuration of a type that still has each kind of its layers."""
    if kind in _DRAFTS:
        text = CONFIG_MAPPING[kind.replace("assistant", "text")](**_DRAFTS[kind])
        text = shrink(text)
        text.num_kv_shared_layers = text.num_hidden_layers
        return CONFIG_MAPPING[kind](text_config=text, backbone_hidden_size=HIDDEN)
    config = shrink(CONFIG_MAPPING[kind]())
    return getattr(config, _PART[kind]) if kind in _PART else config


def shrink(config: Any) -> Any:
    """Return a new configuration of the same class with small sizes."""
    given = {
        name: value
        for name, value in config.to_dict().items()
        if not name.startswith("_") and name not in _NOT_FIELDS
    }
    total = given.get("num_hidden_layers", getattr(config, "num_hidden_layers", None))
    stages = given.get("depths")
    has_stages = isinstance(stages, list | tuple)
    kept = list(range(len(stages))) if has_stages else _kept_layers(given, total)
    fields = {}
    for name, value in given.items():
        part = vars(config).get(name)
        if hasattr(part, "to_dict"):
            fields[name] = shrink(part)
        elif isinstance(value, list | tuple) and kept is not None and len(value) == total:
            fields[name] = _small(name, [value[index] for index in kept], given)
        else:
            fields[name] = _small(name, value, given)
    if kept is not None:
        names = {"num_hidden_layers", getattr(config, "attribute_map", {}).get("num_hidden_layers")}
        fields |= {name: len(kept) for name in names if name in fields}
    if "stage_names" in fields and not has_stages:
        fields = {k: v for k, v in fields.items() if k not in _OF_STAGES}
    if "per_layer_config" in fields:  # sizes of some layers
        fields["per_layer_config"] = {}
    return type(config)(**(fields | UNSET.get(config.model_type, {})))


def _small(name: str, value: Any, given: dict[str, Any]) -> Any:
    if isinstance(value, dict) and "rope" in name:
        return _small_rope(value)
    if isinstance(value, list | tuple) and re.fullmatch(r"(\w+_)?num_(attention_)?heads", name):
        return [2 ** min(HEADS, one).bit_length() // 2 for one in value]
    if isinstance(value, list | tuple) and name == "depths":
        return [min(LAYERS, one) for one in value]
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if re.fullmatch(r"\w+_(token_id|token_index|index)", name) and value >= VOCAB:
        return VOCAB - 1 - sum(map(ord, name)) % 20
    if name == "num_key_value_heads" and value == given.get("num_attention_heads"):
        return min(HEADS, value)
    for size, pattern in _SIZES:
        if re.fullmatch(pattern, name):
            return min(size, value) if value > 0 else value
    return value


def _small_rope(rope: dict[str, Any]) -> dict[str, Any]:
    new = {key: _small_rope(one) if isinstance(one, dict) else one for key, one in rope.items()}
    if "mrope_section" in new:
        new["mrope_section"] = [4, 2, 2]
    for key in ("short_factor", "long_factor"):
        if key in new:
            new[key] = [1.0] * (HEAD_DIM // 2)
    return new


def _kept_layers(given: dict[str, Any], total: int | None) -> list[int] | None:
    """Return layers such that every value of every list with one entry a layer occurs."""
    if not isinstance(total, int):
        return None
    kept: list[int] = []
    for one in given.values():
        is_by_layer = isinstance(one, list | tuple) and len(one) == total
        if is_by_layer and all(isinstance(value, str) for value in one):
            for value in dict.fromkeys(one):
                if not any(one[index] == value for index in kept):
                    kept.append(one.index(value))
    kept += [index for index in range(total) if index not in kept][: max(0, LAYERS - len(kept))]
    return sorted(kept)


def build(kind: str, *, largest: int | None = None) -> Any:
    """Build the model with random weights, float32, in eval mode.

    Weights that an architecture starts with as zeros are drawn too: they would hide differences.
    A model of more than `largest` parameters is a ValueError.
    """
    config = tiny_config(kind)
    if largest is not None:
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in _from(kind, config).parameters())
        if size > largest:
            raise ValueError(f"stays too large: {size / 1e6:.0f} million parameters")
    torch.manual_seed(0)
    model = _from(kind, config).float().eval().requires_grad_(requires_grad=False)
    generator = torch.Generator().manual_seed(1)
    books = [value for name, value in model.named_buffers() if "embed" in name]
    for value in (*model.parameters(), *books):
        is_weight = value.ndim >= 2 and value.numel() > 1 and value.is_floating_point()
        if is_weight and float(value.std()) == 0:
            value.add_(torch.randn(value.shape, generator=generator) * 0.1)
    return model


def _from(kind: str, config: Any) -> Any:
    if kind in _PART:
        name = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind]
        return getattr(transformers, name)._from_config(config, attn_implementation="eager")
    auto = AutoModelForCausalLM if kind in CAUSAL else AutoModel
    name = modeling_auto.MODEL_MAPPING_NAMES.get(kind)
    if auto is AutoModel and isinstance(name, tuple) and not config.architectures:
        config.architectures = [name[0]]
    options = {"experts_implementation": "eager"}
    return auto.from_config(copy.deepcopy(config), attn_implementation="eager", **options)
