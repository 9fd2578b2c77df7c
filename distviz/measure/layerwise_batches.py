"""Batches sent through a model whose layers are on disk; the numbers are those of one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from distviz.data import Batch
from distviz.hooks import check_fired, experts_of, force_batched_experts, observing, rows_shown
from distviz.measure.forward import Measurement, capture_head_input, inputs_of, tokens_of
from distviz.measure.layer_checkpoint import BatchCheckpoint, LayerCheckpointer, ResumePoint
from distviz.measure.layerwise import Call, stream
from distviz.measure.output_effect import HeadInput
from distviz.measure.tensor_files import SpillBuffer
from distviz.models import LayersOnDisk, layer_of
from distviz.progress import Progress
from distviz.sites import HookPoint


def stream_batches(
    measurement: Measurement,
    on_disk: LayersOnDisk,
    batches: Mapping[int, Batch],
    spans: Mapping[int, frozenset[int]],
    progress: Progress,
    spill: SpillBuffer,
    checkpointer: LayerCheckpointer | None = None,
) -> None:
    """Send batches, by number, through the model together: without ARM and with it.

    ``spans`` is what `partial.batches_of_documents` returns; ``checkpointer`` saves after layers,
    and holds where interrupted batches continue.
    """
    model = measurement.opened.model
    watched, moved = _by_layer(measurement.watched, on_disk), _by_layer(measurement.moved, on_disk)
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        head = stack.enter_context(capture_head_input(measurement))
        # What a plain pass switches to for all its layers, whichever of them needs it.
        stack.enter_context(rows_shown(model, experts_of(measurement.watched)))
        stack.enter_context(force_batched_experts(model, experts_of(measurement.moved)))
        passed: dict[str, set[int]] = {}
        common = (watched, moved, spans, head, progress, on_disk.layers, passed)
        pairs = [_Pair(measurement, number, batch, *common) for number, batch in batches.items()]
        if checkpointer is not None:
            for pair in pairs:
                pair.resume(checkpointer.batches.get(pair.number))
            names = [name for pair in pairs for name in pair.names()]
            checkpointer.prepare(
                on_disk, names, lambda: {str(pair.number): pair.fired_outside() for pair in pairs}
            )
        calls = [call for pair in pairs for call in pair.calls()]
        stream(on_disk, calls, spill, checkpointer)


def _by_layer(points: Sequence[HookPoint], on_disk: LayersOnDisk) -> dict[str, list[HookPoint]]:
    """Group points by the path of their layer; those outside all layers are under ``""``."""
    found: dict[str, list[HookPoint]] = {}
    for point in points:
        layer = layer_of(point.within or point.module, on_disk.layers) or ""
        found.setdefault(layer, []).append(point)
    return found


@dataclass
class _Pair:
    """The calls of one batch: without ARM and, where that is wanted, with it."""

    measurement: Measurement
    number: int
    batch: Batch
    watched: Mapping[str, list[HookPoint]]
    moved: Mapping[str, list[HookPoint]]
    spans: Mapping[int, frozenset[int]]
    head: HeadInput | None
    progress: Progress
    layers: Sequence[str]
    passed: dict[str, set[int]]
    _before: Any = None
    _steps: int = 0
    _seen: dict[bool, set[HookPoint]] = field(default_factory=lambda: {False: set(), True: set()})
    _changed: set[HookPoint] = field(default_factory=set)
    _resume_points: Mapping[str, ResumePoint] = field(default_factory=dict)
    _seen_before: dict[bool, frozenset[HookPoint]] = field(default_factory=dict)

    def names(self) -> list[str]:
        """Return the names of the calls, in the order of `calls`."""
        n_calls = 1 + self.measurement.is_paired
        return [f"{self.number}-{phase}" for phase in ("before", "after")[:n_calls]]

    def resume(self, saved: BatchCheckpoint | None) -> None:
        """Continue where the calls of this batch were interrupted, if they were."""
        if saved is None:
            return
        self._resume_points = saved.resume_points
        for layer in saved.layers:
            self._changed.update(self.moved.get(layer, ()))
            for seen in self._seen.values():
                seen.update(self.watched.get(layer, ()))
            for _ in self.names():
                self._advance()
        outside = self.watched.get("", [])
        for is_after, name in enumerate(self.names()):
            fired = frozenset(outside[number] for number in saved.fired[name])
            self._seen_before[bool(is_after)] = fired
            self._seen[bool(is_after)] |= fired

    def fired_outside(self) -> dict[str, list[int]]:
        """Return, for each call, which points outside all layers have been seen, by number."""
        outside = self.watched.get("", [])
        return {
            name: [number for number, point in enumerate(outside) if point in self._seen[is_after]]
            for name, is_after in zip(self.names(), (False, True), strict=False)
        }

    def calls(self) -> Iterator[Call]:
        """Yield the forward calls: the second, with ARM, follows the first through each layer."""
        for is_after, name in zip((False, True), self.names(), strict=False):
            yield Call(
                self._forward,
                partial(self._hooked, is_after),
                partial(self._passed, is_after),
                partial(self._finish, is_after),
                self._resume_points.get(name),
            )

    def _forward(self) -> Any:
        # Each call has inputs of its own: what it computes from them may be spilled.
        return self.measurement.call(**inputs_of(self.batch, self.measurement.opened.model))

    @contextmanager
    def _hooked(self, is_after: bool, layer: str) -> Iterator[None]:
        """Observe one layer, and the points outside all layers, as this call does."""
        measurement = self.measurement
        if layer in self.layers:
            place = f"layer {self.layers.index(layer) + 1} of {len(self.layers)}"
            steps = [measurement.steps[is_after]] if measurement.is_paired else []
            self.progress.step(", ".join([place, *steps]))
        model, tracker = measurement.opened.model, measurement.tracker
        tracker.tokens = tokens_of(self.batch)
        names = dict.fromkeys((layer, ""))
        known = self._seen_before.get(is_after, frozenset())
        points = [p for name in names for p in self.watched.get(name, ()) if p not in known]
        with ExitStack() as stack:
            recorder, seen = measurement.partial.recorder, self._seen[is_after]
            stack.enter_context(observing(model, points, recorder, tracker, seen))
            if is_after or not measurement.is_paired:
                here = [point for name in names for point in self.moved.get(name, ())]
                arm = measurement.redistribution(self.batch, here)
                stack.enter_context(arm.active(model, self._changed))
            yield

    def _passed(self, is_after: bool, layer: str) -> None:
        """Close the documents that end in this layer, and report progress."""
        self._advance()
        if is_after < self.measurement.is_paired:
            return
        numbers = self.passed.setdefault(layer, set())
        numbers.add(self.number)
        documents = dict.fromkeys(self.batch.documents.tolist())
        complete = [document for document in documents if self.spans[document] <= numbers]
        self.measurement.partial.recorder.documents.close(complete)

    def _advance(self) -> None:
        tokens, n_layers = int(self.batch.valid.sum()), len(self.layers)
        before, self._steps = self._steps, self._steps + 1
        self.progress.advance(tokens * self._steps // n_layers - tokens * before // n_layers)

    def _finish(self, is_after: bool, result: Any) -> None:
        measurement = self.measurement
        check_fired(measurement.watched, self._seen[is_after])
        if is_after < measurement.is_paired:
            self._before = result
            return
        check_fired(measurement.moved, self._changed)
        before, after = (self._before, result) if measurement.is_paired else (result, None)
        measurement.add_effect(self.head, self.batch, before, after)
        self._before = None
        measurement.partial.finish(self.number, self.batch, self.spans)
