"""Tiny random models with routed experts, and what their experts compute, one token at a time.

``by_hand`` knows the layout of the parameters of each family and nothing of how transformers
batches its experts.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

__all__ = ["FAMILIES", "IMPLEMENTATIONS", "Family", "Told", "call", "tiny_experts"]

IMPLEMENTATIONS = ("grouped_mm", "batched_mm", "eager")
_SIZES: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 64, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 64,
}  # fmt: skip
_LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
           "v_head_dim": 8}  # fmt: skip
_FOUR = {"num_experts": 4, "num_experts_per_tok": 2}
_FOUR_LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
_FOUR_ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2}
_NARROW = {"moe_intermediate_size": 12}
_ENCODER_DECODER = {"d_model": 16, "num_experts": 4, "pad_token_id": 0}


def _first_half(experts: Any, expert: int, x: torch.Tensor) -> torch.Tensor:
    weight = experts.gate_up_proj[expert]
    return weight[: weight.shape[0] // 2] @ x


def _first_half_transposed(experts: Any, expert: int, x: torch.Tensor) -> torch.Tensor:
    weight = experts.gate_up_proj[expert].T
    return weight[: weight.shape[0] // 2] @ x


def _clamped(experts: Any, expert: int, x: torch.Tensor) -> torch.Tensor:
    return _first_half(experts, expert, x).clamp(max=experts.limit)


def _clamped_swiglu(experts: Any, expert: int, x: torch.Tensor) -> torch.Tensor:
    return _first_half(experts, expert, x).clamp(max=experts.swiglu_limit)


def _interleaved(experts: Any, expert: int, x: torch.Tensor) -> torch.Tensor:
    both = experts.gate_up_proj[expert].T @ x + experts.gate_up_proj_bias[expert]
    return both[::2].clamp(max=experts.limit)


def _swish(gate: torch.Tensor) -> torch.Tensor:
    return gate * torch.sigmoid(1.702 * gate)


def _ungated(experts: Any, expert: int, x: torch.Tensor) -> torch.Tensor:
    return experts.up_proj[expert] @ x


def _jetmoe(block: Any, expert: int, x: torch.Tensor) -> torch.Tensor:
    weight = block.input_linear.weight[expert]
    return weight[: weight.shape[0] // 2] @ x


def _dbrx(experts: Any, expert: int, x: torch.Tensor) -> torch.Tensor:
    size = experts.mlp.ffn_hidden_size
    return experts.mlp.w1[expert * size : (expert + 1) * size] @ x


def _switch(experts: Any, expert: int, x: torch.Tensor) -> torch.Tensor:
    return experts[f"expert_{expert}"].wi.weight @ x


@dataclass(frozen=True)
class Family:
    """How to build one, where its experts and activations are, what enters an activation."""

    fields: dict[str, Any]
    experts: str
    activation: str = "experts.act_fn"
    gate: Callable[[Any, int, torch.Tensor], torch.Tensor] = _first_half
    layer: int = 1
    switchable: bool = True
    sizes: bool = True
    function: Callable[[torch.Tensor], torch.Tensor] | None = None
    """The activation, where it is no module."""

    @property
    def act(self) -> str:
        """Path of the module at which it is observed; ``*`` stands for each expert."""
        if self.function is not None:
            return self.experts
        return f"{self.experts.rpartition('.')[0]}.{self.activation}"


_MLP = "model.layers.1.mlp.experts"
FAMILIES: dict[str, Family] = {
    "mixtral": Family(_FOUR_LOCAL, _MLP),
    "qwen2_moe": Family(_FOUR | _NARROW | {"shared_expert_intermediate_size": 20}, _MLP),
    "qwen3_moe": Family(_FOUR | _NARROW, _MLP),
    "deepseek_v2": Family(
        _LATENT | _FOUR_ROUTED | _NARROW | {"n_shared_experts": 1, "first_k_dense_replace": 1}, _MLP
    ),
    "deepseek_v3": Family(
        _LATENT | _FOUR_ROUTED | _NARROW
        | {"n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1}, _MLP
    ),
    "deepseek_v4": Family(_FOUR_LOCAL | _NARROW, _MLP, gate=_clamped),
    "gpt_oss": Family(_FOUR_LOCAL, _MLP, gate=_interleaved, function=_swish),
    "hy_v4": Family(
        _LATENT | _FOUR_ROUTED | _NARROW, _MLP, gate=_clamped_swiglu,
        function=torch.nn.functional.silu,
    ),
    "lfm2_moe": Family(
        _FOUR | _NARROW
        | {"num_dense_layers": 1, "layer_types": ["full_attention", "full_attention"]},
        "model.layers.1.feed_forward.experts", function=torch.nn.functional.silu,
    ),
    "gemma4_text": Family(
        _NARROW
        | {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "global_head_dim": 8,
           "layer_types": ["full_attention", "full_attention"]},
        "model.layers.1.experts",
    ),
    "olmoe": Family(_FOUR, _MLP),
    "phimoe": Family(_FOUR_LOCAL, _MLP),
    "glm4_moe": Family(_FOUR_ROUTED | _NARROW | {"first_k_dense_replace": 1}, _MLP),
    "granitemoe": Family(_FOUR_LOCAL, "model.layers.1.block_sparse_moe.experts"),
    "ernie4_5_moe": Family(
        _NARROW | {"moe_num_experts": 4, "moe_k": 2, "moe_layer_start_index": 0}, _MLP
    ),
    "nemotron_h": Family(
        _FOUR_ROUTED | _NARROW
        | {"layers_block_type": ["attention", "moe"], "moe_shared_expert_intermediate_size": 20,
           "mamba_num_heads": 4, "mamba_head_dim": 8, "n_groups": 1, "n_group": 1,
           "topk_group": 1},
        "model.layers.1.mixer.experts", gate=_ungated,
    ),
    "longcat_flash": Family(
        _LATENT
        | {"ffn_hidden_size": 24, "expert_ffn_hidden_size": 12, "n_routed_experts": 4,
           "zero_expert_num": 2, "moe_topk": 2, "num_layers": 1},
        "model.layers.0.mlp.experts", layer=0, switchable=False,
    ),
    "jetmoe": Family(
        _FOUR_LOCAL | {"kv_channels": 8}, "model.layers.1.mlp", "mlp.activation", _jetmoe,
        switchable=False,
    ),
    "llama4_text": Family(
        _FOUR_LOCAL | {"intermediate_size_mlp": 24, "interleave_moe_layer_step": 1},
        "model.layers.1.feed_forward.experts", gate=_first_half_transposed, switchable=False,
    ),
    "dbrx": Family(
        {"d_model": 16, "n_heads": 2, "n_layers": 2, "vocab_size": 64,
         "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2,
                        "hidden_size": 16},
         "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0}},
        "transformer.blocks.1.ffn.experts", "experts.mlp.activation_fn", _dbrx, switchable=False,
        sizes=False,
    ),
    "switch_transformers": Family(
        _ENCODER_DECODER
        | {"d_kv": 8, "d_ff": 24, "num_heads": 2, "num_layers": 2, "num_decoder_layers": 2,
           "vocab_size": 64, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1,
           "expert_capacity": 3},
        "encoder.block.1.layer.1.mlp.experts", "experts.*.act", _switch, switchable=False,
        sizes=False,
    ),
}  # fmt: skip


def tiny_experts(name: str, implementation: str = "grouped_mm", **fields: Any) -> Any:
    """Build the model in float32, on one implementation of its experts."""
    family = FAMILIES[name]
    config = AutoConfig.for_model(
        name, **((_SIZES if family.sizes else {}) | family.fields | fields)
    )
    auto = AutoModel if name == "switch_transformers" else AutoModelForCausalLM
    torch.manual_seed(0)
    model = auto.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
    if family.switchable:
        model.set_experts_implementation(implementation)
    return model


def call(name: str, model: Any, ids: torch.Tensor, mask: torch.Tensor | None = None) -> Any:
    """Call the model on token ids."""
    both = {"decoder_input_ids": ids} if name == "switch_transformers" else {}
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask, **both)


def activation_of(name: str, model: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the activation function, or a copy of its module that nobody watches."""
    if (function := FAMILIES[name].function) is not None:
        return function
    path = FAMILIES[name].act.replace("*", "expert_0")
    found: nn.Module = copy.deepcopy(model.get_submodule(path))
    return found


