"""Layers outside, batches inside: forward calls stop before each layer and pass it together.

Every call is the model's ordinary forward, in a greenlet of its own (of the same thread, so that
torch's threads and modes stay as they are), which stops at the entry of each layer. A layer is
read, every call runs through it to the next, and the layer is released. So each call computes what
it would compute alone, and weights are read once however many calls there are.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from distviz.errors import MeasurementError
from distviz.measure.tensor_files import digest_of
from distviz.models import LayersOnDisk, StopForward

if TYPE_CHECKING:
    import torch
    from greenlet import greenlet

    from distviz.measure.layer_checkpoint import LayerCheckpointer, ResumePoint
    from distviz.measure.tensor_files import SpillBuffer


@dataclass
class Call:
    """One forward call.

    Attributes
    ----------
    forward
        The call itself; it may share no tensor of four dimensions with another call.
    hooked
        Called with the path of the layer that the next part of the call runs through (empty before
        the first); returns the context in which that part runs.
    passed
        Called with the path of a layer when the call has passed it.
    finish
        Called with what `forward` returned; None if it ended since no further layer is needed.
    resume_point
        Where it continues if it was interrupted.
    next_layer
        The layer before which it is stopped; empty before it has begun.
    left
        Layers that it needs and has not reached yet.
    has_entered
        Whether it has entered a layer that it runs itself; before, saved outputs replace layers.
    is_saved
        Whether its last output was saved, and the digest of the next layer's input not yet.
    """

    forward: Callable[[], Any]
    hooked: Callable[[str], AbstractContextManager[Any]]
    passed: Callable[[str], None]
    finish: Callable[[Any], None]
    resume_point: ResumePoint | None = None
    number: int = 0
    next_layer: str = ""
    left: set[str] = field(default_factory=set)
    n_passed: int = 0
    is_finished: bool = False
    result: Any = None
    thread: greenlet | None = None
    has_entered: bool = False
    is_saved: bool = False


@dataclass
class ResidentLayers:
    """The layers of a model that is in memory, for `stream_steps`.

    Parameters
    ----------
    model, layers
        As of `LayersOnDisk`.
    """

    model: Any
    layers: list[str]
    loaded: set[str] = field(default_factory=set)
    wanted: frozenset[str] = frozenset()

    def load(self, path: str) -> None:
        """Let calls enter a layer."""
        self.loaded.add(path)

    def read_ahead(self, path: str) -> None:
        """Nothing is read."""

    def drop(self, path: str) -> None:
        """Let no further call enter a layer."""
        self.loaded.discard(path)


def stream(
    on_disk: LayersOnDisk,
    calls: Sequence[Call],
    spill: SpillBuffer,
    checkpointer: LayerCheckpointer | None = None,
) -> None:
    """Send calls through a model to their end; see `stream_steps`."""
    for _ in stream_steps(on_disk, calls, spill, checkpointer):
        pass


def stream_steps(
    on_disk: LayersOnDisk | ResidentLayers,
    calls: Sequence[Call],
    spill: SpillBuffer,
    checkpointer: LayerCheckpointer | None = None,
) -> Generator[str, None, None]:
    """Send calls through a model whose layers are on disk, layer by layer.

    Peak memory: everything but the layers, one layer while it is read, and what `spill` holds in
    memory: hidden states and tensors of four dimensions (masks, position biases). Whatever else the
    model's forward carries from layer to layer stays in memory.

    Yields
    ------
    The path of each layer that all calls have passed, when its weights are released.

    Raises
    ------
    MeasurementError
        If a layer cannot be read, the disk is full, or a call cannot be resumed, because the model
        carries more from layer to layer than layers return.
    """
    for number, call in enumerate(calls):
        call.number = number
    loop = _LayerLoop(on_disk, spill, calls, checkpointer)
    with ExitStack() as stack:
        stack.callback(loop.abandon)
        if checkpointer is not None:
            stack.callback(checkpointer.abandon)
        stack.enter_context(loop.stopping())
        yield from loop.run()


@dataclass
class _LayerLoop:
    """Runs all calls through one layer after the other."""

    on_disk: LayersOnDisk | ResidentLayers
    spill: SpillBuffer
    calls: Sequence[Call]
    checkpointer: LayerCheckpointer | None
    _saves: bool = False
    _current: Call | None = None
    _buffers: frozenset[int] = frozenset()

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """Stop calls at the entry of each layer while the context lasts."""
        model = self.on_disk.model
        self._buffers = frozenset(buffer.untyped_storage().data_ptr() for buffer in model.buffers())
        with ExitStack() as stack:
            for path in self.on_disk.layers:
                layer = model.get_submodule(path)
                # Called by torch before it looks up hooks: those added while it is stopped count.
                layer._call_impl = partial(self._enter, path, layer._call_impl)  # noqa: SLF001
                stack.callback(delattr, layer, "_call_impl")
            yield

    def run(self) -> Iterator[str]:
        """Run all calls to their end; those that resume at a later layer wait for the others.

        Yields the path of each layer.
        """
        for call in self.calls:
            if call.resume_point is not None:
                self._run(call, "")
        first = ""
        while waiting := [call for call in self.calls if not call.is_finished]:
            fresh = [call for call in waiting if not call.next_layer]
            if fresh and not first:  # shows which layer is the first
                self._run(fresh[0], "")
                first = fresh[0].next_layer
                continue
            stopped_at = (call.next_layer for call in waiting if call.next_layer)
            layer = min(stopped_at, key=self.on_disk.layers.index)
            self.on_disk.load(layer)
            self.on_disk.read_ahead(layer)
            self._saves = self.checkpointer is not None and self.checkpointer.begin(layer)
            for call in waiting:
                if (call.next_layer or first) == layer:
                    self._run(call, layer)
            self._saves = False
            self.on_disk.drop(layer)
            if self.checkpointer is not None:
                self.checkpointer.end(layer)
            yield layer

    def _run(self, call: Call, layer: str) -> None:
        """Run a call through a layer, to the entry of the next or to its end."""
        if call.thread is None:
            call.thread = self._thread(call)
        self._current = call
        try:
            with call.hooked(layer):
                call.thread.switch()
        finally:
            self._current = None
        if layer:
            call.passed(layer)
        if call.is_finished:
            result, call.result = call.result, None
            call.finish(result)

    def _thread(self, call: Call) -> greenlet:
        from greenlet import greenlet

        def body() -> None:
            call.left = set(self.on_disk.wanted)
            with suppress(StopForward):
                call.result = call.forward()
            call.is_finished = True

        thread = greenlet(body)
        thread.gr_context = contextvars.copy_context()
        return thread

    def _enter(self, path: str, call_impl: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Replace the call of a layer: stop until its weights are loaded."""
        call = self._current
        if call is None or call.thread is None:
            return call_impl(*args, **kwargs)
        resume_point = call.resume_point
        if resume_point is not None and path in resume_point.outputs and not call.has_entered:
            call.left.discard(path)
            call.n_passed += 1
            return resume_point.outputs[path]()
        self._note_input(call, path, (args, kwargs))
        if path not in self.on_disk.loaded:
            if self.on_disk.wanted and not call.left:
                raise StopForward
            handles = [self.spill.store(value) for value in self._private(call, args, kwargs)]
            call.next_layer = path
            call.thread.parent.switch()
            for handle in handles:
                self.spill.restore(handle)
        output = call_impl(*args, **kwargs)
        call.left.discard(path)
        call.n_passed += 1
        if self._saves and self.checkpointer is not None:
            self.checkpointer.save_output(call.number, output)
            call.is_saved = True
        return output

    def _note_input(self, call: Call, path: str, inputs: tuple[Any, ...]) -> None:
        """Save the digest of a layer's input, or check it where a call resumes."""
        resume_point = call.resume_point
        if resume_point is not None and not call.has_entered:
            if digest_of(inputs) != resume_point.input_digest:
                raise MeasurementError(
                    f"the input of {path} differs from that before the interruption: this model "
                    "carries more from layer to layer than its layers return",
                    "it cannot be resumed while streaming; give --force without --resume",
                )
        elif call.is_saved and self.checkpointer is not None:
            self.checkpointer.note_input(call.number, digest_of(inputs))
        call.has_entered, call.is_saved = True, False

    def _private(
        self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[torch.Tensor]:
        """Return the tensors that only this call holds, each storage once.

        These are the hidden state, unless it may be the input of the model, and tensors of four
        dimensions: a model makes new masks and position biases in each call.
        """
        import torch

        hidden = args[0] if args else kwargs.get("hidden_states")
        found: dict[int, torch.Tensor] = {}
        for value in (*args, *kwargs.values()):
            if not isinstance(value, torch.Tensor):
                continue
            if (value is hidden and call.n_passed) or value.dim() == 4:
                found.setdefault(value.untyped_storage().data_ptr(), value)
        return [value for address, value in found.items() if address not in self._buffers]

    def abandon(self) -> None:
        """End the calls that have not finished, so that their memory is released."""
        for call in self.calls:
            if call.thread is not None and not call.thread.dead:
                call.thread.throw()
        for path in list(self.on_disk.loaded):
            self.on_disk.drop(path)
