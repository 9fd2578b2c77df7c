"""The progress bar on a terminal."""

from __future__ import annotations

import io
import signal
from typing import Any

import pytest
from rich.console import Console

from distviz import interrupts
from distviz.progress import Progress, SharedProgress, TerminalProgress


def shown(bar: TerminalProgress, out: io.StringIO) -> str:
    inner: Any = bar._bar
    inner.refresh()
    return out.getvalue().splitlines()[-1]


def test_time_left_is_shown_from_the_first_batch_on() -> None:
    """Also where a batch takes minutes, and where a part was measured before."""
    now = [100.0]
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, get_time=lambda: now[0])
    bar = TerminalProgress(console)
    bar.start(1000, 400)  # saved by an interrupted run
    assert "-:--:--" in shown(bar, out)
    now[0] += 120.0
    bar.advance(60)
    line = shown(bar, out)
    assert "0:18:00" in line  # 540 tokens at half a token a second
    assert "460/1,000 tokens" in line
    bar.stop()


def test_silent_progress_still_prints_notes() -> None:
    out = io.StringIO()
    bar = TerminalProgress(Console(file=out, force_terminal=True), is_silent=True)
    bar.stage("loading")
    bar.start(10)
    bar.advance(5)
    bar.note("a warning")
    bar.stop()
    assert out.getvalue() == "distviz: a warning\n"


def test_without_a_terminal_there_is_no_bar() -> None:
    stream = io.StringIO()
    bar = TerminalProgress(Console(file=stream))
    bar.stage("measuring")
    bar.start(10)
    bar.advance(5)
    bar.stop()
    assert stream.getvalue() == "measuring\n"


def test_shared_progress_counts_elsewhere() -> None:
    class Seen(Progress):
        def __init__(self) -> None:
            self.calls: list[object] = []

        def stage(self, text: str) -> None:
            self.calls.append(text)

        def start(self, tokens: int, done: int = 0) -> None:
            self.calls.append((tokens, done))

        def advance(self, tokens: int) -> None:
            raise AssertionError(tokens)

    seen, counted = Seen(), []
    shared = SharedProgress(seen, counted.append)
    shared.stage("measuring")
    shared.start(10, 2)
    shared.advance(8)
    assert (seen.calls, counted) == (["measuring", (10, 2)], [8])


def test_the_next_batch_raises_an_interruption_that_was_swallowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = interrupts._State()
    monkeypatch.setattr(interrupts, "_state", state)
    bar = TerminalProgress(Console(file=io.StringIO()), is_silent=True)
    bar.advance(5)
    state.received = signal.SIGINT
    with pytest.raises(KeyboardInterrupt):
        bar.advance(5)
