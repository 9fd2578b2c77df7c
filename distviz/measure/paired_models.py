"""Two models that read the same batches: A first, then B, whose values are compared with A's.

Where a model's layers are on disk, as many batches pass together as the memory for the values of A
allows, so that the weights are read once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distviz.data import Batch
from distviz.hooks import PairRecorder, Redistribution, Tokens, check_fired, observe
from distviz.measure.forward import (
    Measurement,
    capture_head_input,
    inputs_of,
    naming_failures,
    tokens_of,
)
from distviz.measure.layerwise import Call, stream
from distviz.measure.output_effect import HeadInput
from distviz.measure.paired_outputs import PairedOutputs
from distviz.measure.tensor_files import SpillBuffer
from distviz.models import LayersOnDisk, entry_device, free_bytes, layer_of
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
    """

    paths_a: Sequence[str]
    paths_b: Sequence[str]
    _held: dict[tuple[int, str], torch.Tensor] = field(default_factory=dict)

    def noting(self, model: Any, number: int, layer: str | None) -> AbstractContextManager[None]:
        """Hold what enters the layers of A, or one of them."""

        def note(path: str, hidden: torch.Tensor) -> None:
            self._held[number, path] = hidden.clone()

        return self._hooked(model, self.paths_a, layer, note)

    def feeding(self, model: Any, number: int, layer: str | None) -> AbstractContextManager[None]:
        """Let the layers of B, or one of them, read what was held."""
        partners = dict(zip(self.paths_b, self.paths_a, strict=True))

        def feed(path: str, hidden: torch.Tensor) -> torch.Tensor:
            return self._held[number, partners[path]].to(hidden.device, hidden.dtype)

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
    _bytes: int = 0

    @property
    def n_passes(self) -> int:
        """Number of forward passes of each batch."""
        return 3 if self.inputs is not None else 2

    def run(self, batches: Sequence[Batch]) -> None:
        """Compare all batches.

        Raises
        ------
        MeasurementError
            If a point never fires, or a model fails.
        RequestError
            If no point can be compared.
        """
        with ExitStack() as stack:
            heads = [stack.enter_context(capture_head_input(side)) for side in (self.a, self.b)]
            left = list(enumerate(batches))
            size = 1
            while left:
                group, left = dict(left[:size]), left[size:]
                self._compare(group, *heads)
                if self._streams:
                    size = max(1, self._limit() // max(1, self._bytes // len(group)))
                self.recorder.check()

    @property
    def _streams(self) -> bool:
        disks = (side.opened.on_disk for side in (self.a, self.b))
        return any(on_disk is not None and on_disk.streams for on_disk in disks)

    def _limit(self) -> int:
        return free_bytes(entry_device(self.a.opened.model)) // 4

    def _compare(
        self, group: Mapping[int, Batch], head_a: HeadInput | None, head_b: HeadInput | None
    ) -> None:
        recorder, inputs = self.recorder, self.inputs
        ids = {number: _token_rows(batch) for number, batch in group.items()}

        def compare(
            number: int, point: HookPoint, values: torch.Tensor, tokens: Tokens, is_own: bool
        ) -> None:
            recorder.compare(number, point, values, tokens, ids[number], is_own=is_own)

        noting = partial(inputs.noting, self.a.opened.model) if inputs else _nothing
        first = self._pass(self.a, group, recorder.hold, noting, f"A, pass 1 of {self.n_passes}")
        self._bytes = recorder.held_bytes
        step = f"B, pass 2 of {self.n_passes}"
        second = self._pass(self.b, group, partial(compare, is_own=False), _nothing, step)
        if self.outputs is not None and head_a is not None and head_b is not None:
            for number, batch in group.items():
                self.outputs.first.add(head_a, batch, first[number], first[number])
                self.outputs.add(head_b, batch, second[number], second[number])
        if inputs is not None:
            feeding, step = partial(inputs.feeding, self.b.opened.model), "B by layer, pass 3 of 3"
            self._pass(self.b, group, partial(compare, is_own=True), feeding, step)
            inputs.release(list(group))
        recorder.release(list(group))

    def _pass(
        self,
        side: Measurement,
        group: Mapping[int, Batch],
        receive: Receive,
        around: Callable[..., AbstractContextManager[Any]],
        step: str,
    ) -> dict[int, Any]:
        """Send batches through one model and return what enters its head, by number.

        ``around`` is entered with a number and a layer.
        """
        self.progress.step(step)
        on_disk = side.opened.on_disk
        if on_disk is not None and on_disk.streams:
            return _stream(side, on_disk, group, receive, around, self.progress)
        model, found = side.opened.model, {}
        for number, batch in group.items():
            side.tracker.given = tokens_of(batch)
            watching = observe(model, side.watched, partial(receive, number), side.tracker)
            arm, failing = _arm(side, side.moved), naming_failures(model)
            with torch.inference_mode(), watching, around(number, None), arm, failing:
                found[number] = side.call(**inputs_of(batch, model))
            self.progress.advance(batch.tokens)
        return found


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


def _stream(
    side: Measurement,
    on_disk: LayersOnDisk,
    group: Mapping[int, Batch],
    receive: Receive,
    around: Callable[..., AbstractContextManager[Any]],
    progress: Progress,
) -> dict[int, Any]:
    """Send batches through a model whose layers are on disk, layer by layer; see `_pass`."""
    model, tracker = side.opened.model, side.tracker
    found: dict[int, Any] = {}
    seen: dict[int, set[HookPoint]] = {number: set() for number in group}

    def at(points: Sequence[HookPoint], layer: str) -> list[HookPoint]:
        owners = ((layer_of(p.within or p.module, on_disk.layers) or "", p) for p in points)
        return [point for owner, point in owners if owner in (layer, "")]

    @contextmanager
    def hooked(number: int, layer: str) -> Iterator[None]:
        tracker.tokens = tokens_of(group[number])
        receiving = partial(receive, number)
        watching = observe(model, at(side.watched, layer), receiving, tracker, seen[number])
        with watching, around(number, layer), _arm(side, at(side.moved, layer), set()):
            yield

    def forward(number: int) -> Any:
        return side.call(**inputs_of(group[number], model))

    def finish(number: int, result: Any) -> None:
        found[number] = result
        check_fired(side.watched, seen[number])
        progress.advance(group[number].tokens)

    calls = [
        Call(partial(forward, n), partial(hooked, n), lambda _: None, partial(finish, n))
        for n in group
    ]
    limit = free_bytes(entry_device(model)) // 4
    with torch.inference_mode(), closing(SpillBuffer(limit)) as spill:
        stream(on_disk, calls, spill)
    return found
