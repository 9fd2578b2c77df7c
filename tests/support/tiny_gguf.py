"""Small GGUF files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    import pytest

HYBRIDS = ("lfm2", "qwen3_5_text", "qwen3_5_moe_text")
"""Model types whose GGUF files transformers reads with its newer loader."""
_TOKENS = [
    "<|endoftext|>",
    "<|im_end|>",
    *"abcdefghijklmnopqrstuvwxyz",
    "\u0120",
    "\u0120a",
    "\u0120b",
    "!",
]


def write_tiny_gguf(path: Path) -> Path:
    """Write a one-layer Llama as a GGUF, with tensors of several types and a word list."""
    import gguf

    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(8)
    writer.add_tokenizer_model("llama")
    tokens = ["<unk>", "<s>", "</s>", "\u2581a", "\u2581b", "a", "b", "\u2581"]
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * 8)
    writer.add_token_types([2, 3, 3, 1, 1, 1, 1, 1])
    shapes = {
        "token_embd": (8, 32), "output_norm": (32,), "output": (8, 32),
        "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,), "blk.0.attn_q": (32, 32),
        "blk.0.attn_k": (16, 32), "blk.0.attn_v": (16, 32), "blk.0.attn_output": (32, 32),
        "blk.0.ffn_gate": (64, 32), "blk.0.ffn_up": (64, 32), "blk.0.ffn_down": (32, 64),
    }  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator).numpy()
        if "ffn" in name and len(shape) == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(f"{name}.weight", gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(f"{name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tiny_hybrid(kind: str) -> Any:
    """Return a seeded random model of two layers of one of the types `HYBRIDS`."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {
        "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2,
        "num_key_value_heads": 1, "num_hidden_layers": 2, "vocab_size": len(_TOKENS),
        "eos_token_id": 1, "pad_token_id": 0, "bos_token_id": None,
    }  # fmt: skip
    if kind == "lfm2":
        layers = {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False}
    else:
        rope = {"partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
        layers = {
            "layer_types": ["linear_attention", "full_attention"], "head_dim": 16,
            "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
            "linear_value_head_dim": 8, "moe_intermediate_size": 32, "num_experts": 4,
            "num_experts_per_tok": 2, "shared_expert_intermediate_size": 32,
            "rope_parameters": rope | {"rope_type": "default", "rope_theta": 10000.0},
        }  # fmt: skip
    config = AutoConfig.for_model(kind, **sizes, **layers)
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn_like(value) / 8)
    return model


