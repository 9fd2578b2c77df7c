"""Check whether the weights of a checkpoint match its configuration.

transformers fills missing weights with random numbers and drops unexpected ones. A measurement
would show neither, so both are refused here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from distviz.errors import RequestError
from distviz.models.checkpoint import Checkpoint
from distviz.models.safetensors_files import StoredTensor

if TYPE_CHECKING:
    from torch import nn

_FLOATS = frozenset(("F64", "F32", "F16", "BF16"))
_HINT = "the files do not belong to this config.json, or are damaged"
_LAYER = re.compile(r"^(.*?)\.(\d+)\.")


def validate_weights(
    model: Any, info: Mapping[str, Any], checkpoint: Checkpoint, *, all_layers: bool = True
) -> list[str]:
    """Refuse weights that contradict the configuration; return warnings about the others.

    Parameters
    ----------
    model
        As transformers built it, on the meta device or loaded.
    info
        From ``from_pretrained(..., output_loading_info=True, ignore_mismatched_sizes=True)``.
    checkpoint
        The files.
    all_layers
        Whether the model has every layer of the checkpoint; if not, further layers in the files
        are accepted.

    Raises
    ------
    RequestError
        If a tensor is missing, has an unexpected shape or type, or is unexpected although it
        would change what its layer computes.
    """
    _check_shapes(sorted(info["mismatched_keys"]), model, checkpoint)
    notes = _check_missing(sorted(info["missing_keys"]), checkpoint)
    if not checkpoint.is_quantized:
        _check_types(model, checkpoint)
        notes += _check_unexpected(sorted(info["unexpected_keys"]), model, checkpoint, all_layers)
    return notes


def _check_shapes(mismatched: list[tuple[str, Any, Any]], model: Any, found: Checkpoint) -> None:
    if not mismatched:
        return
    name, stored, expected = mismatched[0]
    tensor = _stored(name, model, found)
    where = f" in {tensor.file.name}" if tensor else ""
    raise RequestError(
        f"'{found.source}' contradicts its config.json: {name} is {_sizes(stored)}{where}, "
        f"{_sizes(expected)} expected{_more(mismatched)}",
        _HINT,
    )


def _check_missing(missing: list[str], found: Checkpoint) -> list[str]:
    """Refuse missing weights; those of a pooler are only noted, no measurement uses them."""
    harmless = [key for key in missing if "pooler" in key.split(".")]
    harmful = [key for key in missing if key not in harmless]
    if harmful:
        raise RequestError(
            f"weights missing: '{found.source}' has no {harmful[0]}{_more(harmful)}",
            "the file does not belong to its config.json, or is incomplete",
        )
    note = f"weights missing, random instead (not measured): {', '.join(harmless)}"
    return [note] if harmless else []


def _check_types(model: nn.Module, found: Checkpoint) -> None:
    """Refuse integers and eight-bit floats that would be read as plain weights."""
    for name, parameter in model.named_parameters():
        tensor = _stored(name, model, found)
        if tensor and parameter.is_floating_point() and tensor.dtype not in _FLOATS:
            raise RequestError(
                f"'{found.source}': {name} in {tensor.file.name} is of type {tensor.dtype}, "
                "and config.json declares no quantization",
                "its quantization_config is missing, or the file belongs to no model",
            )


def _check_unexpected(
    unexpected: list[str], model: Any, found: Checkpoint, all_layers: bool
) -> list[str]:
    lists = _layer_lists(model)
    spare = int(getattr(model.config.get_text_config(), "num_nextn_predict_layers", None) or 0)
    ignored = []
    for key in unexpected:
        match = _LAYER.match(key)
        if match is None:
            continue
        path = next((path for path in _spellings(match[1], model) if path in lists), None)
        if path is None:
            continue
        if int(match[2]) >= lists[path]:
            if all_layers and int(match[2]) >= lists[path] + spare:
                raise RequestError(
                    f"'{found.source}' contradicts its config.json: the weights hold {key}, the "
                    f"configuration has {lists[path]} layers (0 is the first)",
                    _HINT,
                )
            continue
        if _is_dropped(key, model):
            raise RequestError(
                f"'{found.source}' contradicts its config.json: the weights hold {key}, but the "
                "configuration has no such parameter",
                _HINT,
            )
        ignored.append(key)
    if not ignored:
        return []
    return [f"weights not used, unknown to the architecture: {ignored[0]}{_more(ignored)}"]


def _layer_lists(model: nn.Module) -> dict[str, int]:
    from torch import nn

    lists = (pair for pair in model.named_modules() if isinstance(pair[1], nn.ModuleList))
    return {path: len(found) for path, found in lists}


def _is_dropped(key: str, model: nn.Module) -> bool:
    """Return whether a module supports this parameter but was built without it (a bias)."""
    modules = dict(model.named_modules())
    for spelling in _spellings(key, model):
        path, _, name = spelling.rpartition(".")
        if path in modules and modules[path]._parameters.get(name, modules) is None:  # noqa: SLF001
            return True
    return False


def _spellings(name: str, model: Any) -> Iterator[str]:
    """Yield the names of a base model's tensor with and without the prefix of the base model."""
    prefix = f"{model.base_model_prefix}."
    yield name
    yield name.removeprefix(prefix)
    yield prefix + name


def _stored(name: str, model: Any, found: Checkpoint) -> StoredTensor | None:
    names = (found.tensors.get(spelling) for spelling in _spellings(name, model))
    return next((tensor for tensor in names if tensor is not None), None)


def _sizes(shape: Iterable[int]) -> str:
    return "×".join(map(str, shape)) or "a single number"


def _more(names: list[Any]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
