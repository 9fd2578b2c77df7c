"""Progress of a measurement on a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

__all__ = ["ForwardedProgress", "Progress", "TerminalProgress"]


class Progress:
    """What a measurement tells while it works; this base says nothing."""

    def stage(self, text: str) -> None:
        """Say what is being done."""

    def note(self, text: str) -> None:
        """Say what a user must not miss; the bar goes on."""

    def start(self, tokens: int) -> None:
        """Say how many tokens will pass through the model, all passes together."""

    def advance(self, tokens: int) -> None:
        """Say that so many more have passed."""

    def stop(self) -> None:
        """Say that it is over, also after an error."""


class ForwardedProgress(Progress):
    """Tells another process how far this one is, and says nothing itself."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell = tell

    def advance(self, tokens: int) -> None:
        """Say that so many more have passed."""
        self._tell(tokens)


class TerminalProgress(Progress):
    """A bar with tokens, tokens a second and time left; plain lines where there is no terminal."""

    def __init__(self, console: Console, *, is_silent: bool = False) -> None:
        self._console = console
        self._is_silent = is_silent
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def stage(self, text: str) -> None:
        """Say what is being done."""
        self.stop()
        if not self._is_silent:
            self._console.print(text, style="dim", soft_wrap=True)

    def note(self, text: str) -> None:
        """Say it above the bar, also where progress is silent."""
        self._console.print(f"distviz: {text}", soft_wrap=True)

    def start(self, tokens: int) -> None:
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
        self._bar.start()

    def advance(self, tokens: int) -> None:
        """Move the bar on; any thread may."""
        bar, task = self._bar, self._task
        if bar is None or task is None:
            return
        bar.advance(task, tokens)
        speed = bar.tasks[0].speed
        bar.update(task, speed=f"{speed:,.0f} tokens/s" if speed else "")

    def stop(self) -> None:
        """Close the bar; also after an error."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
