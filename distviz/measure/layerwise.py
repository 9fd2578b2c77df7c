"""Layer outside, batches inside: forward calls that stop before each layer and go through together.

Every call is the model's ordinary forward, run in a greenlet of its own (of the same thread, so
that torch's threads and modes stay as they are) and stopped at the entry of each layer. A layer is
read, every call runs through it to the next, and the layer is let go. So each call computes what
it would have computed alone, and weights are read once however many calls there are.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from distviz.errors import MeasurementError
from distviz.measure.layer_outputs import digest_of
from distviz.models import LayersOnDisk, StopForward

if TYPE_CHECKING:
    import torch
    from greenlet import greenlet

    from distviz.measure.spill import SpillBuffer

__all__ = ["Call", "LayerCheckpointer", "ResumePoint", "stream"]


@dataclass(frozen=True)
class ResumePoint:
    """Where an interrupted call goes on.

    Attributes
    ----------
    outputs
        For each layer that it went through before: gives what stands for the layer's output. For
        the last of a stack that is what it returned; the others may give the same.
    arrival
        Digest of what the next layer was given then.
    """

    outputs: Mapping[str, Callable[[], Any]]
    arrival: str


class LayerCheckpointer(Protocol):
    """Keeps what calls need to go on from after a layer."""

    def begin(self, layer: str) -> bool:
        """Whether the outputs of this layer are to be kept; asked before calls go through."""

    def keep(self, number: int, output: Any) -> None:
        """Take the output of a call, by its number."""

    def arrive(self, number: int, digest: str) -> None:
        """Take the digest of what the next layer is given."""

    def end(self, layer: str) -> None:
        """Every call has gone through the layer."""

    def abandon(self) -> None:
        """Leave nothing that is not whole; the calls have come to an end, or to an error."""


@dataclass
class Call:
    """One forward call.

    Attributes
    ----------
    forward
        The call itself; it may share no tensor of four dimensions with another call.
    hooked
        Told the path of the layer that the next part of the call goes through (empty for what comes
        before the first), gives the context in which that part runs.
    passed
        Told the path of a layer when the call has gone through it.
    finish
        Told what `forward` returned; None where it was ended because no further layer is wanted.
    halfway
        Where it goes on if it was interrupted.
    """

    forward: Callable[[], Any]
    hooked: Callable[[str], AbstractContextManager[Any]]
    passed: Callable[[str], None]
    finish: Callable[[Any], None]
    halfway: ResumePoint | None = None


def stream(
    on_disk: LayersOnDisk,
    calls: Sequence[Call],
    room: SpillBuffer,
    keeper: LayerCheckpointer | None = None,
) -> None:
    """Send calls through a model whose layers are on disk, layer by layer.

    Peak memory: what is no layer, one layer while it is read, and what waits. Hidden states and
    tensors of four dimensions (masks, position biases) wait in `room`; whatever else the model's
    forward keeps from layer to layer stays in memory.

    Raises
    ------
    MeasurementError
        If a layer cannot be read, the disk is full, or a call cannot go on where it was
        interrupted, because the model carries more from layer to layer than layers return.
    """
    running = [_Running(number, call) for number, call in enumerate(calls)]
    sweep = _Sweep(on_disk, room, running, keeper)
    with ExitStack() as stack:
        stack.callback(sweep.abandon)
        if keeper is not None:
            stack.callback(keeper.abandon)
        stack.enter_context(sweep.stopping())
        sweep.go()


@dataclass
class _Running:
    """A call under way.

    Attributes
    ----------
    at
        The layer before which it waits; empty before it has begun.
    left
        Layers that are wanted of it and were not reached yet.
    n_passed
        Layers it has gone through.
    is_on_its_way
        Whether it has gone through a layer, or would have but for what it goes on from.
    is_kept
        Whether its last output was kept, and not yet what came of it.
    """

    number: int
    call: Call
    at: str = ""
    left: set[str] = field(default_factory=set)
    n_passed: int = 0
    is_finished: bool = False
    result: Any = None
    thread: greenlet | None = None
    is_on_its_way: bool = False
    is_kept: bool = False


@dataclass
class _Sweep:
    on_disk: LayersOnDisk
    room: SpillBuffer
    running: list[_Running]
    keeper: LayerCheckpointer | None
    _keeps: bool = False
    _current: _Running | None = None
    _of_model: frozenset[int] = frozenset()

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """Stop calls at the entry of each layer while the context lasts."""
        model = self.on_disk.model
        self._of_model = frozenset(
            buffer.untyped_storage().data_ptr() for buffer in model.buffers()
        )
        with ExitStack() as stack:
            for path in self.on_disk.layers:
                layer = model.get_submodule(path)
                # What torch calls before it looks hooks up, so those put on during a stop count.
                layer._call_impl = partial(self._enter, path, layer._call_impl)  # noqa: SLF001
                stack.callback(delattr, layer, "_call_impl")
            yield

    def go(self) -> None:
        """Run all calls to their end; those that go on further behind wait for the others."""
        for running in self.running:
            if running.call.halfway is not None:
                self._run(running, "")
        first = ""
        while waiting := [running for running in self.running if not running.is_finished]:
            fresh = [running for running in waiting if not running.at]
            if fresh and not first:  # it finds out which layer is the first
                self._run(fresh[0], "")
                first = fresh[0].at
                continue
            layer = min((each.at for each in waiting if each.at), key=self.on_disk.layers.index)
            self.on_disk.load(layer)
            self.on_disk.read_ahead(layer)
            self._keeps = self.keeper is not None and self.keeper.begin(layer)
            for running in waiting:
                if (running.at or first) == layer:
                    self._run(running, layer)
            self._keeps = False
            self.on_disk.drop(layer)
            if self.keeper is not None:
                self.keeper.end(layer)

    def _run(self, running: _Running, layer: str) -> None:
        """Let a call go through a layer, to the entry of the next or to its end."""
        if running.thread is None:
            running.thread = self._thread(running)
        self._current = running
        try:
            with running.call.hooked(layer):
                running.thread.switch()
        finally:
            self._current = None
        if layer:
            running.call.passed(layer)
        if running.is_finished:
            result, running.result = running.result, None
            running.call.finish(result)

    def _thread(self, running: _Running) -> greenlet:
        from greenlet import greenlet

        def body() -> None:
            running.left = set(self.on_disk.wanted)
            with suppress(StopForward):
                running.result = running.call.forward()
            running.is_finished = True

        thread = greenlet(body)
        thread.gr_context = contextvars.copy_context()
        return thread

    def _enter(self, path: str, call_impl: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Stand for the call of a layer: wait until its weights are there."""
        running = self._current
        if running is None or running.thread is None:
            return call_impl(*args, **kwargs)
        halfway = running.call.halfway
        if halfway is not None and path in halfway.outputs and not running.is_on_its_way:
            running.left.discard(path)
            running.n_passed += 1
            return halfway.outputs[path]()
        self._arrive(running, path, (args, kwargs))
        if path not in self.on_disk.loaded:
            if self.on_disk.wanted and not running.left:
                raise StopForward
            tickets = [self.room.store(value) for value in self._private(running, args, kwargs)]
            running.at = path
            running.thread.parent.switch()
            for ticket in tickets:
                self.room.restore(ticket)
        output = call_impl(*args, **kwargs)
        running.left.discard(path)
        running.n_passed += 1
        if self._keeps and self.keeper is not None:
            self.keeper.keep(running.number, output)
            running.is_kept = True
        return output

    def _arrive(self, running: _Running, path: str, given: tuple[Any, ...]) -> None:
        """Note what a layer is given, or check it where a call goes on."""
        halfway = running.call.halfway
        if halfway is not None and not running.is_on_its_way:
            if digest_of(given) != halfway.arrival:
                raise MeasurementError(
                    f"{path} is not given what it was given before the interruption: this model "
                    "carries more from layer to layer than its layers return",
                    "it cannot be resumed while it is streamed; measure it again without --resume",
                )
        elif running.is_kept and self.keeper is not None:
            self.keeper.arrive(running.number, digest_of(given))
        running.is_on_its_way, running.is_kept = True, False

    def _private(
        self, running: _Running, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[torch.Tensor]:
        """Return the tensors that nobody but this call holds, each storage once.

        That is the hidden state, unless it may be what the caller gave, and whatever has four
        dimensions: a model makes masks and position biases anew in each call.
        """
        import torch

        given = [*args, *kwargs.values()]
        hidden = args[0] if args else kwargs.get("hidden_states")
        found: dict[int, torch.Tensor] = {}
        for value in given:
            if not isinstance(value, torch.Tensor):
                continue
            if (value is hidden and running.n_passed) or value.dim() == 4:
                found.setdefault(value.untyped_storage().data_ptr(), value)
        return [value for place, value in found.items() if place not in self._of_model]

    def abandon(self) -> None:
        """End the calls that did not come to their end, so that what they hold is let go."""
        for running in self.running:
            if running.thread is not None and not running.thread.dead:
                running.thread.throw()
        for path in list(self.on_disk.loaded):
            self.on_disk.drop(path)
