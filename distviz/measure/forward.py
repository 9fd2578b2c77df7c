"""The setup of one measurement, and one batch sent through it: without ARM, with ARM, compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch

from distviz.arm import ARM, Plan
from distviz.data import Batch
from distviz.errors import MeasurementError, RequestError, first_line
from distviz.hooks import (
    FormatLosses,
    Recorder,
    Redistribution,
    Tokens,
    TokenWriter,
    Tracker,
    check_replaceable,
    experts_of,
    force_batched_experts,
    observing,
)
from distviz.measure.output_effect import Baseline, HeadInput
from distviz.measure.paired_outputs import OutputSink
from distviz.measure.partial import PartialResult
from distviz.models import LoadedModel, entry_device
from distviz.models.architectures import Mlp, count_layers, find_points, other_linear_inputs
from distviz.progress import Progress
from distviz.settings import RunSettings
from distviz.sites import HookPoint, is_behind, optional_sites, parse_layers, parse_sites

_OF_MODELS = (
    RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError,
)  # fmt: skip
"""What the code of a model raises for input that it cannot take."""
_PLAN_FIELDS = ("n", "eps", "near", "fraction", "k", "upper", "lower")


def choose_points(
    settings: RunSettings, model: torch.nn.Module, mlps: list[Mlp]
) -> tuple[list[HookPoint], list[HookPoint]]:
    """Return the points to observe, and those where values are redistributed.

    Raises
    ------
    RequestError
        If layers or sites do not exist in this model, or values at a site cannot be replaced.
    """
    n_layers = max(count_layers(mlps).values())
    layers = parse_layers(settings.layers, n_layers, "--layers")
    arm_layers = parse_layers(settings.arm_layers, n_layers, "--arm-layers")
    if not layers:
        raise RequestError("--layers none leaves nothing to observe")
    sites = parse_sites(settings.sites)
    optional = optional_sites(settings.sites)
    watched = find_points(mlps, model, sites, layers, optional)
    if optional:
        watched += other_linear_inputs(model, watched)
    at = parse_sites(settings.at, "--at")
    moved = find_points(mlps, model, at, arm_layers) if arm_layers else []
    check_replaceable(model, moved)
    arm = settings.arm()
    for point in moved:
        arm.at(point)  # a file of thresholds may lack one
    return watched, moved


def needed_points(
    settings: RunSettings, model: torch.nn.Module, mlps: list[Mlp]
) -> list[HookPoint] | None:
    """Return the only points that a measurement needs; None if it needs the output, too."""
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
        Points where values are redistributed.
    partial
        The result so far.
    tracker
        Holds the tokens of the current call.
    outputs
        Also receives the inputs of the head, see `distviz.measure.paired_outputs`; None for none.
    call
        The forward call; see `capture_head_input`.
    """

    opened: LoadedModel
    settings: RunSettings
    watched: list[HookPoint]
    moved: list[HookPoint]
    partial: PartialResult
    tracker: Tracker = field(default_factory=Tracker)
    outputs: OutputSink | None = None
    call: Callable[..., Any] = field(init=False)

    def __post_init__(self) -> None:
        self.call = self.opened.model

    @classmethod
    def prepare(
        cls, opened: LoadedModel, settings: RunSettings, outputs: OutputSink | None = None
    ) -> Measurement:
        """Check layers, sites and ARM layers against the model."""
        watched, moved = choose_points(settings, opened.model, opened.mlps)
        arm_layers = {point.layer for point in moved}
        class_layers = None if settings.classes == "all" else frozenset(arm_layers)
        c = settings.c if moved else Recorder.c
        recorder = Recorder(c, class_layers, settings.channels)
        recorder.changes.is_on = bool(moved) and settings.ripple
        recorder.tokens = TokenWriter() if settings.tokens else None
        recorder.formats = FormatLosses(tuple(settings.formats), tuple(settings.rotate))
        partial = PartialResult(recorder)
        return cls(opened, settings, watched, moved, partial, outputs=outputs)

    @cached_property
    def arm(self) -> ARM:
        """The redistribution that the settings ask for."""
        return self.settings.arm()

    @property
    def is_paired(self) -> bool:
        """Whether a second pass is made, with ARM changing the activations."""
        return bool(self.moved) and self.settings.ripple

    @property
    def steps(self) -> tuple[str, str]:
        """What the progress calls both passes of a paired measurement."""
        name = "ARM" if self.settings.redistribution == "arm" else self.settings.redistribution
        return f"pass 1 of 2: without {name}", f"pass 2 of 2: with {name}"

    def redistribution(
        self, batch: Batch, points: Sequence[HookPoint] | None = None
    ) -> Redistribution:
        """Return ARM for one batch, which reports to the recorder and to the table of plans.

        ``points`` are those in the part of the model that runs; None takes all.
        """
        recorder = self.partial.recorder
        observed = set(self.watched)
        behind = {p for p in self.moved if any(is_behind(p, other) for other in self.moved)}

        def report(
            point: HookPoint,
            old: torch.Tensor,
            new: torch.Tensor,
            moved: torch.Tensor,
            decisions: list[list[Any]],
            tokens: Tokens,
        ) -> None:
            self.partial.planned.append(partial(_plan_rows, point, batch, decisions))
            if point not in observed:
                return
            if self.is_paired and point in behind:
                recorder.add(point, "arm_input", old, tokens)
            if not self.is_paired:
                recorder.add(point, "after", new, tokens)
                recorder.add_change(point, old, new, tokens)
            recorder.add(point, "moved_before", old, tokens, moved)
            recorder.add(point, "moved_after", new, tokens, moved)

        points = self.moved if points is None else points
        return Redistribution(self.arm, points, self.tracker, report=report, writes=self.is_paired)

    def add_effect(self, head: HeadInput | None, batch: Batch, before: Any, after: Any) -> None:
        """Add the effect on the output, where it is measured; both sides entered the head."""
        if head is not None:
            with torch.inference_mode():
                baseline = Baseline(head, before, batch.ids, batch.counted)
                self.partial.effect.compare(baseline, after)
                if self.outputs is not None:
                    self.outputs.add(head, batch, before, after)


