"""Read the configuration of a checkpoint with transformers; the file may hold anything."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distviz.errors import RequestError, first_line, nearest
from distviz.models.config_fields import check_config, check_generation, refuse
from distviz.models.gguf_reading import gguf_option
from distviz.models.json_files import read_json

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from distviz.models.checkpoint import Checkpoint
    from distviz.models.loading import LoadOptions

_CONFIG, _GENERATION = "config.json", "generation_config.json"
_AT_LEAST_ONE = ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size")
_ATTENTION = "give --attn-implementation eager, or sdpa where the model has it"


def read_config(checkpoint: Checkpoint, options: LoadOptions) -> PretrainedConfig:
    """Read the configuration.

    What it asks a model to return beside its result is set to transformers' defaults: it would
    change what a forward pass returns, and nothing that is measured.

    ``generation_config.json`` is checked as well.

    Raises
    ------
    RequestError
        If transformers does not know the type, or a field makes no sense; file and field are named.
    """
    from transformers import AutoConfig

    path = checkpoint.folder / _CONFIG
    if checkpoint.gguf is None:
        if options.attn_implementation is None:
            refuse_kernels(checkpoint.config, path)
        check_config(checkpoint.config, path)
        _check_names(checkpoint.config, path)
        _check_model_type(checkpoint, trust_remote_code=options.trust_remote_code)
        _check_generation(checkpoint.folder / _GENERATION)
    try:
        with gguf_option(checkpoint) as gguf:
            config: PretrainedConfig = AutoConfig.from_pretrained(
                checkpoint.folder,
                trust_remote_code=options.trust_remote_code,
                local_files_only=True,
                **gguf,
            )
        parts = list(_parts(config))
        _check_shape(config, path)
    except RequestError:
        raise
    except Exception as error:  # a file that may hold anything: transformers raises anything
        where = checkpoint.source if checkpoint.gguf else path
        raise RequestError(f"{where}: {reason_of(error)}") from error
    for part in parts:
        part.return_dict, part.output_hidden_states, part.chunk_size_feed_forward = True, False, 0
        part.output_attentions = False
    return config


def described_in(config: PretrainedConfig) -> str:
    """Return " as PATH/config.json says" for a message; empty for a configuration without file."""
    folder = config.name_or_path
    return f" as {Path(folder) / _CONFIG} says" if folder else ""


def reason_of(error: Exception) -> str:
    """Return what transformers says is wrong, in one line."""
    text = re.sub(
        r"^(Class v|V)alidation error for (field|validator) '[^']*':\s*\w+: ", "", first_line(error)
    )
    text = re.sub(r"<class '(\w+)'>", r"\1", text).partition(". Errors:")[0]
    return text if " " in text else f"{type(error).__name__}: {text}"


def advice_for(error: Exception) -> str:
    """Return what to do about an error of building a model; empty if it is not known."""
    return (
        _ATTENTION if re.search(r"attn|attention|flash|kernels", str(error), re.IGNORECASE) else ""
    )


def _parts(config: PretrainedConfig) -> Iterator[PretrainedConfig]:
    """Yield a configuration and those in it."""
    yield config
    found = [getattr(config, name) for name in config.sub_configs]
    for part in [*found, config.get_text_config()]:
        if part is not None and part is not config:
            yield from _parts(part)


def _check_shape(config: PretrainedConfig, path: Path) -> None:
    text = config.get_text_config()
    for name in _AT_LEAST_ONE:
        value = getattr(text, name, None)
        if isinstance(value, int) and value < 1:
            written = text.attribute_map.get(name, name)
            raise refuse(path, written, value, "at least 1")
    if getattr(text, "sliding_window", None) == 0 and not hasattr(text, "use_sliding_window"):
        raise refuse(path, "sliding_window", 0, "null or at least 1")
    if config.is_encoder_decoder and not type(config)().is_encoder_decoder:
        what = f"a {config.model_type} model has no encoder and decoder"
        raise RequestError(f"{path}: is_encoder_decoder is True, but {what}", "remove the field")


def _check_generation(path: Path) -> None:
    from transformers import GenerationConfig

    if not path.is_file():
        return
    content = read_json(path)
    check_generation(content, path)
    try:
        GenerationConfig.from_dict(content)
    except Exception as error:  # as above
        raise RequestError(f"{path}: {reason_of(error)}") from error


def _check_names(content: Mapping[str, Any], path: Path) -> None:
    """Refuse fields that would replace methods of the configuration."""
    from transformers import PretrainedConfig

    for name in content:
        own = getattr(PretrainedConfig, name, None)
        if name.startswith("__") or callable(own) or name in ("attribute_map", "sub_configs"):
            raise RequestError(f"{path}: '{name}' is not a field of a configuration")


def refuse_kernels(content: Any, path: Path) -> None:
    """Refuse an attention implementation from the hub, which is code; RequestError names it."""
    waiting = [("", content)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, dict):
            inside = name if name.endswith("attn_implementation") else ""
            waiting += [(inside or key, one) for key, one in value.items()]
        if name.endswith("attn_implementation") and isinstance(value, str) and "/" in value:
            raise RequestError(
                f"{path}: {name} {value} is code from the hub, which no file may ask for",
                f"remove the field, or give --attn-implementation {value} if you trust that code",
            )


def _check_model_type(checkpoint: Checkpoint, *, trust_remote_code: bool) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = checkpoint.config.get("model_type")
    if kind in CONFIG_MAPPING:
        return
    if "auto_map" not in checkpoint.config and kind is None:
        raise RequestError(
            f"'{checkpoint.source}' is not a transformers checkpoint",
            "its config.json has no model_type",
        )
    if "auto_map" not in checkpoint.config:
        raise RequestError(
            f"'{checkpoint.source}' has the model_type '{kind}', unknown to transformers"
            f"{nearest(str(kind), CONFIG_MAPPING.keys())}",
            "config.json names it; a newer transformers may know it",
        )
    if not trust_remote_code:
        raise RequestError(
            f"'{checkpoint.source}' ({kind}) needs code that comes with the checkpoint",
            "read that code, then pass --trust-remote-code",
        )
