"""Attach hooks at points of a model: a module's input, its output, or a function in its forward.

A hook gets the tensor at its point, and may replace it for everything that follows. All hooks are
removed when their `ExitStack` closes. Receivers run without the modes of torch, so that no tracer
and no selective checkpoint sees what they compute.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from distviz.errors import MeasurementError
from distviz.hooks.calls import Calls, TracedCalls, parameter_names
from distviz.hooks.channel_dims import ChannelDims
from distviz.models.architectures import modules_at
from distviz.sites import EveryActivation, HookPoint

if TYPE_CHECKING:
    import torch
    from torch import nn

Receive = Callable[[HookPoint, "torch.Tensor"], "torch.Tensor | None"]
Deliver = Callable[[HookPoint, Any], Any]


def attach_hook(
    model: nn.Module,
    points: Sequence[HookPoint],
    receive: Receive,
    stack: ExitStack,
    *,
    first: bool = False,
    whole: bool = False,
) -> None:
    """Call ``receive(point, tensor)`` for every value at a point.

    Parameters
    ----------
    model
        The model that the points belong to.
    receive
        Gets the first tensor that a module takes or returns, or the part of it that belongs to the
        point, with its channels as the last dimension. What it returns replaces that, unless it is
        None; what enters an operation inside a module (`is_replaceable` is False) cannot be
        replaced.
    stack
        Closing it removes the hooks.
    first
        Whether to run before other hooks at the same point, so that they receive the replacement.
    whole
        Whether ``receive`` gets the tensor as the model has it, see `part_of`.

    Raises
    ------
    MeasurementError
        In a forward call, if there is no tensor at a point.
    """
    receive = _outside_modes(receive)
    channels = ChannelDims.at(model, points)
    deliver = _Delivery(receive, channels, whole)
    scopes: dict[str, Calls] = {}
    inside: dict[tuple[str, str], list[HookPoint]] = {}
    searched = [point for point in points if isinstance(point, EveryActivation)]
    for point in points:
        if point.within and point.within not in scopes:
            outer = model.get_submodule(point.within)
            scopes[point.within] = Calls().attach(outer, stack)
        if point in searched:
            continue
        if point.chain:
            inside.setdefault((point.module, point.within), []).append(point)
        else:
            scope = scopes.get(point.within)
            paths = (point.module, *(point.also if first else ()))
            places = [modules_at(model, replace(point, module=path)) for path in paths]
            for readers in zip(*places, strict=True):
                _hook_module(readers, point, deliver, scope, stack, first)
    for (_, within), group in inside.items():
        for module in modules_at(model, group[0]):
            _hook_functions(module, group, deliver, scopes.get(within), stack, first)
    if searched:
        from distviz.hooks.activation_search import search_activations

        search_activations(model, searched, deliver, stack, first=first)
    channels.follow(model, points, stack)  # last, so that it is the outermost mode


def is_replaceable(point: HookPoint) -> bool:
    """Return whether the value at a point can be replaced for what follows."""
    return not (point.chain and point.takes == "input")


def _first_tensor(point: HookPoint, value: Any) -> torch.Tensor:
    """Return the first tensor of what a module takes or returns."""
    import torch

    found = value
    while isinstance(found, tuple | list | dict) and found:
        found = next(iter(found.values() if isinstance(found, dict) else found))
    if isinstance(found, torch.Tensor) and found.is_floating_point():
        return found
    kind = f"{type(value).__name__}, no tensor"
    if isinstance(found, torch.Tensor):
        kind = f"{str(found.dtype).removeprefix('torch.')}, no floating-point numbers"
    verb = "takes" if point.takes == "input" else "returns"
    raise MeasurementError(
        f"{point.module} (site {point.site}) {verb} {kind}",
        "observe a module in it, or narrow the pattern",
    )


def _with_first(value: Any, new: torch.Tensor) -> Any:
    """Return a value with its first tensor replaced; the value itself stays as it is."""
    if isinstance(value, dict):
        made = copy.copy(value)
        name = next(iter(made))
        made[name] = _with_first(made[name], new)
        return made
    if isinstance(value, tuple | list):
        parts = [_with_first(value[0], new), *value[1:]]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return new


def part_of(point: HookPoint, whole: torch.Tensor) -> torch.Tensor:
    """Return the part of a tensor that belongs to a point, with its channels last."""
    if point.channel_dim not in (None, -1):
        whole = whole.movedim(point.channel_dim, -1)
    if point.part is None or point.chain:
        return whole
    return whole[..., slice(*point.part)]


def _with_part(point: HookPoint, whole: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Return a tensor whose part that belongs to a point is replaced."""
    if point.part is not None and not point.chain:
        import torch

        start, stop = point.part
        new = torch.cat([whole[..., :start], new, whole[..., stop:]], dim=-1)
    if point.channel_dim not in (None, -1):
        new = new.movedim(-1, point.channel_dim)
    return new


