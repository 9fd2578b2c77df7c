"""Read the folder of a PEFT adapter, and inject the adapter into its base model.

Injected, every module keeps its name in the base model, so a run of the adapter can be compared
with a run of its base site by site.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distviz.errors import RequestError, first_line
from distviz.models.json_files import read_json
from distviz.models.safetensors_files import FLOATS, StoredTensor, read_header

_CONFIG = "adapter_config.json"
_SHOWN = 80
_WEIGHTS, _PICKLE = "adapter_model.safetensors", "adapter_model.bin"


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter whose files exist and are complete.

    Attributes
    ----------
    folder
        Its folder.
    config
        Content of ``adapter_config.json``.
    base
        Its base model: a folder or a hub id, as resolved.
    weights
        Its weights file; None where only the configuration was read.
    tensors
        Tensors by the header of the weights file; empty for pickles.
    """

    folder: Path
    config: dict[str, Any]
    base: str
    weights: Path | None = None
    tensors: dict[str, StoredTensor] = field(default_factory=dict, repr=False)

    @property
    def revision(self) -> str | None:
        """Branch, tag or commit of a base on the hub; None for the newest."""
        revision = self.config.get("revision")
        return revision if isinstance(revision, str) and revision else None

    @property
    def kind(self) -> str:
        """The method: ``"LORA"``, ``"IA3"``."""
        return str(self.config.get("peft_type"))


def find_adapter(folder: Path, source: str, *, allow_pickle: bool, with_weights: bool) -> Adapter:
    """Read the folder of an adapter; its base is searched inside that folder, then as given.

    Raises RequestError if files are missing or damaged, no base is named, or PEFT is missing.
    """
    config = read_json(folder / _CONFIG)
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise RequestError(
            f"the adapter '{source}' does not name its base model",
            f"set base_model_name_or_path in its {_CONFIG}",
        )
    if with_weights and importlib.util.find_spec("peft") is None:
        raise RequestError(
            f"the adapter '{source}' needs the package peft, which is not installed",
            "pip install peft",
        )
    found = Adapter(folder, config, _resolved(folder, base))
    return _with_weights(found, source, allow_pickle=allow_pickle) if with_weights else found


def _resolved(folder: Path, base: str) -> str:
    """Return a base that is a folder inside or beside the adapter's as its path, others as given.

    Raises RequestError if it can be neither a path nor the name of a hub model.
    """
    try:
        is_beside = (folder / base).is_dir()
        Path(base).expanduser().is_dir()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL, an unknown user
        raise RequestError(
            f"{folder / _CONFIG}: base_model_name_or_path is {base[:_SHOWN]!r}, which is no path "
            f"({getattr(error, 'strerror', None) or error})",
            "give the folder or hub id of the base model",
        ) from error
    return str(folder / base) if is_beside else base


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter rather than a whole model."""
    weights = ("model.safetensors", "pytorch_model.bin")
    has_model = (folder / "config.json").is_file() and any(
        (folder / f"{name}{ending}").is_file() for name in weights for ending in ("", ".index.json")
    )
    return (folder / _CONFIG).is_file() and not has_model


def _with_weights(found: Adapter, source: str, *, allow_pickle: bool) -> Adapter:
    plain, pickle = found.folder / _WEIGHTS, found.folder / _PICKLE
    if plain.is_file():
        tensors = read_header(plain)
        _check_types(tensors, source)
        return Adapter(found.folder, found.config, found.base, plain, tensors)
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


def _check_types(tensors: Mapping[str, StoredTensor], source: str) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATS:
            raise RequestError(
                f"the adapter '{source}': {name} is of type {tensor.dtype}, which would be read as "
                "plain weights",
                "quantized adapters are not supported; fetch it in float16, bfloat16 or float32",
            )


def inject(model: Any, adapter: Adapter, source: str) -> None:
    """Inject an adapter into its base model and activate it; class and module names stay the same.

    Raises RequestError if it changes the model's input (prompt learning), or does not fit.
    """
    try:
        info = model.load_adapter(
            str(adapter.folder),
            adapter_kwargs={"local_files_only": True},
            use_safetensors=adapter.weights is None or adapter.weights.name == _WEIGHTS,
            ignore_mismatched_sizes=True,  # the sizes are checked here, by name
        )
    except Exception as error:
        raise RequestError(
            f"the adapter '{source}' ({adapter.kind}) cannot be applied to '{adapter.base}': "
            f"{first_line(error)}"
        ) from error
    for names, what in (
        (sorted(name for name, *_ in info.mismatched_keys), "has another shape in the base"),
        (sorted(info.missing_keys), "is missing from its file"),
        (sorted(info.unexpected_keys), "is unknown to the base"),
    ):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise RequestError(
                f"the adapter '{source}' does not fit '{adapter.base}': {names[0]} {what}{more}",
                "base_model_name_or_path names another model, or a file is damaged",
            )
    model.requires_grad_(requires_grad=False)
