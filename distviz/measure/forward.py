"""One measurement set up, and one batch sent through it: without ARM, with ARM, compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from distviz.arm import ARM, Plan
from distviz.data import Batch
from distviz.errors import RequestError
from distviz.hooks import (
    Recorder,
    Redistribution,
    Tokens,
    Tracker,
    experts_of,
    force_batched_experts,
    observing,
)
from distviz.measure.output_effect import Baseline, HeadInput
from distviz.measure.partial import PartialResult
from distviz.models import LoadedModel, entry_device
from distviz.models.architectures import Mlp, count_layers, find_points
from distviz.progress import Progress
from distviz.settings import RunSettings
from distviz.sites import HookPoint, parse_layers, parse_sites

__all__ = [
    "Measurement",
    "capture_head_input",
    "choose_points",
    "inputs_of",
    "measure_batch",
    "needed_points",
    "redistribution",
    "tokens_of",
]


def choose_points(
    settings: RunSettings, model: torch.nn.Module, mlps: list[Mlp]
) -> tuple[list[HookPoint], list[HookPoint]]:
    """Return the points to observe, and the ``act`` points behind which ARM stands.

    Raises
    ------
    RequestError
        If layers or sites do not exist in this model.
    """
    n_layers = max(count_layers(mlps).values())
    layers = parse_layers(settings.layers, n_layers, "--layers")
    arm_layers = parse_layers(settings.arm_layers, n_layers, "--arm-layers")
    if not layers:
        raise RequestError("--layers none leaves nothing to observe")
    sites = parse_sites(settings.sites)
    watched = find_points(mlps, model, sites, layers)
    moved = find_points(mlps, model, ["act"], arm_layers) if arm_layers else []
    return watched, moved


def needed_points(
    settings: RunSettings, model: torch.nn.Module, mlps: list[Mlp]
) -> list[HookPoint] | None:
    """Return the points that are all a measurement needs; None where it needs the output too."""
    if settings.ripple:
        return None
    watched, moved = choose_points(settings, model, mlps)
    return watched + moved


@dataclass
class Measurement:
    """Everything that one measurement needs, chosen and checked.

    Attributes
    ----------
    watched
        Points observed, in both passes.
    moved
        ``act`` points behind which ARM stands.
    portion
        What was measured so far.
    tracker
        Knows the tokens of the call that is under way.
    call
        The forward call; see `capture_head_input`.
    """

    opened: LoadedModel
    settings: RunSettings
    watched: list[HookPoint]
    moved: list[HookPoint]
    portion: PartialResult
    tracker: Tracker = field(default_factory=Tracker)
    call: Callable[..., Any] = field(init=False)

    def __post_init__(self) -> None:
        self.call = self.opened.model

    @classmethod
    def prepare(cls, opened: LoadedModel, settings: RunSettings) -> Measurement:
        """Check layers, sites and ARM layers against the model."""
        watched, moved = choose_points(settings, opened.model, opened.mlps)
        arm_layers = {point.layer for point in moved}
        apart = None if settings.classes == "all" else frozenset(arm_layers)
        c = settings.c if moved else Recorder.c
        return cls(opened, settings, watched, moved, PartialResult(Recorder(c, apart)))

    @cached_property
    def arm(self) -> ARM:
        """The redistribution, built once."""
        return self.settings.arm()

    @property
    def is_paired(self) -> bool:
        """Whether a second pass, with ARM written into the model, is made."""
        return bool(self.moved) and self.settings.ripple


@contextmanager
def capture_head_input(stage: Measurement) -> Iterator[HeadInput | None]:
    """Listen to the language head while the context lasts; None where the effect is not wanted.

    Then no logits are computed either, nor layers that nobody asked for.
    """
    opened: Any = stage.opened
    if opened.has_head and stage.settings.ripple and (head := HeadInput.of(opened.model)):
        stage.call = head.run
        try:
            yield head
        finally:
            head.close()
    elif opened.on_disk is not None and not opened.on_disk.streams:
        with opened.on_disk.only_wanted() as stage.call:
            yield None
    else:
        stage.call = opened.model.base_model
        yield None


def measure_batch(stage: Measurement, batch: Batch, head: HeadInput | None, told: Progress) -> None:
    """Send a batch through the model, and again with ARM where the stage is paired."""
    model, tracker, recorder = stage.opened.model, stage.tracker, stage.portion.recorder
    tracker.given = tokens_of(batch)
    inputs = inputs_of(batch, model)
    watching = observing(model, stage.watched, recorder, tracker)
    # Both passes on the same code, so that ARM alone tells them apart.
    beside: AbstractContextManager[Any] = force_batched_experts(model, experts_of(stage.moved))
    if not stage.is_paired:
        beside = redistribution(stage, batch).active(model)
    with torch.inference_mode(), watching, beside:
        before = stage.call(**inputs)
    told.advance(int(batch.valid.sum()))
    after = None
    if stage.is_paired:
        watching = observing(model, stage.watched, recorder, tracker)
        with torch.inference_mode(), watching, redistribution(stage, batch).active(model):
            after = stage.call(**inputs)
        told.advance(int(batch.valid.sum()))
    if head is not None:
        with torch.inference_mode():
            stage.portion.effect.compare(Baseline(head, before, batch.ids, batch.counted), after)


def tokens_of(batch: Batch) -> Tokens:
    """Return what the hooks have to know of a batch."""
    return Tokens(
        batch.valid,
        batch.counted,
        batch.documents,
        batch.index,
        batch.classes,
        batch.whole,
    )


def inputs_of(batch: Batch, model: torch.nn.Module) -> dict[str, Any]:
    """Return the arguments that a model is called with, on its device."""
    device = entry_device(model)
    inputs: dict[str, Any] = {"attention_mask": torch.from_numpy(batch.valid).long().to(device)}
    if batch.hidden is None:
        inputs["input_ids"] = torch.from_numpy(batch.ids).to(device)
    else:
        dtype = next(model.parameters()).dtype
        inputs["inputs_embeds"] = torch.from_numpy(batch.hidden).to(device, dtype)
    if getattr(model.config, "is_encoder_decoder", False):
        # The decoder reads the same window.
        inputs["decoder_attention_mask"] = inputs["attention_mask"]
        inputs["decoder_input_ids"] = inputs["input_ids"]
    if getattr(model.config, "use_cache", None) is not None:
        inputs["use_cache"] = False
    return inputs


def redistribution(
    stage: Measurement, batch: Batch, points: Sequence[HookPoint] | None = None
) -> Redistribution:
    """Return ARM for one batch; its report goes to the recorder and to the table of plans.

    ``points`` are those of the part of the model at hand; None takes all.
    """
    recorder = stage.portion.recorder
    observed = {point for point in stage.watched if point.site == "act"}
    first = {
        stack: min(point.layer for point in stage.moved if point.stack == stack)
        for stack in {point.stack for point in stage.moved}
    }

    def report(
        point: HookPoint,
        old: torch.Tensor,
        new: torch.Tensor,
        moved: torch.Tensor,
        plans: list[list[Plan | None]],
        tokens: Tokens,
    ) -> None:
        stage.portion.plans.extend(_plan_rows(point, batch, plans))
        if point not in observed:
            return
        if stage.is_paired and point.layer > first[point.stack]:
            recorder.add(point, "arm_input", old, tokens)
        if not stage.is_paired:
            recorder.add(point, "after", new, tokens)
        recorder.add(point, "moved_before", old, tokens, moved)
        recorder.add(point, "moved_after", new, tokens, moved)

    writes = stage.is_paired
    places = stage.moved if points is None else points
    return Redistribution(stage.arm, places, stage.tracker, report=report, writes=writes)


def _plan_rows(
    point: HookPoint, batch: Batch, plans: list[list[Plan | None]]
) -> list[dict[str, Any]]:
    return [
        {
            "layer": point.layer,
            "document": int(batch.documents[row]),
            "window": int(batch.windows[row]),
            "n": plan.n,
            "eps": plan.eps,
            "near": plan.near,
            "fraction": plan.fraction,
            "k": plan.k,
            "upper": plan.upper,
            "lower": plan.lower,
            "pass": number,
            "module": point.module,
            "stack": point.stack,
        }
        for row, of_row in enumerate(plans)
        for number, plan in enumerate(of_row)
        if plan is not None
    ]