@dataclass
class _Delivery:
    """Passes the tensors of points on; ``is_whole``: as the model has them."""

    receive: Receive
    channels: ChannelDims
    is_whole: bool

    def __call__(self, point: HookPoint, value: Any) -> Any:
        """Return the value with its replacement, None without one."""
        whole = _first_tensor(point, value)
        point = self.channels.resolve(point, whole)
        new = self.receive(point, whole if self.is_whole else part_of(point, whole))
        if new is None:
            return None
        if not self.is_whole:
            new = _with_part(point, whole, new)
        self.channels.replaced(whole, new)
        return _with_first(value, new)


def _outside_modes(receive: Receive) -> Receive:
    """Return a receiver that runs without torch dispatch modes."""
    import torch
    from torch.utils._python_dispatch import _disable_current_modes

    def outside(point: HookPoint, value: torch.Tensor) -> torch.Tensor | None:
        if value.is_cuda and torch.cuda.is_current_stream_capturing():
            raise MeasurementError(
                f"{point.module} (site {point.site}) runs inside the capture of a CUDA graph, "
                "which would count it once, and not when the graph is replayed",
                "call the model without the graph",
            )
        if not torch._C._len_torch_dispatch_stack():  # noqa: SLF001
            return receive(point, value)
        with _disable_current_modes():
            return receive(point, value)

    return outside


def _hook_module(
    readers: Sequence[nn.Module],
    point: HookPoint,
    delivered: Deliver,
    scope: Calls | None,
    stack: ExitStack,
    first: bool,
) -> None:
    """Hook a module; ``readers`` are this and the others that its input enters."""

    def deliver(value: Any) -> Any:
        import torch

        if scope is not None and not scope.depth:
            return None
        with torch._C.DisableTorchFunction():  # noqa: SLF001
            return delivered(point, value)

    if point.takes == "output":
        after = readers[0].register_forward_hook(lambda _m, _a, out: deliver(out), prepend=first)
        stack.callback(after.remove)
        return

    entering = _Entering(deliver, point)

    def before(reader: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        take = partial(entering.take, reader) if len(readers) > 1 else deliver
        if args:
            new = take(args[0])
            return None if new is None else ((new, *args[1:]), kwargs)
        given = [name for name in parameter_names(reader.forward) if name in kwargs]
        name = next(iter(given or kwargs), "")
        new = take(kwargs.get(name))
        return None if new is None else (args, {**kwargs, name: new})

    for reader in readers:
        handle = reader.register_forward_pre_hook(before, with_kwargs=True, prepend=first)
        stack.callback(handle.remove)


@dataclass
class _Entering:
    """A tensor that enters several modules: delivered once, replaced for each of them."""

    deliver: Callable[[Any], Any]
    point: HookPoint
    _given: Any = None
    _new: Any = None
    _readers: list[nn.Module] = field(default_factory=list)

    def take(self, reader: nn.Module, value: torch.Tensor) -> Any:
        """Return the replacement for one of the modules."""
        if self._given is None or reader in self._readers:
            self._given, self._new, self._readers = value, self.deliver(value), []
        elif value is not self._given and not value.equal(self._given):
            raise MeasurementError(
                f"what enters {self.point.module} (site {self.point.site}) does not enter "
                f"{', '.join(self.point.also)} as well, so it cannot be replaced for all of them",
                "choose another site",
            )
        self._readers.append(reader)
        new = self._new
        if len(self._readers) > len(self.point.also):
            self._given = self._new = None
        return new


def _hook_functions(
    module: nn.Module,
    points: Sequence[HookPoint],
    delivered: Deliver,
    scope: Calls | None,
    stack: ExitStack,
    first: bool,
) -> None:
    """Trace the chains of the points while the module's forward runs."""
    from distviz.models.architectures import FunctionTracer, OpPath

    def step(chain: OpPath, entered: Any, result: torch.Tensor) -> torch.Tensor | None:
        changed = None
        for point in points:
            if point.takes == "input" and chain == point.chain[:1]:
                delivered(point, entered)
            elif point.takes == "output" and chain == point.chain:
                changed = delivered(point, result)
        return changed

    tracer = FunctionTracer(step, {point.chain for point in points})
    is_counted = None if scope is None else lambda: scope.depth > 0
    running = TracedCalls(tracer.__torch_function__, tracer.clear, is_counted)
    running.attach(module, stack, first=first)
    for name in {point.chain[0] for point in points if point.chain[0].endswith("()")}:
        child = module.get_submodule(name.removesuffix("()"))

        def note(_m: Any, args: tuple[Any, ...], out: torch.Tensor, name: str = name) -> None:
            if running.depth:
                tracer.note(out, (name,), args[0] if args else None)

        stack.callback(child.register_forward_hook(note).remove)
