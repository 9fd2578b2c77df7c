"""What distviz writes to the terminal; no other module prints.

Names, paths, settings, token texts and the messages of other libraries may hold control characters
that colour a terminal, set its title, delete a line or reorder text. They are shown as escapes,
such as a backslash and ``x1b``; only the styles of our own consoles are written as they are.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import sys
import unicodedata
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

ASCII = {
    "−": "-",
    "–": "-",
    "→": "->",
    "·": "|",
    "…": "...",
    "ε": "eps",
    "Δ": "d",
    "×": "x",
    "“": '"',
    "”": '"',
    "‖": "||",
}
"""ASCII for the characters that texts and tables use."""
_SAME_WIDTH = ASCII | {"…": "~", "→": ">", "─": "-", "━": "-", "│": "|", "█": "#", "•": "*"}
"""Mostly one character each, so that tables keep their columns."""
_HANDLER = "distviz.ascii"
_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories: control, format (bidirectional, zero-width), surrogate, line separators."""
_MOST = 2000
"""Characters of a line of an error; the middle of a longer one is left out."""
_ONE_NAME = re.compile(r"\d+( \([^()]*\))?")
_SIBILANTS = ("s", "x", "z", "ch", "sh")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_CURSOR = re.compile(r"[\r\n]*(\x1b\[A)*|\r[^\x00-\x1f\x7f-\x9f]*")
"""How other libraries move the cursor to draw their progress bars."""


def visible(text: str) -> str:
    """Return a text as one line: control characters and line breaks as escapes."""
    return text if text.isprintable() else re.sub(r"[^ -~]", _escaped, text)


def without_controls(data: Any) -> Any:
    """Return plain data with the control characters of its texts as escapes, but line breaks."""
    if isinstance(data, str):
        return data if data.isprintable() else _CONTROL.sub(_escaped, data)
    if isinstance(data, dict):
        return {without_controls(name): without_controls(value) for name, value in data.items()}
    return [without_controls(one) for one in data] if isinstance(data, list) else data


def _escaped(found: re.Match[str]) -> str:
    if unicodedata.category(found[0]) not in _INVISIBLE:
        return found[0]
    return found[0].encode("unicode_escape").decode()


def visible_lines(text: str) -> str:
    """Return a text of several lines, each as `visible` returns it."""
    return "\n".join(map(visible, text.split("\n")))


# Counts with their nouns; every message with a count uses these. ----------------------------------


def counted(count: float | str, noun: str) -> str:
    """Return a count with its noun, such as ``1 layer`` or ``2,048 tokens``.

    Parameters
    ----------
    count
        A string is a number that is already formatted.
    noun
        In the singular; words before it may qualify it, such as ``own token``.
    """
    text = count if isinstance(count, str) else f"{count:,}"
    return f"{text} {noun if text == '1' else plural(noun)}"


def listed(noun: str, names: str) -> str:
    """Return ``layer 0``, ``layer 0 (5 %)`` or ``layers 0, 2``; ``all`` and ranges are lists."""
    return f"{noun if _ONE_NAME.fullmatch(names) else plural(noun)} {names}"


def first_of(names: Sequence[str], most: int = 1) -> str:
    """Return the first names and the number of the others: ``a.txt, b.txt and 3 more``."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def plural(noun: str) -> str:
    """Return the plural of a noun."""
    if noun.endswith(_SIBILANTS):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"


# Streams ------------------------------------------------------------------------------------


class _EscapedStream:
    """A text stream that shows control characters as escapes, whoever writes to it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def rich_proxied_file(self) -> TextIO:
        """The stream itself, to which consoles of rich write."""
        found: Any = self._stream
        while hasattr(found, "rich_proxied_file"):  # rich wraps streams while it shows a bar
            found = found.rich_proxied_file
        return found  # type: ignore[no-any-return]

    def write(self, text: str) -> int:
        is_cursor = _CURSOR.fullmatch(text) is not None
        self._stream.write(text if is_cursor else visible_lines(text.expandtabs()))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def escape_streams() -> None:
    """Show the control characters of all that is written to standard output and error.

    Where an encoding is not a Unicode one, other characters are replaced by ASCII or escapes.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or isinstance(stream, _EscapedStream):
            continue
        if hasattr(stream, "reconfigure") and not is_unicode_name(stream.encoding):
            stream.reconfigure(errors=_HANDLER)
        setattr(sys, name, _EscapedStream(stream))


def is_unicode_name(encoding: str | None) -> bool:
    """Return whether an encoding has every character."""
    return (encoding or "").lower().replace("_", "-").startswith("utf")


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    shown = [
        _SAME_WIDTH.get(one) or one.encode("ascii", "backslashreplace").decode() for one in missing
    ]
    return "".join(shown), error.end


codecs.register_error(_HANDLER, _replace)


# Printing -----------------------------------------------------------------------------------


def print_lines(*lines: object) -> None:
    """Print each of these as one line on standard output."""
    print("\n".join(visible(str(line)) for line in lines))


def print_text(text: str, *, stderr: bool = False) -> None:
    """Print a text of several lines."""
    print(visible_lines(text), file=sys.stderr if stderr else sys.stdout)


def print_json(data: Any) -> None:
    """Print one JSON object on standard output; what would be invisible is escaped."""
    is_ascii = not is_unicode_name(sys.stdout.encoding)
    text = json.dumps(data, ensure_ascii=is_ascii, allow_nan=False)
    print(text if text.isprintable() else re.sub(r"[^ -~]", _json_escaped, text))


def _json_escaped(found: re.Match[str]) -> str:
    is_invisible = unicodedata.category(found[0]) in _INVISIBLE
    return json.dumps(found[0])[1:-1] if is_invisible else found[0]


def print_error(message: str, hint: str = "") -> None:
    """Print an error or warning on standard error: one line, and a second with what to do next."""
    lines = [f"distviz: {_shortened(message)}"] + ([f"  {_shortened(hint)}"] if hint else [])
    sys.stderr.write("".join(f"{visible(line)}\n" for line in lines))
    sys.stderr.flush()


def _shortened(text: str) -> str:
    if len(text) <= _MOST:
        return text
    half = _MOST // 2
    return f"{text[:half]} … ({counted(len(text) - 2 * half, 'character')}) … {text[-half:]}"


def console(*, stderr: bool = False) -> Console:
    """Return a console of rich without markup, which shows control characters as escapes.

    A pipe or a file has no width: it gets each line of a table whole, so that ``grep`` finds a row
    with all its numbers, and a log holds them. The variable ``COLUMNS`` sets a width.
    """
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    file = getattr(stream, "rich_proxied_file", stream)
    made = Console(file=file, markup=False, emoji=False, highlight=False)
    made.soft_wrap = not (made.is_terminal or os.environ.get("COLUMNS", "").isdecimal())
    made.push_render_hook(_Escaping(made))  # type: ignore[arg-type]
    return made


class _Escaping:
    """A render hook of rich's consoles that escapes the text of all segments."""

    def __init__(self, target: Console) -> None:
        self._console = target

    def process_renderables(self, renderables: list[RenderableType]) -> list[Any]:
        return [_Escaped(self._console, one) for one in renderables]


class _Escaped:
    def __init__(self, target: Console, renderable: RenderableType) -> None:
        self._console, self._renderable = target, renderable

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in self._console.render(self._renderable, options):
            text = segment.text if segment.control else visible_lines(segment.text)
            yield segment._replace(text=text)
