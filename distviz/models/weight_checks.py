"""Check whether the weights of a checkpoint match its configuration.

transformers fills missing weights with random numbers and drops unexpected ones. A measurement
would show neither, so both are refused here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from distviz.errors import RequestError
from distviz.models.checkpoint import Checkpoint
from distviz.models.safetensors_files import FLOATS, StoredTensor, sizes
from distviz.output import counted, first_of

if TYPE_CHECKING:
    import torch
    from torch import nn

    from distviz.models.tensor_targets import Targets

_HINT = "the files do not belong to this config.json, or are damaged"
_LAYER = re.compile(r"^(.*?)\.(\d+)\.")
# Scales of activations and of the key-value cache, and buffers that transformers computes itself.
_HARMLESS = re.compile(
    r"(^|[._])((q|k|v|kv|prob|input|output|act|activation|prob_output)_(scale|zero_point|amax|"
    r"global_scale)|qscale_act|inv_freq|cos_cached|sin_cached|masked_bias|position_ids|"
    r"num_batches_tracked)$|\b(attn|attention)\.bias$"
)
# Some files of these methods hold a bias of zeros for every linear module.
_ZERO_BIASES = ("gptq", "awq")


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
        If a tensor is missing, has an unexpected shape, or is unexpected although it would change
        what its layer computes.
    """
    _check_shapes(sorted(info["mismatched_keys"]), model, checkpoint)
    notes = _check_missing(sorted(info["missing_keys"]), checkpoint)
    return notes + _check_unread(sorted(info["unexpected_keys"]), model, checkpoint, all_layers)


def _check_shapes(mismatched: list[tuple[str, Any, Any]], model: Any, found: Checkpoint) -> None:
    if not mismatched:
        return
    name, stored, expected = mismatched[0]
    tensor = _stored(name, model, found)
    where = f" in {tensor.file.name}" if tensor else ""
    raise RequestError(
        f"'{found.source}' contradicts its config.json: {name} is {sizes(stored)}{where}, "
        f"{sizes(expected)} expected{_more(mismatched)}",
        _HINT,
    )


def _check_missing(missing: list[str], found: Checkpoint) -> list[str]:
    """Refuse missing weights; those of a pooler are only noted, no measurement uses them."""
    harmless = [key for key in missing if "pooler" in key.split(".")]
    harmful = [key for key in missing if key not in harmless]
    if harmful:
        raise RequestError(
            f"weights missing: '{found.source}' has no {first_of(harmful)}",
            "the file does not belong to its config.json, or is incomplete",
        )
    note = f"weights missing, random instead (not measured): {', '.join(harmless)}"
    return [note] if harmless else []


def check_types(targets: Targets, found: Checkpoint, method: str | None = None) -> None:
    """Refuse codes that would be read as weights, and weights that would be read as codes.

    Parameters
    ----------
    targets
        The stored tensors, matched with the model.
    found
        The files.
    method
        Name of the quantization; then tensors that its quantizer converts are not checked.
    """
    for name, target in targets.filled.items():
        if method is not None and target.is_converted:
            continue
        for tensor in (found.tensors[stored] for stored in target.stored.values()):
            if _fits(name, tensor.dtype, target.value, method):
                continue
            kind = "plain weights" if _is_plain(target.value) else "other values"
            expected = f"where {method} has {kind}" if method else ""
            raise RequestError(
                f"'{found.source}': {name} in {tensor.file.name} is of type {tensor.dtype}, "
                f"{expected or 'and config.json declares no quantization'}",
                "its quantization_config is missing or wrong, or the file belongs to no model",
            )


def _is_plain(value: torch.Tensor) -> bool:
    return value.is_floating_point() and value.element_size() > 1


