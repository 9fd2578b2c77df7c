"""Judge whether the weights of a checkpoint are those that its configuration describes.

transformers matches names and shapes and tells what did not fit; it fills gaps with random numbers
and drops what it has no place for. A measurement would show neither, so both are refused here.
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

__all__ = ["validate_weights"]

_FLOATS = frozenset(("F64", "F32", "F16", "BF16"))
_HINT = "the files do not belong to this config.json, or are damaged"
_LAYER = re.compile(r"^(.*?)\.(\d+)\.")


def validate_weights(
    model: Any, info: Mapping[str, Any], checkpoint: Checkpoint, *, all_layers: bool = True
) -> list[str]:
    """Refuse weights that contradict the configuration; return what has to be said of the others.

    Parameters
    ----------
    model
        As transformers built it, with or without values.
    info
        What ``from_pretrained(..., output_loading_info=True, ignore_mismatched_sizes=True)`` told.
    checkpoint
        The files.
    all_layers
        Whether the model has every layer of the checkpoint; else further ones in the files are
        left out on purpose.

    Raises
    ------
    RequestError
        If a tensor is missing, of another shape or kind than expected, or has no place in the
        model although it changes what its layer computes.
    """
    _judge_shapes(sorted(info["mismatched_keys"]), model, checkpoint)
    notes = _judge_missing(sorted(info["missing_keys"]), checkpoint)
    if not checkpoint.is_quantized:
        _judge_types(model, checkpoint)
        notes += _judge_unexpected(sorted(info["unexpected_keys"]), model, checkpoint, all_layers)
    return notes


def _judge_shapes(mismatched: list[tuple[str, Any, Any]], model: Any, found: Checkpoint) -> None:
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


def _judge_missing(missing: list[str], found: Checkpoint) -> list[str]:
    """Refuse a model with random weights; a pooler's are only noted, nothing measured uses them."""
    harmless = [key for key in missing if "pooler" in key.split(".")]
    harmful = [key for key in missing if key not in harmless]
    if harmful:
        raise RequestError(
            f"weights missing: '{found.source}' has no {harmful[0]}{_more(harmful)}",
            "the file does not belong to its config.json, or is incomplete",
        )
    note = f"weights missing, random instead (not measured): {', '.join(harmless)}"
    return [note] if harmless else []


def _judge_types(model: nn.Module, found: Checkpoint) -> None:
    """Refuse whole numbers and eight-bit floats that would be taken for plain weights."""
    for name, parameter in model.named_parameters():
        tensor = _stored(name, model, found)
        if tensor and parameter.is_floating_point() and tensor.dtype not in _FLOATS:
            raise RequestError(
                f"'{found.source}': {name} in {tensor.file.name} is of type {tensor.dtype}, "
                "and config.json tells of no quantization",
                "its quantization_config is missing, or the file is not that of a model",
            )


def _judge_unexpected(
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
                f"'{found.source}' contradicts its config.json: the weights hold {key}, for which "
                "the configuration leaves no place",
                _HINT,
            )
        ignored.append(key)
    if not ignored:
        return []
    return [f"weights not used, the architecture has no place for {ignored[0]}{_more(ignored)}"]


def _layer_lists(model: nn.Module) -> dict[str, int]:
    from torch import nn

    lists = (pair for pair in model.named_modules() if isinstance(pair[1], nn.ModuleList))
    return {path: len(found) for path, found in lists}


def _is_dropped(key: str, model: nn.Module) -> bool:
    """Return whether a module could hold this parameter and was built without it (a bias)."""
    modules = dict(model.named_modules())
    for spelling in _spellings(key, model):
        path, _, name = spelling.rpartition(".")
        if path in modules and modules[path]._parameters.get(name, modules) is None:  # noqa: SLF001
            return True
    return False


def _spellings(name: str, model: Any) -> Iterator[str]:
    """A checkpoint may name what stands in the base model with or without its prefix."""
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
