"""Batches sent through a model whose layers are on disk: the numbers of one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from distviz.data import Batch
from distviz.hooks import check_fired, experts_of, force_batched_experts, observing, rows_shown
from distviz.measure.forward import (
    Measurement,
    capture_head_input,
    inputs_of,
    redistribution,
    tokens_of,
)
from distviz.measure.layer_checkpoint import OutputsKeeper
from distviz.measure.layerwise import Call, ResumePoint, stream
from distviz.measure.output_effect import Baseline, HeadInput
from distviz.measure.spill import SpillBuffer
from distviz.models import LayersOnDisk, layer_of
from distviz.progress import Progress
from distviz.sites import HookPoint

__all__ = ["BatchCheckpoint", "Keeping", "stream_batches"]


def stream_batches(
    stage: Measurement,
    on_disk: LayersOnDisk,
    batches: Mapping[int, Batch],
    spans: Mapping[int, frozenset[int]],
    told: Progress,
    room: SpillBuffer,
    keeping: Keeping | None = None,
) -> None:
    """Send batches, by number, through the model together: without ARM and with it.

    ``spans`` is what `portions.batches_of_documents` returns; ``keeping`` says where to keep what
    is done after a layer, and what to go on from.
    """
    watched, moved = _by_layer(stage.watched, on_disk), _by_layer(stage.moved, on_disk)
    model = stage.opened.model
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        head = stack.enter_context(capture_head_input(stage))
        # What a plain pass switches to for its whole length, whichever layer asks for it.
        stack.enter_context(rows_shown(model, experts_of(stage.watched)))
        stack.enter_context(force_batched_experts(model, experts_of(stage.moved)))
        passed: dict[str, set[int]] = {}
        pairs = [
            _Pair(stage, number, batch, watched, moved, spans, head, told, on_disk.layers, passed)
            for number, batch in batches.items()
        ]
        for pair in pairs:
            pair.restore(keeping.states if keeping else {})
        calls = [call for pair in pairs for call in pair.calls()]
        keeper = keeping.keeper(on_disk, pairs) if keeping and calls else None
        stream(on_disk, calls, room, keeper)


@dataclass
class Keeping:
    """Where a streamed measurement is kept, and what was kept of an earlier one.

    Attributes
    ----------
    folder, name
        Where files go, and how their names begin.
    is_due
        Asked at each layer whether a state is wanted.
    save
        Writes what it is given as the state; False if it could not.
    note
        Told why nothing more is kept, if it comes to that.
    states
        States that were saved, by the numbers of the batches they hold calls of.
    """

    folder: Path
    name: str
    is_due: Callable[[], bool]
    save: Callable[[dict[str, Any]], bool]
    note: Callable[[str], None]
    states: dict[int, BatchCheckpoint] = field(default_factory=dict)

    def keeper(self, on_disk: LayersOnDisk, pairs: Sequence[_Pair]) -> OutputsKeeper:
        """Return what keeps the calls of some batches."""
        ends = [place for place, path in enumerate(on_disk.layers) if path in on_disk.wanted]
        layers = on_disk.layers[: 1 + max(ends)] if ends else on_disk.layers
        names = [name for pair in pairs for name in pair.names()]
        stacks: dict[str, dict[str, Any]] = {}
        for state in self.states.values():
            for stack, calls in state.stacks.items():
                stacks.setdefault(stack, {}).update(calls)

        def save(state: dict[str, Any]) -> bool:
            fired = {str(pair.number): pair.fired_outside() for pair in pairs}
            return self.save(state | {"fired": fired})

        asked = (self.is_due, save, self.note)
        return OutputsKeeper(self.folder, self.name, layers, names, *asked, stacks)


@dataclass(frozen=True)
class BatchCheckpoint:
    """What was kept of the calls of one batch.

    Attributes
    ----------
    halfway
        Where each call goes on, by its name.
    fired
        For each call: which of the places outside all layers were seen already, by number.
    layers
        Layers that all calls have gone through.
    stacks
        What was kept of them, as `keeping.OutputsKeeper` has it.
    """

    halfway: Mapping[str, ResumePoint]
    fired: Mapping[str, Sequence[int]]
    layers: Sequence[str]
    stacks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def _by_layer(points: Sequence[HookPoint], on_disk: LayersOnDisk) -> dict[str, list[HookPoint]]:
    """Sort points by the path of their layer; those outside all layers come under ``""``."""
    found: dict[str, list[HookPoint]] = {}
    for point in points:
        layer = layer_of(point.within or point.module, on_disk.layers) or ""
        found.setdefault(layer, []).append(point)
    return found


@dataclass
class _Pair:
    """One batch, on its way without ARM and with it."""

    stage: Measurement
    number: int
    batch: Batch
    watched: Mapping[str, list[HookPoint]]
    moved: Mapping[str, list[HookPoint]]
    spans: Mapping[int, frozenset[int]]
    head: HeadInput | None
    told: Progress
    layers: Sequence[str]
    passed: dict[str, set[int]]
    _before: Any = None
    _steps: int = 0
    _seen: dict[bool, set[HookPoint]] = field(default_factory=lambda: {False: set(), True: set()})
    _changed: set[HookPoint] = field(default_factory=set)
    _halfway: Mapping[str, ResumePoint] = field(default_factory=dict)
    _before_now: dict[bool, frozenset[HookPoint]] = field(default_factory=dict)

    def names(self) -> list[str]:
        """Return the names of the calls, in the order of `calls`."""
        return [f"{self.number}-{phase}" for phase in ("before", "after")[: 1 + self.is_paired]]

    @property
    def is_paired(self) -> bool:
        return self.stage.is_paired

    def restore(self, states: Mapping[int, BatchCheckpoint]) -> None:
        """Go on where the calls of this batch were interrupted, if they were."""
        state = states.get(self.number)
        if state is None:
            return
        self._halfway = state.halfway
        for layer in state.layers:
            self._changed.update(self.moved.get(layer, ()))
            self._seen[False].update(self.watched.get(layer, ()))
            self._seen[True].update(self.watched.get(layer, ()))
            for _ in self.names():
                self._tell()
        outside = self.watched.get("", [])
        for is_after, name in enumerate(self.names()):
            seen = frozenset(outside[place] for place in state.fired[name])
            self._before_now[bool(is_after)] = seen
            self._seen[bool(is_after)] |= seen

    def fired_outside(self) -> dict[str, list[int]]:
        """Return, for each call, which places outside all layers were seen, by number."""
        outside = self.watched.get("", [])
        return {
            name: [place for place, point in enumerate(outside) if point in self._seen[is_after]]
            for name, is_after in zip(self.names(), (False, True), strict=False)
        }

    def calls(self) -> Iterator[Call]:
        """Give the forward calls: the second, with ARM, follows the first through each layer."""
        for is_after, name in zip((False, True), self.names(), strict=False):
            yield Call(
                self._forward,
                partial(self._hooked, is_after),
                partial(self._passed, is_after),
                partial(self._finish, is_after),
                self._halfway.get(name),
            )

    def _forward(self) -> Any:
        # Each call has inputs of its own: what it makes of them may wait in the file.
        return self.stage.call(**inputs_of(self.batch, self.stage.opened.model))

    @contextmanager
    def _hooked(self, is_after: bool, layer: str) -> Iterator[None]:
        """Observe one layer, and the places outside all layers, as this call does."""
        stage = self.stage
        model, tracker, recorder = stage.opened.model, stage.tracker, stage.portion.recorder
        tracker.tokens = tokens_of(self.batch)
        names = dict.fromkeys((layer, ""))
        known = self._before_now.get(is_after, frozenset())
        points = [p for name in names for p in self.watched.get(name, ()) if p not in known]
        with ExitStack() as stack:
            seen = self._seen[is_after]
            stack.enter_context(observing(model, points, recorder, tracker, seen))
            if is_after or not stage.is_paired:
                here = [point for name in names for point in self.moved.get(name, ())]
                arm = redistribution(stage, self.batch, here)
                stack.enter_context(arm.active(model, self._changed))
            yield

    def _passed(self, is_after: bool, layer: str) -> None:
        """Close the documents of which nothing follows in this layer, and tell how far it is."""
        self._tell()
        if is_after < self.stage.is_paired:
            return
        there = self.passed.setdefault(layer, set())
        there.add(self.number)
        documents = dict.fromkeys(self.batch.documents.tolist())
        complete = [document for document in documents if self.spans[document] <= there]
        self.stage.portion.recorder.documents.close(complete)

    def _tell(self) -> None:
        tokens, n_layers = int(self.batch.valid.sum()), len(self.layers)
        before, self._steps = self._steps, self._steps + 1
        self.told.advance(tokens * self._steps // n_layers - tokens * before // n_layers)

    def _finish(self, is_after: bool, result: Any) -> None:
        stage = self.stage
        check_fired(stage.watched, self._seen[is_after])
        if is_after < stage.is_paired:
            self._before = result
            return
        check_fired(stage.moved, self._changed)
        if self.head is not None:
            before, after = (self._before, result) if stage.is_paired else (result, None)
            baseline = Baseline(self.head, before, self.batch.ids, self.batch.counted)
            stage.portion.effect.compare(baseline, after)
        self._before = None
        stage.portion.finish(self.number, self.batch, self.spans)
