"""Tiny quantized checkpoints, and changes that make tensors contradict the configuration."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM

from support.packages import need
from support.tiny_models import edit_config, save_tokenizer

Tensors = dict[str, torch.Tensor]
_SIZES: dict[str, Any] = {
    "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "vocab_size": 2048,
    "num_attention_heads": 4, "num_key_value_heads": 4, "bos_token_id": 0, "eos_token_id": 1,
    "pad_token_id": 2,
}  # fmt: skip
_EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}
FP8: dict[str, Any] = {
    "quant_method": "fp8",
    "activation_scheme": "dynamic",
    "weight_block_size": [128, 128],
}


def write_plain(folder: Path, demo: Path, kind: str = "llama") -> Path:
    """Write a random bfloat16 model with the demo's tokenizer."""
    torch.manual_seed(3)
    sizes = _SIZES | (_EXPERTS if kind == "mixtral" else {})
    model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes))
    model.to(torch.bfloat16).save_pretrained(folder)
    save_tokenizer(demo, folder)
    return folder


def write_fp8(folder: Path, demo: Path, kind: str = "llama") -> Path:
    """Write linear weights as eight-bit floats in blocks of 128 x 128, as DeepSeek does."""
    write_plain(folder, demo, kind)
    change_tensors(folder, encode_blocks)
    edit_config(folder, quantization_config=FP8)
    return folder


def encode_blocks(tensors: Tensors) -> None:
    for name in [name for name in tensors if is_linear(name)]:
        value = tensors[name].float()
        blocks = value.view(value.shape[0] // 128, 128, value.shape[1] // 128, 128)
        scale = blocks.abs().amax((1, 3)) / 448
        codes = (blocks / scale[:, None, :, None]).view(value.shape)
        tensors[name] = codes.to(torch.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = scale


def decode_blocks(tensors: Tensors) -> None:
    """Undo `encode_blocks`, without the code under test."""
    for name in [name for name in tensors if name.endswith("_scale_inv")]:
        scale = tensors.pop(name).repeat_interleave(128, 0).repeat_interleave(128, 1)
        weight = name.removesuffix("_scale_inv")
        tensors[weight] = (tensors[weight].float() * scale).bfloat16()


def is_linear(name: str) -> bool:
    return name.endswith(("proj.weight", "w1.weight", "w2.weight", "w3.weight"))


def write_compressed(plain: Path, folder: Path, demo: Path, bits: int) -> Path:
    """Compress a plain checkpoint to 8 bits a channel, or pack it to 4 bits in groups of 32."""
    need("compressed_tensors")
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        apply_quantization_config,
    )

    how = {8: ("int-quantized", "channel", None), 4: ("pack-quantized", "group", 32)}[bits]
    args = QuantizationArgs(num_bits=bits, type="int", strategy=how[1], group_size=how[2])
    config = QuantizationConfig(
        config_groups={"all": QuantizationScheme(targets=["Linear"], weights=args)},
        format=how[0],
        quantization_status="frozen",
        ignore=["lm_head"],
    )
    model: Any = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32)
    apply_quantization_config(model, config)
    for module in model.modules():
        if getattr(module, "quantization_scheme", None) is not None:
            weight = module.weight.data
            groups = weight.view(weight.shape[0], -1, how[2] or weight.shape[1])
            scale = groups.abs().amax(-1) / (2 ** (bits - 1) - 1)
            module.weight_scale.data = scale.reshape(module.weight_scale.shape)
    compressor = ModelCompressor.from_pretrained_model(model, quantization_format=how[0])
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(str(folder))
    save_tokenizer(demo, folder)
    return folder


