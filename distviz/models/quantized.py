"""Check whether a quantized checkpoint can be loaded here, with transformers' own quantizers.

The quantizer of the checkpoint's method validates its environment before any weight is read.
"""

from __future__ import annotations

import copy
import logging
import re
from typing import TYPE_CHECKING, Any

from distviz.errors import RequestError, first_line, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import nn
    from transformers import PretrainedConfig

_PIP = re.compile(r"pip install [^`)\n]+")
# transformers only reports that a GPU is needed, where this package would run on a CPU.
_RUNS_WITH = {"gptq": "pip install gptqmodel optimum"}


def quantization_of(config: PretrainedConfig) -> dict[str, Any] | None:
    """Return the ``quantization_config`` of a model or of its text part; None if it has none."""
    for part in (config, config.get_text_config()):
        declared = getattr(part, "quantization_config", None)
        if declared:
            return declared if isinstance(declared, dict) else dict(declared.to_dict())
    return None


def method_of(quantization: Mapping[str, Any]) -> str:
    """Return the method's name: ``"gptq"``, ``"bitsandbytes"``, ``"compressed-tensors"``."""
    method = quantization.get("quant_method")
    if method is None:
        is_mlx = {"group_size", "bits"} <= quantization.keys()
        method = "MLX" if is_mlx else "bitsandbytes"
    return str(getattr(method, "value", method))


def check_quantization(
    config: PretrainedConfig, source: str, placement: Any
) -> dict[str, Any] | None:
    """Check whether the quantizer of a checkpoint runs here; no weights are read.

    Returns ``quantization_config``, None where there is none. Raises RequestError if the method is
    unknown, its package is not installed (with the command that installs it), or the quantizer
    needs another device.
    """
    quantization = quantization_of(config)
    if quantization is None:
        return None
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AutoHfQuantizer

    method = method_of(quantization)
    if method == "MLX":
        raise RequestError(
            f"'{source}' is quantized by MLX, which transformers cannot read",
            "give the original model, or dequantize it with `mlx_lm.convert --dequantize`",
        )
    registry: Any = AutoHfQuantizer
    try:
        is_known = registry.supports_quant_method(quantization)
    except ValueError:
        method, is_known = "", False
    if not is_known:
        known = sorted(AUTO_QUANTIZATION_CONFIG_MAPPING)
        raise RequestError(
            f"'{source}' is quantized by '{method}', unknown to transformers"
            f"{nearest(method, known)}",
            f"known are: {', '.join(known)}",
        )
    try:
        quantizer = registry.from_config(copy.deepcopy(quantization), pre_quantized=True)
        quantizer.validate_environment(device_map=placement, weights_only=True)
    except ImportError as error:
        raise RequestError(
            f"'{source}' is quantized by {method}, whose package is not installed",
            _pip_command(error, method),
        ) from error
    except Exception as error:
        raise RequestError(
            f"'{source}' is quantized by {method}, which does not run here: {first_line(error)}",
            _RUNS_WITH.get(method, "correct its quantization_config, or give another --device"),
        ) from error
    return quantization


def prepare_quantized(
    auto: Any, config: PretrainedConfig, files: Sequence[Path], placement: Any
) -> tuple[Any, Any]:
    """Build a model on the meta device as its quantizer changes it; return both.

    Raises RequestError if the quantizer cannot be applied to this model.
    """
    import torch
    from transformers.quantizers import auto as quantizers

    get_quantizer: Any = quantizers.get_hf_quantizer
    own = copy.deepcopy(config)
    try:
        quantizer, own, placement = get_quantizer(
            own, None, device_map=placement, weights_only=True, user_agent={}
        )
        with torch.device("meta"):
            model = auto.from_config(own)
            quantizer.preprocess_model(
                model=model, dtype=model.dtype, device_map=placement, use_kernels=False,
                checkpoint_files=list(map(str, files)),
            )  # fmt: skip
    except Exception as error:
        method = method_of(quantization_of(config) or {})
        raise RequestError(
            f"a {config.model_type} model cannot be quantized by {method} as its config.json "
            f"says: {first_line(error)}",
            "quantization_config is wrong, or the files it describes are damaged",
        ) from error
    return model, quantizer


def _pip_command(error: ImportError, method: str) -> str:
    """Return the pip command of transformers' message, versions quoted for a shell."""
    found = _PIP.search(str(error))
    if found is None:
        name = (error.name or "").partition(".")[0].replace("_", "-")
        return f"pip install {name}" if name else _RUNS_WITH.get(method, first_line(error))
    words = found[0].rstrip(" .").split()
    is_bare = [">" in word and not word.startswith("'") for word in words]
    return " ".join(
        f"'{word}'" if bare else word for word, bare in zip(words, is_bare, strict=True)
    )


def finalize_quantized(model: nn.Module, requested: Any) -> list[str]:
    """Run what a quantizer defers to the first forward pass; return warnings about the dtype.

    compressed-tensors would unpack its weights then, with a progress bar of its own.
    """
    for hook in list(model._forward_pre_hooks.values()):  # noqa: SLF001
        if getattr(hook, "__name__", "") == "ct_decompress_hook":
            hook(model, ())
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # a line for every call
    if requested is None or model.dtype == requested:
        return []
    words = [str(dtype).removeprefix("torch.") for dtype in (requested, model.dtype)]
    return [f"{words[0]} was requested, but the quantized weights compute in {words[1]}"]
