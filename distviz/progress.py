"""Progress of a measurement on a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from distviz.interrupts import check
from distviz.output import counted, escape_streams, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import TaskID


class Progress:
    """What a measurement reports while it works; this base prints nothing."""

    def stage(self, text: str) -> None:
        """Report what starts now."""

    def note(self, text: str) -> None:
        """Report what a user must not miss; the bar stays."""

    def start(self, tokens: int, done: int = 0) -> None:
        """Report how many tokens pass through the model in all passes, and how many are done."""

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
        self._count = count

    def advance(self, tokens: int) -> None:
        """Report that so many more tokens have passed in this process."""
        self._count(tokens)


class TerminalProgress(Progress):
    """A bar with tokens, speed and time left; without a terminal only what starts is printed."""

    def __init__(self, console: Console, *, is_silent: bool = False) -> None:
        self._console = console
        self._is_silent = is_silent
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def stage(self, text: str) -> None:
        """Print what starts now."""
        self.stop()
        if not self._is_silent:
            self._console.print(visible(text), style="dim", soft_wrap=True, markup=False)

    def note(self, text: str) -> None:
        """Print a note above the bar, also where progress is silent."""
        self._console.print(f"distviz: {visible(text)}", soft_wrap=True, markup=False)

    def start(self, tokens: int, done: int = 0) -> None:
        """Open the bar."""
        from rich import progress

        if self._is_silent or not self._console.is_terminal:
            return
        self._bar = progress.Progress(
            progress.BarColumn(bar_width=None),
            progress.TextColumn("{task.completed:,.0f}/{task.total:,.0f} tokens"),
            progress.TextColumn("{task.fields[speed]}"),
            progress.TimeRemainingColumn(),
            console=self._console,
            transient=True,
            # The mean since the start: a batch may take longer than rich's usual 30 seconds.
            speed_estimate_period=math.inf,
        )
        self._task = self._bar.add_task("", total=tokens, speed="")
        self._bar.advance(self._task, done)  # the start of the time that speed is measured in
        self._bar.start()
        escape_streams()  # rich has replaced them by its own

    def advance(self, tokens: int) -> None:
        """Move the bar and update speed and time left.

        Raises
        ------
        KeyboardInterrupt
            If a library swallowed one, see `distviz.interrupts`.
        """
        check()
        bar, task = self._bar, self._task
        if bar is None or task is None:
            return
        bar.advance(task, tokens)
        speed = bar.tasks[0].speed
        bar.update(task, speed=f"{counted(f'{speed:,.0f}', 'token')}/s" if speed else "")

    def stop(self) -> None:
        """Close the bar; also after an error."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