def write_hybrid_gguf(model: Any, path: Path, *, half: bool = False, extra: bool = False) -> Path:
    """Write a model of one of the types `HYBRIDS` as the converter of llama.cpp does.

    The MLP is Q8_0 and attention is F16; with ``half`` every matrix is F16. With ``extra`` the file
    has a block for multi-token prediction.
    """
    import gguf

    config, kinds = model.config, gguf.GGMLQuantizationType
    name = {"qwen3_5_text": "qwen35", "qwen3_5_moe_text": "qwen35moe"}.get(
        config.model_type, "lfm2"
    )
    writer = gguf.GGUFWriter(str(path), name)
    sizes = _lfm2_sizes(config) if name == "lfm2" else _qwen35_sizes(config)
    sizes |= {
        "context_length": 64, "embedding_length": config.hidden_size,
        "attention.head_count": config.num_attention_heads,
        "rope.freq_base": config.rope_parameters["rope_theta"],
        "block_count": config.num_hidden_layers + extra,
    }  # fmt: skip
    if extra:
        sizes["nextn_predict_layers"] = 1
    for key, value in sizes.items():
        add = {int: writer.add_uint32, float: writer.add_float32, list: writer.add_array}
        add[type(value)](f"{name}.{key}", value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("lfm2" if name == "lfm2" else "qwen35")
    writer.add_token_list(_TOKENS)
    writer.add_token_types([3, 3] + [1] * (len(_TOKENS) - 2))
    writer.add_token_merges(["\u0120 a", "\u0120 b"])
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(0)
    for key, value in _stored(model, name, extra):
        kind = kinds.F32 if value.dim() < 2 or "conv" in key else kinds.F16
        if not half and "ffn" in key and "inp" not in key and value.dim() > 1:
            kind = kinds.Q8_0
        writer.add_tensor(key, gguf.quantize(value.numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def load_packed(path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Load a GGUF whose weights stay packed, as transformers does where it has kernels.

    There are none for a CPU: here they unpack what they multiply with.
    """
    from transformers import AutoModelForCausalLM
    from transformers.integrations.gguf import kernels
    from transformers.quantizers import quantizer_gguf

    for module in (kernels, quantizer_gguf):
        monkeypatch.setattr(module, "is_kernels_available", lambda: True)
    monkeypatch.setattr(kernels, "_gguf_kernel", _UnpackingKernel())
    monkeypatch.setattr(kernels, "kernelize_ggml_layers", lambda _: None)
    return AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()


class _UnpackingKernel:
    def supports(self, _: int) -> bool:
        return True

    def dequantize(self, blocks: Any, kind: int, rows: int, columns: int, dtype: Any) -> Any:
        from transformers.integrations.gguf.dequant import dequantize

        return dequantize(blocks, kind, dtype).reshape(rows, columns)

    def mul_mat_vec(self, blocks: Any, x: Any, kind: int, width: int) -> Any:
        return x @ self.dequantize(blocks, kind, width, -1, x.dtype).T

    def mul_mat_id(self, blocks: Any, x: Any, ids: Any, kind: int, width: int) -> Any:
        each = [self.dequantize(one, kind, width, -1, x.dtype) for one in blocks]
        return torch.stack(
            [torch.stack([each[e] @ row for e in own]) for row, own in zip(x, ids, strict=True)]
        )


def _lfm2_sizes(config: Any) -> dict[str, Any]:
    heads = [
        config.num_key_value_heads if kind == "full_attention" else 0 for kind in config.layer_types
    ]
    return {
        "feed_forward_length": config.intermediate_size, "attention.head_count_kv": heads,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "shortconv.l_cache": config.conv_L_cache,
    }  # fmt: skip


def _qwen35_sizes(config: Any) -> dict[str, Any]:
    sizes = {
        "attention.key_length": config.head_dim, "rope.dimension_count": config.head_dim // 2,
        "attention.head_count_kv": config.num_key_value_heads, "full_attention_interval": 2,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.dimension_sections": [*config.rope_parameters["mrope_section"], 0],
        "ssm.conv_kernel": config.linear_conv_kernel_dim,
        "ssm.state_size": config.linear_key_head_dim,
        "ssm.group_count": config.linear_num_key_heads,
        "ssm.time_step_rank": config.linear_num_value_heads,
        "ssm.inner_size": config.linear_value_head_dim * config.linear_num_value_heads,
    }  # fmt: skip
    if config.model_type == "qwen3_5_text":
        return sizes | {"feed_forward_length": config.intermediate_size}
    return sizes | {
        "expert_feed_forward_length": config.moe_intermediate_size,
        "expert_shared_feed_forward_length": config.shared_expert_intermediate_size,
        "expert_count": config.num_experts, "expert_used_count": config.num_experts_per_tok,
    }  # fmt: skip


def _stored(model: Any, name: str, extra: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield names and values as GGUF has them."""
    import gguf

    layers = model.config.num_hidden_layers
    kinds = {value: key for key, value in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[name], layers)
    for path, parameter in model.named_parameters():
        value = parameter.detach()
        if path.endswith("experts.gate_up_proj"):
            block = path.split(".")[2]
            for part, half in zip(("gate", "up"), value.chunk(2, dim=1), strict=True):
                yield f"blk.{block}.ffn_{part}_exps.weight", half.contiguous()
            continue
        known = path.replace("dt_bias", "dt_proj.bias")
        key = names.get_name(known, (".weight", ".bias"))
        if path.endswith("experts.down_proj"):
            key += ".weight"
        value = value.squeeze(1) if "conv" in path and value.dim() == 3 else value
        yield key, value if name == "lfm2" else _as_qwen35(path, value, model.config)
    if extra:
        yield f"blk.{layers}.nextn.eh_proj.weight", torch.ones(32, 64)
        yield f"blk.{layers}.attn_norm.weight", torch.ones(32)


def _as_qwen35(path: str, value: torch.Tensor, config: Any) -> torch.Tensor:
    """Store norms as 1 + w, decays as -exp, and the heads of values ordered by key head last."""
    if path.endswith("A_log"):
        value = -value.exp()
    if path.endswith("norm.weight") and "linear_attn" not in path:
        return value + 1
    if "linear_attn" not in path or path.endswith("norm.weight"):
        return value.squeeze(0) if "shared_expert_gate" in path else value
    keys, heads = config.linear_num_key_heads, config.linear_num_value_heads
    order = torch.arange(heads).reshape(keys, heads // keys).T.flatten()
    if path.endswith("out_proj.weight"):
        return value.unflatten(1, (heads, -1))[:, order].flatten(1)
    before = 2 * keys * config.linear_key_head_dim if "qkv" in path or "conv1d" in path else 0
    own = value[before:].unflatten(0, (heads, -1))[order].flatten(0, 1)
    return torch.cat([value[:before], own])
