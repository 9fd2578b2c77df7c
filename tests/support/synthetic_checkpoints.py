"""Random checkpoints of any size, written a layer at a time so that little memory is needed."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

LIBRARIES_MB = 450
"""What the imported libraries take; memory figures are net of it."""


def write_llama(
    folder: Path, *, layers: int, hidden: int, intermediate: int, shards: int, seed: int = 0
) -> Path:
    """Write a bfloat16 Llama with the demo's tokenizer, in shards with an index.

    Layers fill the shards in turn; the last one also has the final norm and the untied head, the
    first one the embedding. Weights are normal with standard deviation 0.02, norms one.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    heads = hidden // 64
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"], hidden_size=hidden, intermediate_size=intermediate,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=heads // 2,
        vocab_size=2048, bos_token_id=0, eos_token_id=1, pad_token_id=2, dtype="bfloat16",
    )  # fmt: skip
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    demo = Path(str(resources.files("distviz") / "demo"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(demo / name, folder / name)
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Any:
        return torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)

    weight_map: dict[str, str] = {}
    for shard in range(shards):
        tensors: dict[str, Any] = {}
        if shard == 0:
            tensors["model.embed_tokens.weight"] = random(2048, hidden)
        for layer in range(layers * shard // shards, layers * (shard + 1) // shards):
            place = f"model.layers.{layer}"
            kv = heads // 2 * 64
            shapes = {"q": (hidden, hidden), "k": (kv, hidden), "v": (kv, hidden)}
            for name, shape in (shapes | {"o": (hidden, hidden)}).items():
                tensors[f"{place}.self_attn.{name}_proj.weight"] = random(*shape)
            for name in ("gate", "up"):
                tensors[f"{place}.mlp.{name}_proj.weight"] = random(intermediate, hidden)
            tensors[f"{place}.mlp.down_proj.weight"] = random(hidden, intermediate)
            for name in ("input_layernorm", "post_attention_layernorm"):
                tensors[f"{place}.{name}.weight"] = torch.ones(hidden, dtype=torch.bfloat16)
        if shard == shards - 1:
            tensors["model.norm.weight"] = torch.ones(hidden, dtype=torch.bfloat16)
            tensors["lm_head.weight"] = random(2048, hidden)
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def forget(folder: Path) -> None:
    """Put the weights on disk and take them out of the page cache."""
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def resident_bytes(folder: Path) -> int:
    """Bytes of the weights that are in the page cache: what was read since `forget`."""
    libc = ctypes.CDLL(None, use_errno=True)
    total = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE) as data:
            n_pages = -(-len(data) // mmap.PAGESIZE)
            pages = (ctypes.c_ubyte * n_pages)()
            anchor = ctypes.c_char.from_buffer(data)
            address = ctypes.c_void_p(ctypes.addressof(anchor))
            if libc.mincore(address, ctypes.c_size_t(len(data)), pages):
                raise OSError(ctypes.get_errno(), "mincore")
            del anchor
            total += sum(page & 1 for page in bytes(pages)) * mmap.PAGESIZE
    return total
