"""Batches sent through a model whose layers are on disk: the numbers of one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from distviz.corpus import Batch
from distviz.effect import Baseline, HeadInput
from distviz.hooks import check_fired, experts_of, observing
from distviz.offloading import LayersOnDisk, layer_of
from distviz.passes import Stage, inputs_of, listening, redistribution, tokens_of
from distviz.progress import Progress
from distviz.routing import rows_at_once, rows_shown
from distviz.sites import Point
from distviz.streaming import Call, stream
from distviz.waiting import WaitingRoom

__all__ = ["stream_batches"]


def stream_batches(
    stage: Stage,
    on_disk: LayersOnDisk,
    batches: Mapping[int, Batch],
    spans: Mapping[int, frozenset[int]],
    told: Progress,
    room: WaitingRoom,
) -> None:
    """Send batches, by number, through the model together: without ARM and with it.

    ``spans`` is what `portions.batches_of_documents` returns.
    """
    watched, moved = _by_layer(stage.watched, on_disk), _by_layer(stage.moved, on_disk)
    model = stage.opened.model
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        head = stack.enter_context(listening(stage))
        # What a plain pass switches to for its whole length, whichever layer asks for it.
        stack.enter_context(rows_shown(model, experts_of(stage.watched)))
        stack.enter_context(rows_at_once(model, experts_of(stage.moved)))
        passed: dict[str, set[int]] = {}
        pairs = [
            _Pair(stage, number, batch, watched, moved, spans, head, told, on_disk.layers, passed)
            for number, batch in batches.items()
        ]
        stream(on_disk, [call for pair in pairs for call in pair.calls()], room)


def _by_layer(points: Sequence[Point], on_disk: LayersOnDisk) -> dict[str, list[Point]]:
    """Sort points by the path of their layer; those outside all layers come under ``""``."""
    found: dict[str, list[Point]] = {}
    for point in points:
        layer = layer_of(point.within or point.module, on_disk.layers) or ""
        found.setdefault(layer, []).append(point)
    return found


@dataclass
class _Pair:
    """One batch, on its way without ARM and with it."""

    stage: Stage
    number: int
    batch: Batch
    watched: Mapping[str, list[Point]]
    moved: Mapping[str, list[Point]]
    spans: Mapping[int, frozenset[int]]
    head: HeadInput | None
    told: Progress
    layers: Sequence[str]
    passed: dict[str, set[int]]
    _before: Any = None
    _steps: int = 0
    _seen: dict[bool, set[Point]] = field(default_factory=lambda: {False: set(), True: set()})
    _changed: set[Point] = field(default_factory=set)

    def calls(self) -> Iterator[Call]:
        """Give the forward calls: the second, with ARM, follows the first through each layer."""
        for is_after in (False, True)[: 1 + self.stage.is_paired]:
            yield Call(
                self._forward,
                partial(self._hooked, is_after),
                partial(self._passed, is_after),
                partial(self._finish, is_after),
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
        points = [point for name in names for point in self.watched.get(name, ())]
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
