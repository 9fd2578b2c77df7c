"""Progress of a measurement: a bar on a terminal, lines in a pipe or a log."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from distviz.interrupts import check
from distviz.output import counted, escape_streams, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar


class Progress:
    """What a measurement reports while it works; this base prints nothing."""

    def stage(self, text: str) -> None:
        """Report what starts now."""

    def note(self, text: str) -> None:
        """Report what a user must not miss; the bar stays."""

    def start(self, tokens: int, done: int = 0) -> None:
        """Report how many tokens pass through the model in all passes, and how many are done."""

    def step(self, text: str) -> None:
        """Report which part of the work is in progress, such as ``layer 3 of 30``."""

    def advance(self, tokens: int) -> None:
        """Report that so many more tokens have passed."""

    def stop(self) -> None:
        """Report the end, also after an error."""


class SharedProgress(Progress):
    """Reports to a bar, except for tokens: those are counted over all processes.

    Parameters
    ----------
    bar
        Where everything else is shown.
    count
        Called with the tokens that have passed in this process.
    """

    def __init__(self, bar: Progress, count: Callable[[int], Any]) -> None:
        self.stage, self.note = bar.stage, bar.note  # type: ignore[method-assign]
        self.start, self.stop = bar.start, bar.stop  # type: ignore[method-assign]
        self.step = bar.step  # type: ignore[method-assign]
        self._count = count

    def advance(self, tokens: int) -> None:
        """Report that so many more tokens have passed in this process."""
        self._count(tokens)


class PartProgress(Progress):
    """Reports one of several parts, such as a side of a comparison, under its name."""

    def __init__(self, bar: Progress, name: str) -> None:
        self.start, self.advance, self.stop = bar.start, bar.advance, bar.stop  # type: ignore[method-assign]
        self._bar, self._name = bar, name

    def stage(self, text: str) -> None:
        """Report what starts now in this part."""
        self._bar.stage(f"{self._name}: {text}")

    def note(self, text: str) -> None:
        """Report what a user must not miss about this part."""
        self._bar.note(f"{self._name}: {text}")

    def step(self, text: str) -> None:
        """Report which step of this part is done."""
        self._bar.step(text)


class TerminalProgress(Progress):
    """Shows on a terminal a bar, elsewhere a line every ten seconds.

    Both have what is done, in which step, how fast, and the time left; of a stage that counts no
    tokens, such as loading, how long it takes.

    Parameters
    ----------
    console
        On standard error.
    is_silent
        Whether only notes are printed.
    clock
        Returns seconds; the console's own by default.
    """

    def __init__(
        self,
        console: Console,
        *,
        is_silent: bool = False,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._console = console
        self._is_silent = is_silent
        self._clock = clock or console.get_time
        self._bar: Bar | None = None
        self._ticking: threading.Event | None = None
        self._work = _Work("", 0.0)
        self._printed = 0.0

    def stage(self, text: str) -> None:
        """Print what starts now."""
        self.stop()
        if not self._is_silent:
            self._print(text)
        self._open(_Work(text, self._clock()))

    def note(self, text: str) -> None:
        """Print a note above the bar, also where progress is silent."""
        self._console.print(f"distviz: {visible(text)}", soft_wrap=True, markup=False)

    def start(self, tokens: int, done: int = 0) -> None:
        """Count tokens from now on."""
        self.stop()
        self._open(_Work(self._work.stage, self._clock(), tokens, done, done))

    def step(self, text: str) -> None:
        """Show which step of the work is in progress."""
        self._work.step = text
        self._update()

    def advance(self, tokens: int) -> None:
        """Move the bar and update speed and time left.

        Raises
        ------
        KeyboardInterrupt
            If a library swallowed one, see `distviz.interrupts`.
        """
        check()
        self._work.done += tokens
        self._update()

    def stop(self) -> None:
        """Close the bar; also after an error."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self._ticking is not None:
            self._ticking.set()
            self._ticking = None

    def tick(self) -> None:
        """Print a line about the work if ten seconds have passed since the last one."""
        now = self._clock()
        if now - self._printed >= INTERVAL:
            self._printed = now
            self._print(self._work.line(now))

    def _print(self, text: str) -> None:
        self._console.print(visible(text), style="dim", soft_wrap=True, markup=False)

    def _open(self, work: _Work) -> None:
        """Show a bar, or begin to print lines."""
        self._work, self._printed = work, work.began
        if self._is_silent:
            return
        if not self._console.is_terminal:
            self._ticking = threading.Event()
            ticking = (self._ticking, self.tick)
            threading.Thread(target=_tick_until, args=ticking, daemon=True).start()
        elif work.total:
            self._bar = _bar_on(self._console)
            self._bar.add_task("", total=work.total, speed="", step="")
            self._bar.advance(_TASK, work.done)  # the start of the time that speed is measured in
            self._bar.start()
            escape_streams()  # rich has replaced them by its own

    def _update(self) -> None:
        if self._bar is None:
            return
        task = self._bar.tasks[_TASK]
        self._bar.advance(_TASK, self._work.done - task.completed)
        speed = _speed(task.speed) if task.speed else ""
        self._bar.update(_TASK, speed=speed, step=visible(self._work.step))


INTERVAL = 10.0
"""Seconds between the lines of a progress that has no terminal."""
_TASK: Any = 0


@dataclass
class _Work:
    """A stage, since when it goes on, and its tokens."""

    stage: str
    began: float
    total: int = 0
    done: int = 0
    saved: int = 0
    step: str = ""

    def line(self, now: float) -> str:
        """Return what is done after some time, of how much, how fast, and the time left."""
        seconds = now - self.began
        if not self.total:
            return f"{self.stage}: {seconds:.0f} s"
        share = f"{100 * self.done / self.total:.0f} %"
        words = [f"{self.done:,} of {counted(self.total, 'token')} ({share})"]
        new = self.done - self.saved
        if new > 0 and seconds > 0:
            left = timedelta(seconds=round((self.total - self.done) * seconds / new))
            words += [_speed(new / seconds), f"{left} left"]
        return f"{self.stage}: {', '.join(filter(None, [*words, self.step]))}"


def _speed(tokens: float) -> str:
    return f"{counted(f'{tokens:,.0f}', 'token')}/s"


def _tick_until(ended: threading.Event, tick: Callable[[], None]) -> None:
    while not ended.wait(min(INTERVAL / 10, 1.0)):
        tick()


def _bar_on(console: Console) -> Bar:
    from rich import progress

    return progress.Progress(
        progress.TextColumn("{task.fields[step]}"),
        progress.BarColumn(bar_width=None),
        progress.TextColumn("{task.completed:,.0f}/{task.total:,.0f} tokens"),
        progress.TextColumn("{task.fields[speed]}"),
        progress.TimeRemainingColumn(),
        console=console,
        transient=True,
        # The mean since the start: a batch may take longer than rich's usual 30 seconds.
        speed_estimate_period=math.inf,
    )
