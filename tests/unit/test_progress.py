"""The progress: a bar on a terminal, lines in a pipe."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from distviz import interrupts
from distviz.progress import PartProgress, Progress, SharedProgress, TerminalProgress


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


def test_a_log_gets_a_line_every_ten_seconds() -> None:
    now = [100.0]
    stream = io.StringIO()
    bar = TerminalProgress(Console(file=stream, width=40), clock=lambda: now[0])

    def after(seconds: float) -> str:
        before = stream.tell()
        now[0] += seconds
        bar.tick()
        return stream.getvalue()[before:]

    bar.stage("loading the model")
    assert after(9.9) == ""
    assert after(0.2) == "loading the model: 10 s\n"
    bar.stage("measuring")
    bar.start(10_000, 4_000)  # saved by an interrupted run
    bar.step("pass 2 of 2: with ARM")
    assert after(9.9) == ""
    assert after(0.1) == "measuring: 4,000 of 10,000 tokens (40 %), pass 2 of 2: with ARM\n"
    bar.advance(2_000)
    assert after(5) == ""
    assert after(5) == (
        "measuring: 6,000 of 10,000 tokens (60 %), 100 tokens/s, 0:00:40 left, "
        "pass 2 of 2: with ARM\n"
    )
    bar.stop()


def test_a_part_has_its_name_and_the_bar_its_step() -> None:
    out = io.StringIO()
    bar = TerminalProgress(Console(file=out, force_terminal=True, width=100))
    part = PartProgress(bar, "B")
    part.stage("measuring")
    part.note("a warning")
    part.start(10)
    part.step("layer 3 of 30")
    part.advance(5)
    line = shown(bar, out)
    assert "layer 3 of 30" in line
    assert "5/10 tokens" in line
    part.stop()
    assert "B: measuring" in out.getvalue()
    assert "distviz: B: a warning" in out.getvalue()


_SLOW = """
import sys, time
from distviz import progress
progress.INTERVAL = 0.05
from distviz.measure import forward
whole = forward.measure_batch
def measure_batch(*given):
    whole(*given)
    time.sleep(0.2)
from distviz.measure import measurement
measurement.measure_batch = measure_batch
from distviz.cli.process import main
main()
"""


@pytest.mark.parametrize("quiet", [False, True])
def test_a_process_in_a_pipe_prints_lines_to_standard_error(tmp_path: Path, quiet: bool) -> None:
    words = ["run", "--max-tokens", "200", "--batch-size", "1", "--no-figures"]
    done = subprocess.run(
        [sys.executable, "-c", _SLOW, *words, "--out", tmp_path / "r", *["-q"] * quiet],
        capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL, encoding="utf-8",
    )  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if line.startswith("measuring: ")]
    assert bool(lines) is not quiet
    assert all(" of 400 tokens (" in line for line in lines)
    assert "measuring" not in done.stdout
    assert done.stderr.count("--max-tokens 200 left part of the text out") == 1


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
