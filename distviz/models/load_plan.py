"""Check a checkpoint without reading its weights, and plan which layers to load."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from distviz.errors import RequestError
from distviz.models.architectures import Mlp, find_mlps
from distviz.models.checkpoint import Checkpoint, has_tokenizer
from distviz.models.header_match import match_headers
from distviz.models.lazy_layers import bytes_in_memory, layer_of, layer_paths, why_not_on_disk
from distviz.models.loading import (
    LoadOptions,
    choose_class,
    quiet,
)
from distviz.models.memory import free_bytes
from distviz.models.model_config import read_config
from distviz.models.tokenizer import read_tokenizer
from distviz.sites import HookPoint

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

RequiredPoints = Callable[["nn.Module", list[Mlp]], Sequence[HookPoint] | None]
"""Receives a model without weights and its MLPs; returns the required points, None for the whole
forward pass."""


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """Which layers stay on disk: all except the ``wanted`` ones, or all if they are streamed."""

    layers: list[str]
    wanted: frozenset[str]
    streams: bool
    is_asked_for: bool
    why: str = ""


@dataclass(frozen=True)
class CheckpointInfo:
    """A checkpoint that passed all checks before its weights are read.

    Attributes
    ----------
    auto
        The class of transformers to load it with.
    has_head
        Whether the model ends in a causal language head.
    empty
        The model on the meta device.
    notes
        Warnings about the weights.
    tokenizer
        None where it was not needed.
    points
        The required points; None where the whole model is needed.
    disk
        Which layers stay on disk; None where the whole model is loaded.
    """

    checkpoint: Checkpoint
    options: LoadOptions
    config: PretrainedConfig
    auto: Any
    has_head: bool
    empty: nn.Module
    mlps: list[Mlp]
    notes: list[str]
    tokenizer: Any | None
    points: Sequence[HookPoint] | None
    disk: LoadPlan | None

    def planned(self, choose: RequiredPoints | None, stream: bool | None) -> CheckpointInfo:
        """Return it with another choice of points, and a plan for the memory that is free now."""
        points = choose(self.empty, self.mlps) if choose is not None else None
        disk = _plan_disk(self.checkpoint, self.options, self.empty, self.mlps, points, stream)
        config = copy.deepcopy(self.config)  # loading may change it
        return replace(self, config=config, points=points, disk=disk)


def inspect_checkpoint(
    checkpoint: Checkpoint,
    options: LoadOptions,
    *,
    needs_tokenizer: bool = True,
    choose: RequiredPoints | None = None,
    stream: bool | None = False,
) -> CheckpointInfo:
    """Check configuration, class, names and shapes of the weights, MLPs and tokenizer.

    Raises
    ------
    RequestError
        If the checkpoint cannot be opened as asked.
    """
    if needs_tokenizer and not has_tokenizer(checkpoint):
        raise RequestError(
            f"'{checkpoint.source}' has no tokenizer",
            "copy the tokenizer's files (tokenizer.json) of the original model beside config.json",
        )
    with quiet():
        config = read_config(checkpoint, options)
        auto, has_head = choose_class(config, checkpoint)
        empty, notes = match_headers(auto, checkpoint, config, options)
        mlps = find_mlps(empty)
        points = choose(empty, mlps) if choose is not None else None
        disk = _plan_disk(checkpoint, options, empty, mlps, points, stream)
        tokenizer = read_tokenizer(checkpoint, options) if needs_tokenizer else None
    found = (auto, has_head, empty, mlps, notes, tokenizer, points, disk)
    return CheckpointInfo(checkpoint, options, config, *found)


def _plan_disk(
    checkpoint: Checkpoint,
    options: LoadOptions,
    empty: nn.Module,
    mlps: list[Mlp],
    points: Sequence[HookPoint] | None,
    stream: bool | None,
) -> LoadPlan | None:
    """Decide whether layers stay on disk; None where the whole model is loaded."""
    if why := why_not_on_disk(checkpoint, options):
        if stream:
            convert = "" if checkpoint.tensors else ", or convert it with save_pretrained"
            raise RequestError(
                f"'{checkpoint.source}' cannot be streamed: {why}",
                f"remove --stream{convert}",
            )
        return None
    layers = layer_paths(empty, [mlp.path for mlp in mlps])
    holders = [layer_of(point.within or point.module, layers) for point in points or ()]
    wanted = frozenset(path for path in holders if path) if all(holders) else frozenset()
    why = ""
    if stream is None:
        needed, free = bytes_in_memory(empty, layers, wanted), free_bytes(options.device)
        stream = needed > free
        why = f"the model takes {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free: " * stream
    if not stream and not wanted:
        return None
    return LoadPlan(layers, wanted, streams=stream, is_asked_for=not why, why=why)
