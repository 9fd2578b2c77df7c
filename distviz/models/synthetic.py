"""Build layers of transformers' classes from a few sizes, with seeded random weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from distviz.errors import RequestError, nearest
from distviz.models.config_fields import check_config
from distviz.models.memory import check_memory
from distviz.models.model_config import refuse_kernels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn
    from transformers import PretrainedConfig

    from distviz.settings import LayerSettings

_WINDOW_BYTES, _TOKEN_BYTES = 2000, 9
"""Of a window of random input and of one of its tokens, without hidden states."""
HIDDEN_VOCABULARY = 256
"""Vocabulary size of layers whose input is hidden states."""
# Setting -> its names in configurations; the first that a configuration has is set.
_FIELDS = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "hidden_size": ("hidden_size", "n_embd", "d_model", "dim"),
    "intermediate_size": ("intermediate_size", "ffn_dim", "n_inner", "d_ff", "ffn_hidden_size"),
    "heads": ("num_attention_heads", "n_head", "num_heads", "n_heads"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads"),
    "activation": ("hidden_act", "hidden_activation", "activation_function", "activation"),
}
_WITHOUT_FIELD_OK = ("intermediate_size", "kv_heads")


def layer_config(settings: LayerSettings) -> PretrainedConfig:
    """Return the transformers configuration of the layers that `settings` describe.

    Raises RequestError if the architecture, the activation or a field of ``config`` is unknown, or
    the architecture has no stack of layers to build.
    """
    from transformers import AutoConfig
    from transformers.activations import ACT2FN

    default = _default_config(settings.architecture)
    if settings.activation not in ACT2FN:
        raise RequestError(
            f"unknown activation '{settings.activation}'{nearest(settings.activation, ACT2FN)}",
            f"allowed: {', '.join(sorted(ACT2FN))}",
        )
    fields: dict[str, Any] = {}
    for quantity, names in _FIELDS.items():
        name = next((name for name in names if hasattr(default, name)), None)
        if name:
            fields[name] = getattr(settings, quantity)
        elif quantity not in _WITHOUT_FIELD_OK:
            raise RequestError(
                f"architecture '{settings.architecture}' has no setting for {quantity}",
                "choose a decoder such as llama, qwen2, gemma2, phi or gpt2",
            )
    for name in settings.config:
        if not hasattr(default, name):
            known = [key for key in default.to_dict() if not key.startswith("_")]
            raise RequestError(
                f"'{settings.architecture}' has no configuration field '{name}'"
                f"{nearest(name, known)}"
            )
    where = Path("layer.config")
    check_config(fields | dict(settings.config), where)
    refuse_kernels(settings.config, where)
    if settings.input == "hidden":
        fields |= {"vocab_size": HIDDEN_VOCABULARY}
        fields |= dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0)
    try:
        config = AutoConfig.for_model(settings.architecture, **(fields | dict(settings.config)))
    except Exception as error:
        raise _refused(settings, error) from error
    return config


def check_input(settings: LayerSettings, width: int) -> None:
    """Raise a RequestError where random input would not fit into memory.

    ``width`` is that of hidden states, 0 where the input is tokens.
    """
    documents, tokens = settings.documents, settings.tokens
    size = documents * (_WINDOW_BYTES + tokens * (_TOKEN_BYTES + 4 * width))
    check_memory(size, f"layer.documents {documents:,} of layer.tokens {tokens:,}")
    check_memory(4 * tokens**2, f"the attention masks of layer.tokens {tokens:,}")


def build_layers(
    settings: LayerSettings, config: PretrainedConfig, attn_implementation: str | None = None
) -> nn.Module:
    """Build the model without a head, float32, its weights drawn with ``settings.seed``.

    The architecture's own initialisation is used; the caller's random state does not change.
    Raises RequestError if transformers refuses the configuration.
    """
    import torch
    from transformers import AutoModel

    options = {"attn_implementation": attn_implementation} if attn_implementation else {}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            auto: Any = AutoModel
            model: nn.Module = auto.from_config(config, dtype=torch.float32, **options)
    except Exception as error:
        raise _refused(settings, error) from error
    return model


def cut_layer_fields(config: PretrainedConfig, kept: Sequence[int]) -> None:
    """Reduce `config` to the layers `kept`, in place.

    Lists with one entry per layer (such as ``layer_types``) are reduced as well.
    """
    total = config.num_hidden_layers
    for name, value in vars(config).items():
        if isinstance(value, list) and len(value) == total and "layer" in name:
            setattr(config, name, [value[index] for index in kept])
    config.num_hidden_layers = len(kept)


def _default_config(architecture: str) -> PretrainedConfig:
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    if architecture not in CONFIG_MAPPING:
        raise RequestError(
            f"unknown architecture '{architecture}'{nearest(architecture, CONFIG_MAPPING.keys())}",
            "give a model_type of transformers, such as llama, qwen2, gemma2, phi3 or gpt2",
        )
    config = AutoConfig.for_model(architecture)
    if architecture not in MODEL_MAPPING_NAMES or config.is_encoder_decoder:
        raise RequestError(
            f"layers of '{architecture}' cannot be built without the rest of the model",
            "choose an architecture with one stack of layers, such as llama, gpt2 or bert",
        )
    return config


def _refused(settings: LayerSettings, error: Exception) -> RequestError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return RequestError(f"transformers cannot build '{settings.architecture}': {lines[-1].strip()}")