class Told:
    """What a model tells its experts, by hooks of the test's own: inputs, and (token, slot)."""

    def __init__(self, name: str, model: Any) -> None:
        self.name = name
        self.hidden = torch.empty(0)
        self.chosen: dict[tuple[int, int], int] = {}
        experts = model.get_submodule(FAMILIES[name].experts)
        block = model.get_submodule(FAMILIES[name].experts.rpartition(".")[0])
        if name == "jetmoe":
            experts.router.register_forward_hook(self._of_logits)
        elif name == "llama4_text":
            block.router.register_forward_hook(self._of_logits)
        else:
            experts.register_forward_pre_hook(self._of_index)

    def _of_index(self, _module: Any, args: Any) -> None:
        self.hidden = args[0].reshape(-1, args[0].shape[-1])
        index = args[1]
        if self.name == "switch_transformers":  # ones where an expert takes the token
            self.chosen = {(t, 0): e for t, _, e in index.nonzero().tolist()}
            return
        n_real = 4  # longcat has two more that do nothing
        self.chosen = {
            (t, s): e
            for t, of_token in enumerate(index.tolist())
            for s, e in enumerate(of_token)
            if e < n_real
        }

    def _of_logits(self, _module: Any, args: Any, output: Any) -> None:
        self.hidden, logits = args[0], output[-1].double().numpy()
        ranked = np.argsort(-logits, axis=1, kind="stable")[:, :2]
        self.chosen = {
            (t, s): int(e) for t, of_token in enumerate(ranked) for s, e in enumerate(of_token)
        }
        if self.name == "llama4_text":
            scores = torch.sigmoid(torch.from_numpy(logits)).float()
            self.scale = {(t, s): scores[t, e] for (t, s), e in self.chosen.items()}

    def entering(self, token: int, slot: int) -> torch.Tensor:
        scale = self.scale[token, slot] if self.name == "llama4_text" else 1.0
        return self.hidden[token] * scale
