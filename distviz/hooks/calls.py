"""Which calls of modules run now, known also after one was interrupted.

torch skips the hooks that follow a call which Ctrl-C or an exit ends. A call therefore runs as long
as Python executes its frame, whether or not a hook has seen its end.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import cache
from threading import get_ident
from typing import TYPE_CHECKING, Any, Self

from torch import overrides
from torch.overrides import TorchFunctionMode

from distviz.errors import MeasurementError

if TYPE_CHECKING:
    from contextlib import ExitStack
    from types import FrameType

    from torch import nn

# Without types in torch.
_entered_modes: Any = overrides._get_current_function_mode_stack  # noqa: SLF001
_push_mode: Any = overrides._push_mode  # noqa: SLF001
_pop_mode: Any = overrides._pop_mode  # noqa: SLF001

TorchFunction = Callable[[Any, Any, tuple[Any, ...], Any], Any]


class Calls:
    """The calls of some modules that run now.

    Parameters
    ----------
    is_counted
        Asked when a call begins whether it counts; None: all do.
    """

    def __init__(self, is_counted: Callable[[], bool] | None = None) -> None:
        self._is_counted = is_counted
        self._running: list[tuple[nn.Module, FrameType]] = []
        self._attached = 0
        self._thread = 0

    @property
    def depth(self) -> int:
        """Number of running calls, each inside the one before."""
        while self._running and not _is_executed(self._running[-1][1]):
            self._running.pop()
        return len(self._running)

    def attach(self, module: nn.Module, stack: ExitStack, *, first: bool = True) -> Self:
        """Follow the calls of a module until the stack closes.

        What is attached ``first`` begins before others, and ends after them.
        """
        enter = module.register_forward_pre_hook(self.enter, prepend=first)
        leave = module.register_forward_hook(self.leave, prepend=not first, always_call=True)
        self._attached += 1
        for end in (self._detach, leave.remove, enter.remove):
            stack.callback(end)
        return self

    def enter(self, module: nn.Module, *_: Any) -> None:
        """Forward pre-hook of a module, or called by one.

        Raises
        ------
        MeasurementError
            If another thread is in a call.
        """
        if self._is_counted is not None and not self._is_counted():
            return
        if not self.depth:
            self._thread = get_ident()
            self.begin()
        elif self._thread != get_ident():
            raise MeasurementError(
                f"{type(module).__name__} is called by two threads at once",
                "let one thread at a time call what distviz observes",
            )
        self._running.append((module, _calling_frame()))

    def leave(self, module: nn.Module, *_: Any) -> None:
        """Forward hook of a module, or called by one; also after an error."""
        if self._thread == get_ident() and any(one is module for one, _ in self._running):
            while self._running.pop()[0] is not module:
                pass
            if not self._running:
                self.end()

    def begin(self) -> None:
        """Called before an outermost call begins."""

    def end(self) -> None:
        """Called after one has ended, unless it was interrupted, and when nothing is followed."""

    def _detach(self) -> None:
        self._attached -= 1
        if not self._attached:
            self._running.clear()
            self.end()


class TracedCalls(Calls):
    """Calls of modules, and a function that every torch function in them passes.

    Its mode is around those that begin later: torch calls the innermost mode first, which takes its
    results from the one around it.

    Parameters
    ----------
    trace
        Called as ``__torch_function__`` of a mode is.
    prepare
        Called before an outermost call begins; None: nothing is.
    is_counted
        See `Calls`.
    """

    def __init__(
        self,
        trace: TorchFunction,
        prepare: Callable[[], None] | None = None,
        is_counted: Callable[[], bool] | None = None,
    ) -> None:
        super().__init__(is_counted)
        self._mode = _Mode(self, trace)
        self._prepare = prepare

    def begin(self) -> None:
        """Enter the mode."""
        self._mode.remove()
        if self._prepare is not None:
            self._prepare()
        _push_mode(self._mode)

    def end(self) -> None:
        """Leave the mode."""
        self._mode.remove()


class _Mode(TorchFunctionMode):
    """Traces while calls run: after an interrupted call it may stay until the next one."""

    def __init__(self, calls: Calls, trace: TorchFunction) -> None:
        super().__init__()
        self._calls = calls
        self._trace = trace

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if self._calls.depth:
            return self._trace(func, types, args, kwargs)
        return func(*args, **(kwargs or {}))

    def remove(self) -> None:
        """Leave the mode, wherever among the entered ones it is."""
        entered = _entered_modes()
        if self not in entered:
            return
        above = [_pop_mode() for _ in entered[entered.index(self) + 1 :]]
        _pop_mode()
        for mode in reversed(above):
            _push_mode(mode)


def parameter_names(forward: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of the parameters of a function or method."""
    if inspect.ismethod(forward):
        return _names_of_function(forward.__func__)[1:]
    return tuple(inspect.signature(forward).parameters)


@cache
def _names_of_function(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


def _calling_frame() -> FrameType:
    """Return the frame in which torch calls a module, or else that of the caller's caller."""
    caller = frame = sys._getframe(2)  # noqa: SLF001
    while frame.f_globals.get("__name__") != "torch.nn.modules.module":
        if frame.f_back is None:
            return caller
        frame = frame.f_back
    return frame


def _is_executed(frame: FrameType) -> bool:
    """Return whether a frame is executed; what an ended one still holds is released."""
    try:
        frame.clear()
    except RuntimeError:
        return True
    return False
