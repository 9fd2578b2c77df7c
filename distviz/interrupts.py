"""Signals that end a command: one exception, raised where nothing is left half-done.

Only the command installs the handlers; in a program that uses distviz, Ctrl-C is what Python makes
of it. The first signal counts. Its exception waits until a critical section (`deferred`), the
initialization of an extension module, or the import of torch has ended, because C++ code aborts
the process when Python raises in it. If a library swallows the exception, or Python ignores it in
a destructor, it is raised again. While it unwinds, and once the exit code is decided (`ignore`),
further signals have no effect.
"""

from __future__ import annotations

import signal
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from types import FrameType
from typing import Any

_NUMBERS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
_RETRY_SECONDS = 0.05
_EXTENSION_CODE = {
    ExtensionFileLoader.create_module.__code__,
    ExtensionFileLoader.exec_module.__code__,
}


written: list[Path] = []
"""Files and folders that the command has completed, oldest first."""


class Interrupted(KeyboardInterrupt):
    """A signal asks the process to end; ``number`` is the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def describe(error: KeyboardInterrupt) -> str:
    """Return how a message begins: ``interrupted``, and by which signal unless it was Ctrl-C."""
    number = getattr(error, "number", signal.SIGINT)
    return "interrupted" + ("" if number == signal.SIGINT else f" by {signal.Signals(number).name}")


def message(error: KeyboardInterrupt) -> str:
    """Return what an interrupted command reports: the signal, and what it has written."""
    kept = f" after {written[-1]} was written" if written else ", nothing was written"
    return describe(error) + kept


def note_written(path: Path) -> None:
    """Note that a file or folder is complete."""
    written.append(path)


def exit_code(error: KeyboardInterrupt) -> int:
    """Return 130 after SIGINT, 143 after SIGTERM, 129 after SIGHUP."""
    return 128 + int(getattr(error, "number", signal.SIGINT))


class _State:
    """What was received, and whether its exception still unwinds."""

    def __init__(self) -> None:
        self.installed: list[int] = []
        self.received: int | None = None
        self.raised: Callable[[], Interrupted | None] = lambda: None
        self.n_deferred = 0

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: remember the first, and raise its exception if that is possible."""
        if self.received is None:
            self.received = number
            if hasattr(signal, "setitimer"):
                signal.signal(signal.SIGALRM, lambda _, later: self.deliver(later))
                signal.setitimer(signal.ITIMER_REAL, _RETRY_SECONDS, _RETRY_SECONDS)
        self.deliver(frame)

    def deliver(self, frame: FrameType | None) -> None:
        """Raise the exception of the signal received, unless it unwinds already or has to wait."""
        if self.received is None or self.n_deferred or self.raised() or _is_initializing(frame):
            return
        error = Interrupted(self.received)
        self.raised = weakref.ref(error)
        try:
            raise error
        finally:
            del error  # its traceback would keep it alive, and it would count as unwinding


_state = _State()


def _is_initializing(frame: FrameType | None) -> bool:
    """Whether a frame was called by the initialization of an extension module.

    Modules of torch call initializers in C++ from their own code, so all of their imports count.
    """
    while frame is not None:
        if frame.f_code in _EXTENSION_CODE:
            return True
        if frame.f_code.co_name == "<module>":
            name = str(frame.f_globals.get("__name__"))
            if name.partition(".")[0] == "torch":
                return True
        frame = frame.f_back
    return False


def install() -> None:
    """Raise `Interrupted` for SIGINT, SIGTERM and SIGHUP; those that are ignored stay ignored."""
    for number in _NUMBERS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _state.receive)
            _state.installed.append(number)
    before = sys.unraisablehook

    def show(ignored: Any) -> None:
        if not issubclass(ignored.exc_type, Interrupted):  # it is raised again
            before(ignored)

    sys.unraisablehook = show


def ignore() -> None:
    """Ignore further signals, because the process ends; without `install` nothing changes."""
    for number in _state.installed:
        signal.signal(number, signal.SIG_IGN)
    _state.installed.clear()
    if _state.received is not None:
        _state.received = None
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def deferred() -> Iterator[None]:
    """Let a signal wait until the context is left, for steps that belong together."""
    _state.n_deferred += 1
    try:
        yield
    finally:
        _state.n_deferred -= 1
        if _state.n_deferred == 0:
            _state.deliver(None)


def check() -> None:
    """Raise the exception of a signal that was swallowed or ignored."""
    _state.deliver(None)
