"""Read configuration, tokenizer and weights of a checked checkpoint with transformers.

Every error of transformers becomes a :class:`~distviz.errors.RequestError` of one line. What
transformers prints is suppressed: its reports of weights are checked here instead.
"""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distviz.errors import RequestError, first_line, nearest
from distviz.models.adapters import inject
from distviz.models.gguf_reading import gguf_option, unpacked
from distviz.models.model_config import advice_for, described_in, reason_of
from distviz.models.quantized import finalize_quantized
from distviz.models.weight_checks import validate_weights
from distviz.settings import DTYPES

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import nn
    from transformers import PretrainedConfig

    from distviz.models.checkpoint import Checkpoint

_STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Options of loading, already checked."""

    dtype: torch.dtype | None
    device: torch.device
    device_map: Any
    attn_implementation: str | None
    trust_remote_code: bool

    @property
    def placement(self) -> Any:
        """The ``device_map`` of transformers: as given, else the one device; None is the CPU."""
        if self.device_map is None and self.device.type != "cpu":
            return {"": str(self.device)}
        return self.device_map

    def for_transformers(self) -> dict[str, Any]:
        """Return the keyword arguments that every auto class takes."""
        options: dict[str, Any] = {"trust_remote_code": self.trust_remote_code}
        if self.attn_implementation:
            options["attn_implementation"] = self.attn_implementation
        return options


def headless() -> Any:
    """Return the auto class of models without a head."""
    from transformers import AutoModel

    return AutoModel


# Configuration ------------------------------------------------------------------------------


def parse_dtype(name: str) -> torch.dtype | None:
    """Return the torch dtype, ``None`` for ``auto``; RequestError if it is not allowed."""
    import torch

    if name == "auto":
        return None
    if name not in DTYPES:
        raise RequestError(
            f"unknown dtype '{name}'{nearest(name, DTYPES)}", f"allowed: {', '.join(DTYPES)}"
        )
    dtype: torch.dtype = getattr(torch, DTYPES[name])
    return dtype


def parse_device(name: str) -> torch.device:
    """Return a device that works here; RequestError if it does not."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).add_(1)
    except Exception as error:  # torch raises RuntimeError, AssertionError, NotImplementedError …
        raise _no_device(name) from error
    if device.type == "meta":
        raise _no_device(name)
    return device


def parse_device_map(given: str | Mapping[str, Any] | None) -> Any:
    """Return a ``device_map`` of transformers; RequestError if it is no strategy and no device."""
    if given is None or isinstance(given, Mapping):
        return None if given is None else dict(given)
    if given in _STRATEGIES:
        return given
    try:
        return {"": str(parse_device(given))}
    except RequestError as error:
        raise RequestError(
            f"--device-map is '{given}'{nearest(given, _STRATEGIES)}",
            f"allowed: {', '.join(_STRATEGIES)}, or a device; {error.hint}",
        ) from error


def _no_device(name: str) -> RequestError:
    import torch

    here = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    here += ["mps"] if torch.backends.mps.is_available() else []
    return RequestError(f"device '{name}' is not available", f"here are: {', '.join(here)}")


def choose_class(config: PretrainedConfig, checkpoint: Checkpoint) -> tuple[Any, bool]:
    """Return the auto class to load with, and whether it has a causal language head."""
    from transformers import AutoModelForCausalLM
    from transformers.models.auto import modeling_auto as known

    named = config.architectures[0] if config.architectures else None
    kind = config.model_type
    causal = known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)
    if named is None:
        has_head = causal is not None and kind not in known.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    else:
        remote = "AutoModelForCausalLM" in checkpoint.config.get("auto_map", {})
        has_head = named == causal or ((causal or remote) and named.endswith("ForCausalLM"))
    return (AutoModelForCausalLM, True) if has_head else (headless(), False)


def build_empty(auto: Any, config: PretrainedConfig, options: LoadOptions) -> nn.Module:
    """Build the model on the meta device: shapes and modules, no values, no memory."""
    import torch

    try:
        with torch.device("meta"):
            model: nn.Module = auto.from_config(copy.deepcopy(config), **options.for_transformers())
    except Exception as error:
        advice, asked = advice_for(error), options.attn_implementation
        given = f" with --attn-implementation {asked}" if advice and asked else ""
        raise RequestError(
            f"transformers cannot build a {config.model_type} model"
            f"{given or described_in(config)}: {reason_of(error)}",
            advice,
        ) from error
    return model.eval().requires_grad_(requires_grad=False)


# Loading ------------------------------------------------------------------------------------


def read_model(
    auto: Any,
    checkpoint: Checkpoint,
    config: PretrainedConfig,
    options: LoadOptions,
    *,
    all_layers: bool = True,
) -> tuple[nn.Module, list[str]]:
    """Read the weights; return the model and warnings about them.

    Raises RequestError if weights cannot be read, do not fit the configuration or the device, or
    are missing (transformers would fill those with random numbers).
    """
    model, info = _load(auto, checkpoint, config, options)
    notes = validate_weights(model, info, checkpoint, all_layers=all_layers)
    if checkpoint.is_quantized:
        notes += finalize_quantized(model, options.dtype)
    if checkpoint.adapter is not None:
        inject(model, checkpoint.adapter, checkpoint.source)
    return model, notes


def _load(
    auto: Any,
    checkpoint: Checkpoint,
    config: PretrainedConfig,
    options: LoadOptions,
) -> tuple[nn.Module, dict[str, Any]]:
    import torch

    dtype: Any = options.dtype or (torch.float32 if checkpoint.gguf else "auto")
    try:
        with gguf_option(checkpoint) as gguf:
            model, info = auto.from_pretrained(
                checkpoint.folder,
                config=config,
                dtype=dtype,
                device_map=options.placement,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # the sizes are checked here, by name
                **(unpacked() if checkpoint.gguf else {"use_safetensors": not checkpoint.pickled}),
                **gguf,
                **options.for_transformers(),
            )
    except torch.OutOfMemoryError as error:
        raise RequestError(
            f"'{checkpoint.source}' does not fit into the memory of {options.device}",
            "try a smaller --dtype, --device cpu or --stream",
        ) from error
    except Exception as error:
        if options.device_map is not None and "offload_folder" in str(error):
            raise RequestError(
                f"'{checkpoint.source}' does not fit into the memory of the devices, and its "
                "files cannot be offloaded",
                "try --stream instead of --device-map, or a smaller --dtype",
            ) from error
        raise unreadable(checkpoint, "model", error) from error
    checkpoint.parsed.clear()
    return model.eval().requires_grad_(requires_grad=False), info


def unreadable(checkpoint: Checkpoint, what: str, error: Exception) -> RequestError:
    """Return the error of a model, tokenizer or configuration that transformers cannot read."""
    reason = first_line(error)
    if "automatic conversion of the weights" in reason:  # it points to a report that is suppressed
        reason = "transformers cannot merge its tensors; one is missing, or has another shape"
    return RequestError(f"the {what} of '{checkpoint.source}' cannot be read: {reason}")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress the progress bars and the reports of transformers.

    The progress bar of a GGUF cannot be switched off, so standard error is redirected as well.
    """
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def move(model: nn.Module, options: LoadOptions) -> nn.Module:
    """Move a built model to its device, in eval mode and without gradients."""
    try:
        model = model.to(options.device)
    except RuntimeError as error:
        raise RequestError(
            f"the model does not fit on {options.device}: {first_line(error)}"
        ) from error
    return model.eval().requires_grad_(requires_grad=False)
