"""Quantized checkpoints: whether what they need is installed, asked of transformers' own registry.

Nothing here knows a method by itself: the quantizer that transformers would use is built from the
configuration and asked about its environment before a weight is read.
"""

from __future__ import annotations

import copy
import logging
import re
from typing import TYPE_CHECKING, Any

from distviz.errors import RequestError, first_line, nearest

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

__all__ = ["check_quantization", "finalize_quantized", "method_of", "quantization_of"]

_PIP = re.compile(r"pip install [^`)\n]+")
# transformers says no more than that a GPU is needed where this package would run on a CPU.
_RUNS_WITH = {"gptq": "pip install gptqmodel optimum"}


def quantization_of(config: PretrainedConfig) -> dict[str, Any] | None:
    """Return the ``quantization_config`` of a model or of its text part; None if it has none."""
    for part in (config, config.get_text_config()):
        told = getattr(part, "quantization_config", None)
        if told:
            return told if isinstance(told, dict) else dict(told.to_dict())
    return None


def method_of(told: dict[str, Any]) -> str:
    """Return the method's name: ``"gptq"``, ``"bitsandbytes"``, ``"compressed-tensors"``."""
    method = told.get("quant_method")
    return str(getattr(method, "value", method or "bitsandbytes"))


def check_quantization(config: PretrainedConfig, source: str, placement: Any) -> None:
    """Ask the quantizer of a checkpoint whether it can work here; no weights are read.

    Raises
    ------
    RequestError
        If the method is unknown, its package is not installed (with the command that installs it),
        or the quantizer needs another device.
    """
    told = quantization_of(config)
    if told is None:
        return
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AutoHfQuantizer

    method = method_of(told)
    registry: Any = AutoHfQuantizer
    try:
        is_known = registry.supports_quant_method(told)
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
        quantizer = registry.from_config(copy.deepcopy(told), pre_quantized=True)
        quantizer.validate_environment(device_map=placement, weights_only=True)
    except ImportError as error:
        raise RequestError(
            f"'{source}' is quantized by {method}, whose package is not installed",
            _pip_command(error, method),
        ) from error
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RequestError(
            f"'{source}' is quantized by {method}, which cannot work here: {reason}",
            _RUNS_WITH.get(method, ""),
        ) from error


def _pip_command(error: ImportError, method: str) -> str:
    """Take the command out of what transformers says; versions quoted as a shell wants them."""
    found = _PIP.search(str(error))
    if found is None:
        name = (error.name or "").partition(".")[0].replace("_", "-")
        return f"pip install {name}" if name else _RUNS_WITH.get(method, first_line(error))
    words = found[0].rstrip(" .").split()
    is_bare = [">" in word and not word.startswith("'") for word in words]
    return " ".join(
        f"'{word}'" if bare else word for word, bare in zip(words, is_bare, strict=True)
    )


def finalize_quantized(model: nn.Module, asked: Any) -> list[str]:
    """Finish what a quantizer leaves to the first forward pass; return what has to be said.

    compressed-tensors unpacks its weights then, and shows a bar that nobody asked for.
    """
    for hook in list(model._forward_pre_hooks.values()):  # noqa: SLF001
        if getattr(hook, "__name__", "") == "ct_decompress_hook":
            hook(model, ())
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # a line for every call
    if asked is None or model.dtype == asked:
        return []
    words = [str(dtype).removeprefix("torch.") for dtype in (asked, model.dtype)]
    return [f"{words[0]} was asked for, the quantized weights compute in {words[1]}"]
