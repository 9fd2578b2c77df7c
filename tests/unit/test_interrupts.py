"""Signals become one exception, at a moment at which nothing is left half-done."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from distviz import interrupts

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals differ")

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The handlers of the command, in this process."""
    before = {name: signal.getsignal(getattr(signal, name)) for name in (*SIGNALS, "SIGALRM")}
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(interrupts, "_state", interrupts._State())
    monkeypatch.setattr(interrupts, "written", [])
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    interrupts.install()
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    for name, handler in before.items():
        signal.signal(getattr(signal, name), handler)


def send(name: str = "SIGTERM") -> None:
    os.kill(os.getpid(), getattr(signal, name))


@contextlib.contextmanager
def raised(name: str = "SIGTERM") -> Iterator[pytest.ExceptionInfo[interrupts.Interrupted]]:
    """Expect the exception, and end its repetition before it is gone: it would end the session."""
    with pytest.raises(interrupts.Interrupted, match=name) as caught:
        yield caught
    signal.setitimer(signal.ITIMER_REAL, 0)
    interrupts._state.received = None


@pytest.mark.parametrize(
    ("name", "code", "text"),
    [
        ("SIGINT", 130, "interrupted"),
        ("SIGTERM", 143, "interrupted by SIGTERM"),
        ("SIGHUP", 129, "interrupted by SIGHUP"),
    ],
)
def test_a_signal_has_an_exit_code_and_a_message(name: str, code: int, text: str) -> None:
    with raised(name) as caught:
        send(name)
    assert interrupts.exit_code(caught.value) == code
    assert interrupts.message(caught.value) == f"{text}, nothing was written"
    interrupts.note_written(Path("runs/a"))
    assert interrupts.message(caught.value) == f"{text} after runs/a was written"


def test_ctrl_c_without_handlers_has_the_same_message() -> None:
    assert interrupts.exit_code(KeyboardInterrupt()) == 130
    assert interrupts.message(KeyboardInterrupt()) == "interrupted, nothing was written"


def test_further_signals_are_ignored_while_the_first_unwinds() -> None:
    steps = []

    def work() -> None:
        try:
            send("SIGHUP")
        finally:
            for name in SIGNALS * 3:
                send(name)
            time.sleep(0.15)
            steps.append("cleaned up")

    with raised("SIGHUP"):
        work()
    assert steps == ["cleaned up"]


def test_a_critical_section_ends_first() -> None:
    steps = []

    def work() -> None:
        with interrupts.deferred():
            with interrupts.deferred():
                send()
            time.sleep(0.15)
            steps.append("in")
        steps.append("after")

    with raised():
        work()
    assert steps == ["in"]


def test_an_extension_module_is_initialized_first(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []

    class Imp:
        @staticmethod
        def exec_dynamic(_module: ModuleType) -> None:
            send()
            time.sleep(0.15)
            steps.append("initialized")

    monkeypatch.setitem(ExtensionFileLoader.exec_module.__globals__, "_imp", Imp)
    module = ModuleType("fast")
    module.__spec__ = ModuleSpec("fast", None)

    def load() -> None:
        ExtensionFileLoader("fast", "fast.so").exec_module(module)
        time.sleep(1)

    with raised():
        load()
    assert steps == ["initialized"]


@pytest.mark.parametrize(("name", "is_complete"), [("torch.autograd", True), ("torchlike", False)])
def test_the_import_of_torch_is_completed(name: str, is_complete: bool) -> None:
    steps: list[str] = []
    code = compile("send(); sleep(0.15); steps.append('imported')", name, "exec")
    scope = {"__name__": name, "send": send, "sleep": time.sleep, "steps": steps}

    def load() -> None:
        exec(code, scope)
        time.sleep(1)

    with raised():
        load()
    assert bool(steps) is is_complete


def test_what_a_library_swallows_is_raised_again() -> None:
    def work() -> None:
        with contextlib.suppress(BaseException):
            send()
        time.sleep(1)

    with raised():
        work()


def test_what_is_ignored_in_a_destructor_is_raised_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Signalled:
        def __del__(self) -> None:
            send()

    def work() -> None:
        Signalled()
        time.sleep(1)

    with raised():
        work()
    assert capsys.readouterr().err == ""


def test_nothing_is_raised_once_the_exit_code_is_decided() -> None:
    with interrupts.deferred():
        send()
        interrupts.ignore()
    for name in SIGNALS:
        send(name)
    time.sleep(0.1)
    interrupts.check()


def test_an_ignored_signal_stays_ignored() -> None:
    """As ``nohup`` starts a command."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    interrupts.install()
    send("SIGHUP")
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_an_import_installs_nothing() -> None:
    names = ", ".join(f"signal.{name}" for name in SIGNALS)
    show = f"print([signal.getsignal(one) for one in ({names})])"
    code = f"import signal; {show}; import distviz, distviz.cli; distviz.Run; {show}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = done.stdout.splitlines()
    assert before == after
