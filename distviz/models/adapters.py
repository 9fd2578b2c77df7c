"""PEFT adapters: what their folders say, and putting one on its base model.

The adapter is injected into the base model, so every module keeps the name that it has there, and a
run of the adapter can be compared with one of its base place by place.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distviz.errors import RequestError
from distviz.models.safetensors_files import StoredTensor, read_header, read_json

__all__ = ["Adapter", "find_adapter", "inject", "is_adapter"]

_CONFIG = "adapter_config.json"
_WEIGHTS, _PICKLE = "adapter_model.safetensors", "adapter_model.bin"


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter whose files are there and whole.

    Attributes
    ----------
    folder
        Where they lie.
    config
        What ``adapter_config.json`` says.
    base
        The model that it belongs on: a folder or a hub id, as resolved.
    weights
        Its weights file; None where only the configuration was wanted.
    tensors
        What the header of the weights says; empty for pickles.
    """

    folder: Path
    config: dict[str, Any]
    base: str
    weights: Path | None = None
    tensors: dict[str, StoredTensor] = field(default_factory=dict, repr=False)

    @property
    def kind(self) -> str:
        """What sort of adapter it is: ``"LORA"``, ``"IA3"``."""
        return str(self.config.get("peft_type"))


def find_adapter(folder: Path, source: str, *, allow_pickle: bool, with_weights: bool) -> Adapter:
    """Read the folder of an adapter; its base is looked for beside it, then as given.

    Raises
    ------
    RequestError
        If files are missing or damaged, no base is named, or PEFT is not installed.
    """
    config = read_json(folder / _CONFIG)
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise RequestError(
            f"the adapter '{source}' does not say what model it belongs on",
            f"write base_model_name_or_path into its {_CONFIG}",
        )
    if with_weights and importlib.util.find_spec("peft") is None:
        raise RequestError(
            f"the adapter '{source}' needs the package peft, which is not installed",
            "pip install peft",
        )
    beside = folder / base
    found = Adapter(folder, config, str(beside) if beside.is_dir() else base)
    return _with_weights(found, source, allow_pickle=allow_pickle) if with_weights else found


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter rather than a whole model."""
    own = ("config.json", "model.safetensors", "model.safetensors.index.json")
    return (folder / _CONFIG).is_file() and not all(
        any((folder / name).is_file() for name in names) for names in (own[:1], own[1:])
    )


def _with_weights(found: Adapter, source: str, *, allow_pickle: bool) -> Adapter:
    plain, pickle = found.folder / _WEIGHTS, found.folder / _PICKLE
    if plain.is_file():
        return Adapter(found.folder, found.config, found.base, plain, read_header(plain))
    if not pickle.is_file():
        raise RequestError(
            f"the adapter '{source}' has no weights: {_WEIGHTS} is missing",
            "the download may be incomplete",
        )
    if not allow_pickle:
        raise RequestError(
            f"the adapter '{source}' has only pickle weights ({_PICKLE}), which can run code",
            "convert them to safetensors, or pass --allow-pickle if you trust their source",
        )
    return Adapter(found.folder, found.config, found.base, pickle)


def inject(model: Any, adapter: Adapter, source: str) -> None:
    """Put an adapter on its base model, active; the model keeps its class and module names.

    Raises
    ------
    RequestError
        If it is of a kind that changes what the model is given (prompt learning), or does not fit.
    """
    try:
        info = model.load_adapter(
            str(adapter.folder),
            adapter_kwargs={"local_files_only": True},
            use_safetensors=adapter.weights is None or adapter.weights.name == _WEIGHTS,
            ignore_mismatched_sizes=True,  # the sizes are judged here, by name
        )
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RequestError(
            f"the adapter '{source}' ({adapter.kind}) cannot be put on '{adapter.base}': {reason}"
        ) from error
    for names, what in (
        (sorted(name for name, *_ in info.mismatched_keys), "is of another size than its base"),
        (sorted(info.missing_keys), "is missing from its file"),
        (sorted(info.unexpected_keys), "has no place in its base"),
    ):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise RequestError(
                f"the adapter '{source}' does not fit '{adapter.base}': {names[0]} {what}{more}",
                "base_model_name_or_path names another model, or a file is damaged",
            )
    model.requires_grad_(requires_grad=False)
