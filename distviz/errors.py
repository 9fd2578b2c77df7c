"""The errors that a user sees: one or two lines, and the exit code that belongs to them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DistvizError(Exception):
    """Base of every error that distviz raises on purpose.

    Parameters
    ----------
    message
        What was given and what is allowed, one line, no trailing full stop needed.
    hint
        What to do next, one line; may be empty.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class RequestError(DistvizError):
    """The request cannot be carried out as given; known before the first forward pass (exit 2)."""

    exit_code = 2


class MeasurementError(DistvizError):
    """The measurement failed while it was running (exit 1)."""

    exit_code = 1


class InterruptedRunError(DistvizError):
    """A signal stopped a measurement of which a part is kept (exit 130, 143 or 129)."""

    def __init__(self, message: str, hint: str = "", exit_code: int = 130) -> None:
        super().__init__(message, hint)
        self.exit_code = exit_code


def nearest(word: str, allowed: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the closest allowed word, or an empty string."""
    found = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.5)
    return f" (did you mean '{found[0]}'?)" if found else ""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message; the name of its class if it has none.

    A line that ends in a colon is joined with the next one.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])
