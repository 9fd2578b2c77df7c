"""Two models that read the same batches: A first, then B, whose values are compared with A's.

Each batch goes through a layer of A, then the same layer of B, so that only values of one layer
are held. Where the layers of a model are on disk, all batches do so together: the weights are read
once, and the values of A wait for those of B in memory up to a limit, beyond it in a file.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distviz.data import Batch
from distviz.hooks import (
    Hold,
    PairRecorder,
    Redistribution,
    Tokens,
    check_fired,
    keep,
    observe,
)
from distviz.measure.forward import (
    Measurement,
    capture_head_input,
    inputs_of,
    naming_failures,
    tokens_of,
)
from distviz.measure.layerwise import Call, ResidentLayers, stream_steps
from distviz.measure.output_effect import HeadInput
from distviz.measure.paired_outputs import PairedOutputs
from distviz.measure.tensor_files import SpillBuffer
from distviz.models import LayersOnDisk, entry_device, layer_of, layer_paths
from distviz.progress import Progress
from distviz.sites import HookPoint

Receive = Callable[[int, HookPoint, torch.Tensor, Tokens], None]
"""Called with the number of a batch, and as `observe` calls its receiver."""


@dataclass
class LayerInputs:
    """The hidden states that enter the layers of A, which the layers of B read instead of theirs.

    Parameters
    ----------
    paths_a, paths_b
        The paths of the layers of both models, in the same order.
    holds
        Keeps the hidden states; by default in memory.
    """

    paths_a: Sequence[str]
    paths_b: Sequence[str]
    holds: Hold = keep
    _held: dict[tuple[int, str], Callable[[], torch.Tensor]] = field(default_factory=dict)

    def noting(self, model: Any, number: int, layer: str | None) -> AbstractContextManager[None]:
        """Hold what enters the layers of A, or one of them."""

        def note(path: str, hidden: torch.Tensor) -> None:
            self._held[number, path] = self.holds(hidden.clone())

        return self._hooked(model, self.paths_a, layer, note)

    def feeding(self, model: Any, number: int, layer: str | None) -> AbstractContextManager[None]:
        """Let the layers of B, or one of them, read what was held."""
        partners = dict(zip(self.paths_b, self.paths_a, strict=True))

        def feed(path: str, hidden: torch.Tensor) -> torch.Tensor:
            return self._held[number, partners[path]]().to(hidden.device, hidden.dtype)

        return self._hooked(model, self.paths_b, layer, feed)

    def release(self, numbers: Sequence[int]) -> None:
        """Forget the inputs of some batches."""
        for key in [key for key in self._held if key[0] in numbers]:
            del self._held[key]

    @contextmanager
    def _hooked(
        self,
        model: Any,
        paths: Sequence[str],
        layer: str | None,
        receive: Callable[[str, torch.Tensor], torch.Tensor | None],
    ) -> Iterator[None]:
        with ExitStack() as stack:
            for path in paths if layer is None else [layer] * (layer in paths):
                hook = partial(_replace_input, partial(receive, path))
                module = model.get_submodule(path)
                handle = module.register_forward_pre_hook(hook, prepend=True, with_kwargs=True)
                stack.callback(handle.remove)
            yield


def _replace_input(
    receive: Callable[[torch.Tensor], torch.Tensor | None],
    _module: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Replace the hidden states of a layer's arguments by what ``receive`` returns."""
    new = receive(args[0] if args else kwargs["hidden_states"])
    if new is None:
        return None
    return ((new, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": new})


@dataclass
class PairedModels:
    """Sends batches through both models.

    Parameters
    ----------
    a, b
        What is observed in each; ARM acts where they say so.
    recorder
        Compares the values.
    progress
        Advances by the tokens of each pass.
    inputs
        Given if the error that each layer of B makes itself is also measured.
    outputs
        Also compares what both predict; None for none.
    """

    a: Measurement
    b: Measurement
    recorder: PairRecorder
    progress: Progress
    inputs: LayerInputs | None = None
    outputs: PairedOutputs | None = None
    _heads: dict[str, HeadInput | None] = field(default_factory=dict)
    _rows: tuple[int, NDArray[np.int64]] | None = None
    _ready: set[int] = field(default_factory=set)
    _early: dict[int, Any] = field(default_factory=dict)

    @property
    def n_passes(self) -> int:
        """Number of forward passes of each batch."""
        return 3 if self.inputs is not None else 2

    def run(self, batches: Mapping[int, Batch]) -> Iterator[int]:
        """Compare batches, by number; yield the number of each that is finished.

        Raises
        ------
        MeasurementError
            If a point never fires, or a model fails.
        RequestError
            If no point can be compared.
        """
        with ExitStack() as stack:
            for name, side in (("A", self.a), ("B", self.b)):
                self._heads[name] = stack.enter_context(capture_head_input(side))
            streams = any(_on_disk(side) for side in (self.a, self.b))
            for part in [batches] if streams else [{n: batch} for n, batch in batches.items()]:
                self._by_layer(part, spills=streams)
                self.recorder.check()
                yield from part

    def _passes(self, batches: Mapping[int, Batch]) -> list[_Pass]:
        """Return the passes of each batch, in their order."""
        inputs, recorder = self.inputs, self.recorder

        def compare(
            number: int, point: HookPoint, values: torch.Tensor, tokens: Tokens, *, is_own: bool
        ) -> None:
            if self._rows is None or self._rows[0] != number:
                self._rows = number, _token_rows(batches[number])
            recorder.compare(number, point, values, tokens, self._rows[1], is_own=is_own)

        noting = partial(inputs.noting, self.a.opened.model) if inputs else _nothing
        steps = [f"{one} of {self.n_passes}" for one in ("A, pass 1", "B, pass 2")]
        first = _Pass(self.a, recorder.hold, noting, self._first, self.progress, steps[0])
        second = partial(compare, is_own=False)
        passes = [first, _Pass(self.b, second, _nothing, self._second, self.progress, steps[1])]
        if inputs is not None:
            feeding, step = partial(inputs.feeding, self.b.opened.model), "B by layer, pass 3 of 3"
            own = partial(compare, is_own=True)
            passes.append(_Pass(self.b, own, feeding, _nothing, self.progress, step))
        return passes

    def _first(self, number: int, batch: Batch, result: Any) -> None:
        if self.outputs is not None and (head := self._heads["A"]) is not None:
            self.outputs.first.add(head, batch, result, result)
        self._ready.add(number)
        if number in self._early:
            self._second(number, batch, self._early.pop(number))

    def _second(self, number: int, batch: Batch, result: Any) -> None:
        if number not in self._ready:  # B has fewer layers
            self._early[number] = result
            return
        self._ready.remove(number)
        if self.outputs is not None and (head := self._heads["B"]) is not None:
            self.outputs.add(head, batch, result, result)

    def _release(self, number: int) -> None:
        self.recorder.release([number])
        if self.inputs is not None:
            self.inputs.release([number])

    def _by_layer(self, batches: Mapping[int, Batch], *, spills: bool) -> None:
        """Send batches through a layer of A, then through the same layer of B, and so on.

        ``spills`` means that what does not fit in memory waits in a file.
        """
        first, *others = self._passes(batches)
        asked, device = self.a.settings.stream_memory, entry_device(self.a.opened.model)
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            spill = SpillBuffer.within(asked, device) if spills else SpillBuffer(sys.maxsize)
            stack.enter_context(closing(spill))
            if spills:
                self.recorder.holds = spill.hold
                if self.inputs is not None:
                    self.inputs.holds = spill.hold
            calls = [
                [first.call(number, batch, _nothing) for number, batch in batches.items()],
                [
                    one.call(number, batch, self._release if one is others[-1] else _nothing)
                    for number, batch in batches.items()
                    for one in others
                ],
            ]
            sides = [
                stack.enter_context(closing(stream_steps(_layers(side), own, spill)))
                for side, own in zip((self.a, self.b), calls, strict=True)
            ]
            for _ in zip_longest(*sides):
                pass


@dataclass
class _Pass:
    """One pass of each batch through one model.

    Parameters
    ----------
    receive
        Called with the number of a batch, and as `observe` calls its receiver.
    around
        Entered with the number of a batch and the path of a layer, None for the whole model.
    finish
        Called with number, batch and what the model returned.
    """

    side: Measurement
    receive: Receive
    around: Callable[..., AbstractContextManager[Any]]
    finish: Callable[..., Any]
    progress: Progress
    step: str

    def call(self, number: int, batch: Batch, passed: Callable[[int], Any]) -> Call:
        """Return the call that sends a batch through the model layer by layer.

        ``passed`` is called with the number when it has passed a layer.
        """
        side = self.side
        model, tracker, layers = side.opened.model, side.tracker, _layers(side).layers
        seen: set[HookPoint] = set()
        steps = 0

        def at(points: Sequence[HookPoint], layer: str) -> list[HookPoint]:
            owners = ((layer_of(p.within or p.module, layers) or "", p) for p in points)
            return [point for owner, point in owners if owner in (layer, "")]

        @contextmanager
        def hooked(layer: str) -> Iterator[None]:
            if layer:
                place = f"layer {layers.index(layer) + 1} of {len(layers)}"
                self.progress.step(f"{place}, {self.step}")
            tracker.given = tracker.tokens = tokens_of(batch)
            receive = partial(self.receive, number)
            watching = observe(model, at(side.watched, layer), receive, tracker, seen)
            arm = _arm(side, at(side.moved, layer), set())
            with watching, self.around(number, layer), arm, naming_failures(model):
                yield

        def end_layer(_: str) -> None:
            nonlocal steps
            before, steps = steps, steps + 1
            done = [batch.tokens * n // len(layers) for n in (before, steps)]
            self.progress.advance(done[1] - done[0])
            passed(number)

        def end(result: Any) -> None:
            check_fired(side.watched, seen)
            self.finish(number, batch, result)

        # Each call has inputs of its own: what it computes from them may be spilled.
        return Call(lambda: side.call(**inputs_of(batch, model)), hooked, end_layer, end)


def _on_disk(side: Measurement) -> LayersOnDisk | None:
    """Return the layers of a model that is streamed."""
    on_disk = side.opened.on_disk
    return on_disk if on_disk is not None and on_disk.streams else None


def _layers(side: Measurement) -> LayersOnDisk | ResidentLayers:
    model = side.opened.model
    inside = [mlp.path for mlp in side.opened.mlps]
    return _on_disk(side) or ResidentLayers(model, layer_paths(model, inside))


def _nothing(*_: Any) -> AbstractContextManager[None]:
    return nullcontext()


def _token_rows(batch: Batch) -> NDArray[np.int64]:
    """Return document, window, position and token of each counted row, int64 (rows, 4)."""
    rows, columns = np.nonzero(batch.counted)
    return np.stack(
        [batch.documents[rows], batch.windows[rows], columns, batch.ids[rows, columns]], axis=1
    )


@contextmanager
def _arm(
    side: Measurement, points: Sequence[HookPoint], parts: set[HookPoint] | None = None
) -> Iterator[None]:
    if not points:
        yield
        return
    with Redistribution(side.arm, points, side.tracker).active(side.opened.model, parts):
        yield
