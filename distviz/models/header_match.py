"""Match the files of a checkpoint with its model, from their headers; no weights are read."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from distviz.errors import RequestError, first_line
from distviz.models.loading import LoadOptions, build_empty, unreadable
from distviz.models.quantized import check_quantization, method_of, prepare_quantized
from distviz.models.quantized_tensors import check_scales, refuse_plain
from distviz.models.safetensors_files import StoredTensor
from distviz.models.tensor_targets import Targets, match_tensors
from distviz.models.weight_checks import check_types, validate_weights

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PretrainedConfig

    from distviz.models.checkpoint import Checkpoint

_STORED = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"} | {
    f"{kind}{bits}": f"{word}{bits}"
    for kind, word in (("I", "int"), ("U", "uint"))
    for bits in (8, 16, 32, 64)
}
_CODES = {
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F4": "float4_e2m1fn_x2", "BOOL": "bool",
}  # fmt: skip


def match_headers(
    auto: Any,
    checkpoint: Checkpoint,
    config: PretrainedConfig,
    options: LoadOptions,
    *,
    all_layers: bool = True,
) -> tuple[nn.Module, list[str]]:
    """Build the model on the meta device and check the files against it; no weights are read.

    The renaming rules of transformers, and of the quantizer, match every tensor in the headers with
    the model. A GGUF is not checked: its model is only built.

    Returns the model (for plain weights, with the dtypes of the loaded model) and warnings about
    the weights; RequestError if the model cannot be built, the weights contradict its
    configuration, or a package for its quantization is missing.
    """
    quantization = check_quantization(config, checkpoint.source, options.placement)
    empty = build_empty(auto, config, options)
    if checkpoint.pickled and checkpoint.weights:
        checkpoint = replace(checkpoint, tensors=read_pickled(checkpoint.weights))
    if not checkpoint.tensors:
        return empty, []
    if quantization is not None:
        model, quantizer = prepare_quantized(auto, config, checkpoint.weights, options.placement)
        info = _check_quantized(model, quantizer, checkpoint, quantization)
        return empty, validate_weights(model, info, checkpoint, all_layers=all_layers)
    model, info = _load_shapes(type(empty), checkpoint, config, options)
    check_types(_match(model, checkpoint), checkpoint)
    notes = validate_weights(model, info, checkpoint, all_layers=all_layers)
    return model.eval().requires_grad_(requires_grad=False), notes


def read_pickled(files: Sequence[Path]) -> dict[str, StoredTensor]:
    """Return the tensors of pickle files, whose values stay on disk; no code of theirs runs.

    Raises RequestError if a file is not a state dict of tensors.
    """
    import torch

    words = {getattr(torch, word): kind for kind, word in (_STORED | _CODES).items()}
    found = {}
    for path in files:
        try:
            state = torch.load(path, map_location="meta", weights_only=True)
        except Exception as error:  # zipfile, pickle, torch and the system have their own
            raise RequestError(
                f"{path} cannot be read as a file of tensors: {first_line(error)}",
                "it is damaged, or holds objects other than tensors; convert it to safetensors",
            ) from error
        if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
            raise RequestError(
                f"{path} holds a {type(state).__name__}, not a dict of tensors by name",
                "save model.state_dict() alone, or use save_pretrained",
            )
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                kind = words.get(value.dtype, str(value.dtype).removeprefix("torch.").upper())
                found[name] = StoredTensor(path, kind, tuple(value.shape), value.nbytes)
    return found


def _match(model: Any, checkpoint: Checkpoint, quantizer: Any = None) -> Targets:
    from transformers.conversion_mapping import get_model_conversion_mapping

    mapping: Any = get_model_conversion_mapping(model, None, quantizer)
    return match_tensors(model, checkpoint.tensors, mapping)


def _load_shapes(
    kind: Any, checkpoint: Checkpoint, config: PretrainedConfig, options: LoadOptions
) -> tuple[Any, Mapping[str, Any]]:
    """Load meta tensors in place of the files, so that merged shapes and dtypes are known.

    transformers would read a tensor even to move it to the meta device.
    """
    try:
        model, info = kind.from_pretrained(
            None,
            config=copy.deepcopy(config),
            state_dict=_shapes(checkpoint),
            dtype=options.dtype or "auto",
            device_map={"": "meta"},
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options.for_transformers(),
        )
    except Exception as error:
        raise unreadable(checkpoint, "model", error) from error
    return model, info


def _shapes(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    import torch

    return {
        name: torch.empty(
            tensor.shape, dtype=getattr(torch, _STORED.get(tensor.dtype, "float32")), device="meta"
        )
        for name, tensor in checkpoint.tensors.items()
    }


def _check_quantized(
    model: Any, quantizer: Any, checkpoint: Checkpoint, quantization: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Check codes and scales; return missing, unread and mismatched keys as transformers would."""
    targets = _match(model, checkpoint, quantizer)
    dequantizes = bool(getattr(quantizer.quantization_config, "dequantize", False))
    refuse_plain(targets, checkpoint, quantization)
    check_scales(targets, checkpoint, quantization, dequantizes=dequantizes)
    check_types(targets, checkpoint, method_of(quantization))
    converted = {
        name.rpartition(".")[0] for name, target in targets.filled.items() if target.is_converted
    }
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    filled = targets.filled.keys() | {
        name for pair in tied.items() if targets.filled.keys() & set(pair) for name in pair
    }
    missing = model.state_dict().keys() - filled
    info = SimpleNamespace(
        missing_keys={key for key in missing if key.rpartition(".")[0] not in converted},
        unexpected_keys=set(targets.unread),
    )
    model._adjust_missing_and_unexpected_keys(info)  # noqa: SLF001
    return vars(info) | {"mismatched_keys": _mismatched(model, quantizer, targets, checkpoint)}


def _mismatched(
    model: Any, quantizer: Any, targets: Targets, checkpoint: Checkpoint
) -> set[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    found = set()
    for name, target in targets.filled.items():
        shapes = {checkpoint.tensors[stored].shape for stored in target.stored.values()}
        shape, expected = shapes.pop(), tuple(target.value.shape)
        if target.is_converted or shape == expected:
            continue
        if not quantizer.param_needs_quantization(model, name):
            found.add((name, shape, expected))
    return found
