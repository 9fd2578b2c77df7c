"""A model opened but for its weights: all that can be said and refused before they are read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch

from distviz.measure import needed_points
from distviz.models import (
    CheckpointInfo,
    LoadedModel,
    LoadOptions,
    bytes_in_memory,
    describe,
    inspect_checkpoint,
    layers_up_to,
    locate,
    model_details,
    parse_device,
    parse_device_map,
    parse_dtype,
)
from distviz.models.architectures import find_mlps
from distviz.settings import RunSettings

__all__ = ["Opening", "open_empty"]


@dataclass(frozen=True)
class Opening:
    """A model that could be opened: shapes, no values.

    Attributes
    ----------
    opened
        As `open_model` would return it, its parameters on the meta device.
    found
        What is known of the checkpoint; None where layers are built.
    options
        Where it would be loaded.
    """

    opened: LoadedModel
    found: CheckpointInfo | None
    options: LoadOptions

    @property
    def dtype(self) -> torch.dtype:
        """The type that activations will have."""
        dtype: torch.dtype = getattr(torch, self.opened.details["dtype"])
        return dtype

    @property
    def streams(self) -> bool:
        """Whether layers are read one by one, each once."""
        return self.found is not None and self.found.disk is not None and self.found.disk.streams

    @cached_property
    def until(self) -> frozenset[str]:
        """Layers behind which the forward pass ends; empty where all are needed."""
        disk = None if self.found is None else self.found.disk
        return frozenset() if disk is None else disk.wanted

    def files(self) -> dict[str, int]:
        """Return the bytes that are read of each file."""
        if self.found is None:
            return {}
        checkpoint, disk = self.found.checkpoint, self.found.disk
        if disk is None or not self.until:
            return {path.name: path.stat().st_size for path in checkpoint.files}
        left = set(disk.layers).difference(layers_up_to(disk.layers, self.until))
        found: dict[str, int] = {}
        for name, tensor in checkpoint.tensors.items():
            if not any(f".{path}." in f".{name}" for path in left):
                found[tensor.file.name] = found.get(tensor.file.name, 0) + tensor.bytes
        return found

    def weight_bytes(self) -> int:
        """Return what the weights take in memory at a time."""
        model: Any = self.opened.model
        disk = None if self.found is None else self.found.disk
        if disk is None:
            tensors = [*model.parameters(), *model.buffers()]
            return sum(value.nbytes for value in tensors)
        if not self.streams:
            return bytes_in_memory(model, disk.layers, self.until)
        layers = [self._bytes_of(path) for path in disk.layers]
        everything = bytes_in_memory(model, disk.layers, ())
        return everything - sum(layers) + 2 * max(layers, default=0)

    def _bytes_of(self, path: str) -> int:
        return sum(value.nbytes for value in self.opened.model.get_submodule(path).parameters())


def open_empty(settings: RunSettings, *, is_for_measure: bool = True) -> Opening:
    """Do all that opening a model does, but for its weights.

    Raises
    ------
    RequestError
        If the model could not be opened as asked.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    device = parse_device(settings.device)
    options = LoadOptions(
        parse_dtype(settings.dtype),
        device,
        parse_device_map(settings.device_map),
        settings.attn_implementation,
        settings.trust_remote_code,
    )
    if settings.layer is not None:
        model, details = describe(
            None, trust_remote_code=settings.trust_remote_code, layer=settings.layer
        )
        name, found = str(details["source"]).removeprefix("built: "), None
        return _opening(model, details, name, None, found, options, has_head=False)
    checkpoint = locate(
        settings.model, revision=settings.revision, allow_pickle=settings.allow_pickle
    )
    found = inspect_checkpoint(
        checkpoint,
        options,
        choose=partial(needed_points, settings) if is_for_measure else None,
        stream=settings.stream if is_for_measure else False,
    )
    details = model_details(found.empty, found.config, found.mlps, checkpoint, found.notes)
    return _opening(
        found.empty,
        details,
        checkpoint.name,
        found.tokenizer,
        found,
        options,
        has_head=found.has_head,
    )


def _opening(
    model: torch.nn.Module,
    details: dict[str, Any],
    name: str,
    tokenizer: Any,
    found: CheckpointInfo | None,
    options: LoadOptions,
    *,
    has_head: bool,
) -> Opening:
    """Settle the type and the device that the model would have."""
    dtype = options.dtype
    if dtype is None and (found is None or found.checkpoint.gguf is not None):
        dtype = torch.float32
    if dtype is not None:
        model = model.to(dtype)
        details["dtype"] = str(dtype).removeprefix("torch.")
    details["device"] = str(options.device)
    opened = LoadedModel(model, tokenizer, name, details, find_mlps(model), has_head)
    return Opening(opened, found, options)