@contextmanager
def capture_head_input(measurement: Measurement) -> Iterator[HeadInput | None]:
    """Capture the input of the language head; None where the effect is not measured.

    Then no logits are computed either, nor layers that are not needed.
    """
    opened: Any = measurement.opened
    paths = [point.module for point in measurement.watched]
    needs_head = opened.has_head and measurement.settings.ripple
    if needs_head and (head := HeadInput.of(opened.model, paths)):
        measurement.call = head.run
        try:
            yield head
        finally:
            head.close()
    elif opened.on_disk is not None and not opened.on_disk.streams:
        with opened.on_disk.only_wanted() as measurement.call:
            yield None
    else:
        base = opened.model.base_model
        parts, modules = set(base.modules()), dict(opened.model.named_modules())
        # A module behind the base, such as the head, is only reached by the whole model.
        is_enough = all("*" in path or modules[path] in parts for path in paths)
        measurement.call = base if is_enough else opened.model
        yield None


def measure_batch(
    measurement: Measurement, batch: Batch, head: HeadInput | None, progress: Progress
) -> None:
    """Send a batch through the model, and again with ARM if the measurement is paired."""
    model, tracker = measurement.opened.model, measurement.tracker
    tracker.given = tokens_of(batch)
    inputs = inputs_of(batch, model)

    def call(context: AbstractContextManager[Any], step: str = "") -> Any:
        progress.step(step)
        recorder = measurement.partial.recorder
        watching = observing(model, measurement.watched, recorder, tracker)
        with torch.inference_mode(), watching, context, naming_failures(model):
            output = measurement.call(**inputs)
        progress.advance(batch.tokens)
        return output

    if measurement.is_paired:
        # Both passes use the same implementation of experts, so that only ARM differs.
        first, second = measurement.steps
        before = call(force_batched_experts(model, experts_of(measurement.moved)), first)
        after = call(measurement.redistribution(batch).active(model), second)
    else:
        before, after = call(measurement.redistribution(batch).active(model)), None
    measurement.add_effect(head, batch, before, after)


@contextmanager
def naming_failures(model: torch.nn.Module) -> Iterator[None]:
    """Name the model in what its own code raises; memory errors stay as they are."""
    try:
        yield
    except _OF_MODELS as error:
        if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
            raise
        raise MeasurementError(
            f"the forward pass of {type(model).__name__} fails: "
            f"{type(error).__name__}: {first_line(error)}",
            "it may need other input than text, or texts of other lengths; add --debug to see "
            "the traceback",
        ) from error


def tokens_of(batch: Batch) -> Tokens:
    """Return the tokens of a batch, as the hooks need them."""
    ids = batch.ids if batch.hidden is None else None
    named = (batch.documents, batch.index, batch.classes, batch.whole)
    return Tokens(batch.valid, batch.counted, *named, ids=ids, roles=batch.roles)


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


def _plan_rows(point: HookPoint, batch: Batch, decisions: list[list[Any]]) -> list[dict[str, Any]]:
    return [
        {
            "layer": point.layer,
            "site": point.site,
            "document": int(batch.documents[row]),
            "window": int(batch.windows[row]),
            **{name: getattr(plan, name) for name in _PLAN_FIELDS},
            "pass": number,
            "module": point.module,
            "stack": point.stack,
        }
        for row, of_row in enumerate(decisions)
        for number, plan in enumerate(map(Plan.of, of_row))
        if plan is not None
    ]