def _fits(name: str, dtype: str, value: torch.Tensor, method: str | None) -> bool:
    """Return whether a stored type can be read into a parameter without another meaning."""
    if _is_plain(value):
        return dtype in FLOATS
    if method is None:  # a buffer of whole numbers
        return True
    is_scale = "scale" in name.rpartition(".")[2]  # may be exponents, stored as bytes
    return dtype not in FLOATS and (is_scale or dtype.startswith("F") == value.is_floating_point())


def _check_unread(unread: list[str], model: Any, found: Checkpoint, all_layers: bool) -> list[str]:
    """Refuse tensors that belong to the model's modules and that nothing reads; note others."""
    lists, holders = _layer_lists(model), _holders(model)
    spare = int(getattr(model.config.get_text_config(), "num_nextn_predict_layers", None) or 0)
    ignored, refused, outside = [], [], []
    for key in unread:
        layer = _layer_index(key, model, lists)
        if layer is not None and layer[1] >= layer[0]:
            if all_layers and layer[1] >= layer[0] + spare:
                raise RequestError(
                    f"'{found.source}' contradicts its config.json: the weights hold {key}, the "
                    f"configuration has {counted(layer[0], 'layer')} (0 is the first)",
                    _HINT,
                )
            continue
        if _is_harmless(key, found):
            ignored.append(key)
        elif layer is not None or _is_inside(key, model, holders):
            refused.append(key)
        elif not _is_head(key, model):
            outside.append(key)
    if refused:
        raise RequestError(
            f"'{found.source}' contradicts its config.json: the weights hold {refused[0]}, but the "
            f"configuration has no such parameter{_more(refused)}",
            _HINT,
        )
    ignored += outside
    if not ignored:
        return []
    return [f"weights not used, unknown to the architecture: {first_of(ignored)}"]


def _is_head(key: str, model: Any) -> bool:
    """Return whether a model that was built without its head leaves this tensor aside."""
    named = (getattr(model.config, "architectures", None) or [type(model).__name__])[0]
    own = {name for name, _ in model.named_children()} | {model.base_model_prefix}
    return named != type(model).__name__ and key.partition(".")[0] not in own


def _is_harmless(key: str, found: Checkpoint) -> bool:
    if _HARMLESS.search(key):
        return True
    quantization = found.config.get("quantization_config") or {}
    return key.endswith(".bias") and quantization.get("quant_method") in _ZERO_BIASES


def _layer_index(key: str, model: Any, lists: Mapping[str, int]) -> tuple[int, int] | None:
    """Return the number of layers of the stack that a key names, and the key's layer."""
    match = _LAYER.match(key)
    if match is None:
        return None
    path = next((path for path in _spellings(match[1], model) if path in lists), None)
    return None if path is None else (lists[path], int(match[2]))


def _holders(model: nn.Module) -> set[str]:
    """Return the paths of all modules that have parameters of their own."""
    paths = (name.rpartition(".")[0] for name, _ in model.named_parameters(remove_duplicate=False))
    return set(paths) - {""}


def _layer_lists(model: nn.Module) -> dict[str, int]:
    from torch import nn

    lists = (pair for pair in model.named_modules() if isinstance(pair[1], nn.ModuleList))
    return {path: len(found) for path, found in lists}


def _is_inside(key: str, model: Any, holders: Collection[str]) -> bool:
    """Return whether a key names something inside a module that has parameters (a LoRA, a bias)."""
    paths = (spelling.split(".") for spelling in _spellings(key, model))
    return any(".".join(parts[:end]) in holders for parts in paths for end in range(1, len(parts)))


def _spellings(name: str, model: Any) -> Iterator[str]:
    """Yield the names of a base model's tensor with and without the prefix of the base model."""
    prefix = f"{model.base_model_prefix}."
    yield name
    yield name.removeprefix(prefix)
    yield prefix + name


def _stored(name: str, model: Any, found: Checkpoint) -> StoredTensor | None:
    names = (found.tensors.get(spelling) for spelling in _spellings(name, model))
    return next((tensor for tensor in names if tensor is not None), None)


def _more(names: list[Any]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
