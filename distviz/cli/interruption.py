"""What is kept of a measuring command that does not come to its end, and how to go on with it."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distviz.cli.checks import state_folder
from distviz.errors import InterruptedRunError, RequestError
from distviz.measure import CheckpointFolder, current
from distviz.progress import Progress
from distviz.settings import RunSettings

__all__ = ["kept_work"]


@contextmanager
def kept_work(
    out: Path, settings: RunSettings, progress: Progress, *, of_parts: bool = False
) -> Iterator[CheckpointFolder]:
    """Give the states of a measurement, and remove them when it has come to its end.

    Whatever else ends it, what is kept is told, with the command that goes on.

    Parameters
    ----------
    out
        The folder of the result; the states lie beside it.
    of_parts
        Whether the measurement keeps several parts, each in a folder of its own; then it is told
        here, once, that there is nothing to resume.

    Raises
    ------
    InterruptedRunError
        Where it is interrupted and something is kept.
    """
    states = state_folder(out, settings)
    if states.exists() and not settings.resume:
        states.remove()
    try:
        if of_parts and states.resumes and not states.exists() and current().is_first:
            progress.note(f"nothing to resume in {states.folder}, starting afresh")
        yield states
    except KeyboardInterrupt:
        progress.stop()
        if not states.exists():
            raise
        raise InterruptedRunError(
            f"interrupted, {_kept(states)}", f"go on with: {_command_to_go_on(out)}"
        ) from None
    except Exception as error:
        progress.stop()
        if states.exists() and not isinstance(error, RequestError):
            progress.note(_how_to_go_on(states, out))
        raise
    finally:
        progress.stop()
    states.remove()


def _kept(states: CheckpointFolder) -> str:
    part = f"{states.share:.0%} of the work" if states.share else "a part of the work"
    return f"{part} is kept in {states.folder}"


def _how_to_go_on(states: CheckpointFolder, out: Path) -> str:
    if not states.exists():
        return ""
    return f"{_kept(states)}, go on with: {_command_to_go_on(out)}"


def _command_to_go_on(out: Path) -> str:
    words = ["distviz", *sys.argv[1:]]
    if current().size > 1:
        return "the same command and --resume"
    if not any(re.match(r"(--out|-o)(=|$)", word) for word in words):
        words += ["--out", str(out)]
    return shlex.join(words + ["--resume"] * ("--resume" not in words))