def unpacked(folder: Path, plain: Path) -> dict[str, torch.Tensor]:
    """The weights by hand: scales by whole numbers, eight packed in an int32, lowest bits first."""
    state = LlamaForCausalLM.from_pretrained(plain).state_dict()
    stored = load_file(folder / "model.safetensors")
    for name in state:
        if f"{name}_packed" in stored:
            packed = stored[f"{name}_packed"]
            nibbles = (packed[..., None] >> torch.arange(0, 32, 4)) & 15
            whole = nibbles.flatten(1)[:, : state[name].shape[1]] - 8
            scale = stored[f"{name}_scale"].repeat_interleave(32, dim=1)
        elif f"{name}_scale" in stored:
            whole, scale = stored[name], stored[f"{name}_scale"]
        else:
            continue
        assert not whole.is_floating_point()
        state[name] = whole.float() * scale
    return state


def change_tensors(folder: Path, change: Callable[[Tensors], Any]) -> None:
    """Change the tensors of ``model.safetensors`` in place."""
    path = folder / "model.safetensors"
    with safe_open(path, "pt") as opened:
        metadata = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    change(tensors)
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata)


# Contradictions -----------------------------------------------------------------------------

_SCALE = ("weight_scale_inv", "weight_scale")


def _scales(tensors: Tensors) -> list[str]:
    return sorted(name for name in tensors if name.endswith(_SCALE))


def _rename(ending: str) -> Callable[[Tensors], Any]:
    def change(tensors: Tensors) -> None:
        for name in _scales(tensors):
            tensors[name.rpartition(".")[0] + ending] = tensors.pop(name)

    return change


def _keep_first(tensors: Tensors) -> None:
    for name in _scales(tensors)[1:]:
        del tensors[name]


def _transpose(tensors: Tensors) -> None:
    for name in _scales(tensors):
        tensors[name] = tensors[name].T


def _drop_weights(tensors: Tensors) -> None:
    first = _scales(tensors)[0].rpartition(".")[0]
    for name in [name for name in tensors if name.startswith(f"{first}.weight")]:
        if name not in _scales(tensors):
            del tensors[name]


def _add(name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Callable[[Tensors], Any]:
    return lambda tensors: tensors.update({name: torch.ones(shape, dtype=dtype)})


UP = "model.layers.0.mlp.up_proj"
TENSOR_CHANGES: dict[str, Callable[[Tensors], Any]] = {
    "scales under another name": _rename(".scale_weight"),
    "scales under another name beside the module": _rename("_scale"),
    "no scales": lambda t: [t.pop(name) for name in _scales(t)],
    "one scale of all": _keep_first,
    "all scales but one": lambda t: t.pop(_scales(t)[0]),
    "all scales but the last": lambda t: t.pop(_scales(t)[-1]),
    "scales transposed": _transpose,
    "a scale transposed": lambda t: t.update({_scales(t)[0]: t[_scales(t)[0]].T}),
    "a scale for a norm": _add("model.norm.weight_scale", 1, 1),
    "a scale for the head": _add("lm_head.weight_scale_inv", 16, 1),
    "a stray tensor in a module": _add(f"{UP}.lora_A.weight", 8, 128),
    "a stray tensor of an adapter": _add(f"{UP}.lora_B.default.weight", 256, 8),
    "a stray bias": _add(f"{UP}.bias", 256),
    "a stray norm in a layer": _add("model.layers.1.self_attn.q_norm.weight", 32),
    "a layer too many": _add("model.layers.2.mlp.up_proj.weight", 256, 128),
    "weights without their scales' codes": _drop_weights,
    "an embedding in eight-bit floats": lambda t: t.update(
        {"model.embed_tokens.weight": t["model.embed_tokens.weight"].to(torch.float8_e4m3fn)}
    ),
    "a norm in whole numbers": lambda t: t.update({"model.norm.weight": torch.ones(128).int()}),
}


def change_quantization(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change ``quantization_config`` of a folder in place."""
    told = json.loads((folder / "config.json").read_text())["quantization_config"]
    told = copy.deepcopy(told)
    change(told)
    edit_config(folder, quantization_config=told)
