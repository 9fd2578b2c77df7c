"""Reach a point of a model wherever it lies: a module's input, its output, or a function inside.

Whatever is put on comes off with the `ExitStack` it was put on, in every case. A value is handed on
while torch functions are called plainly, so that what a receiver computes is followed by nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from distviz.models.architectures import modules_at
from distviz.sites import HookPoint

if TYPE_CHECKING:
    import torch
    from torch import nn

    from distviz.models.architectures import FunctionTracer

__all__ = ["Receive", "attach_hook"]

Receive = Callable[[HookPoint, Any], "torch.Tensor | None"]


def attach_hook(
    model: nn.Module,
    points: Sequence[HookPoint],
    receive: Receive,
    stack: ExitStack,
    *,
    first: bool = False,
) -> None:
    """Call ``receive(point, value)`` whenever a value passes a point.

    Parameters
    ----------
    model
        The model that the points belong to.
    receive
        What it returns takes the place of the value at points that take an output; None leaves it.
    stack
        Closing it takes everything off.
    first
        Stand before whoever looks at the same point, so that they see the replacement.
    """
    scopes: dict[str, _Scope] = {}
    inside: dict[tuple[str, str], list[HookPoint]] = {}
    for point in points:
        if point.within and point.within not in scopes:
            scopes[point.within] = _Scope(model.get_submodule(point.within), stack)
        if point.chain:
            inside.setdefault((point.module, point.within), []).append(point)
        else:
            scope = scopes.get(point.within)
            for module in modules_at(model, point):
                _tap_module(module, point, receive, scope, stack, first)
    for (_, within), group in inside.items():
        for module in modules_at(model, group[0]):
            _tap_functions(module, group, receive, scopes.get(within), stack, first)


@dataclass
class _Scope:
    """Whether a call of one module is under way."""

    module: nn.Module
    stack: ExitStack
    depth: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        enter = self.module.register_forward_pre_hook(self._enter, prepend=True)
        leave = self.module.register_forward_hook(self._leave, always_call=True)
        self.stack.callback(enter.remove)
        self.stack.callback(leave.remove)

    def _enter(self, *_: Any) -> None:
        self.depth += 1

    def _leave(self, *_: Any) -> None:
        self.depth -= 1


def _tap_module(
    module: nn.Module,
    point: HookPoint,
    receive: Receive,
    scope: _Scope | None,
    stack: ExitStack,
    first: bool,
) -> None:
    def hand_on(value: Any) -> torch.Tensor | None:
        import torch

        if scope is not None and not scope.depth:
            return None
        with torch._C.DisableTorchFunction():  # noqa: SLF001
            return receive(point, value)

    if point.takes == "output":
        after = module.register_forward_hook(lambda _m, _a, out: hand_on(out), prepend=first)
        stack.callback(after.remove)
        return

    def before(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hand_on(args[0] if args else next(iter(kwargs.values())))

    stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)


def _tap_functions(
    module: nn.Module,
    points: Sequence[HookPoint],
    receive: Receive,
    scope: _Scope | None,
    stack: ExitStack,
    first: bool,
) -> None:
    """Follow the chains of the points while the module's forward runs."""
    from distviz.models.architectures import FunctionTracer, OpPath

    def step(chain: OpPath, entered: Any, result: torch.Tensor) -> torch.Tensor | None:
        changed = None
        for point in points:
            if point.takes == "input" and chain == point.chain[:1]:
                receive(point, entered)
            elif point.takes == "output" and chain == point.chain:
                changed = receive(point, result)
        return changed

    follower = FunctionTracer(step, {point.chain for point in points})
    running = _Running(follower, scope)
    # Whoever stands first is the outermost: torch asks the innermost mode first, and it asks the
    # one around it for the result. They must be left in the reverse order.
    enter = module.register_forward_pre_hook(running.enter, prepend=first)
    leave = module.register_forward_hook(running.leave, prepend=not first, always_call=True)
    stack.callback(enter.remove)
    stack.callback(leave.remove)
    for name in {point.chain[0] for point in points if point.chain[0].endswith("()")}:
        child = module.get_submodule(name.removesuffix("()"))

        def note(_m: Any, args: tuple[Any, ...], out: torch.Tensor, name: str = name) -> None:
            if running.depth:
                follower.note(out, (name,), args[0] if args else None)

        stack.callback(child.register_forward_hook(note).remove)


@dataclass
class _Running:
    """Enters a follower with a module's forward and leaves it with it."""

    follower: FunctionTracer
    scope: _Scope | None
    depth: int = 0

    def enter(self, *_: Any) -> None:
        if self.scope is None or self.scope.depth:
            self.depth += 1
            self.follower.__enter__()

    def leave(self, *_: Any) -> None:
        if self.depth:
            self.depth -= 1
            self.follower.__exit__(None, None, None)  # type: ignore[no-untyped-call]
