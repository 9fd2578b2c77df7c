"""Text on the terminal: ASCII replacements for narrow encodings, line breaks, tables, cells.

Consoles and pipes whose encoding is not a Unicode one get ASCII.
"""

from __future__ import annotations

import codecs
import textwrap
import unicodedata
from typing import TYPE_CHECKING, TextIO

from distviz import results

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

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
_TRANSLATION = str.maketrans(ASCII)
_HANDLER = "distviz.ascii"
_ASCII_RULE = "    \n    \n -- \n    \n    \n    \n    \n    \n"


def is_unicode_name(encoding: str | None) -> bool:
    """Return whether an encoding has every character."""
    return (encoding or "").lower().replace("_", "-").startswith("utf")


def is_unicode(console: Console | None) -> bool:
    """Return whether a console prints every character; None is a standard terminal."""
    return console is None or is_unicode_name(console.encoding)


def width_of(console: Console | None) -> int:
    """Return the columns of a console; a standard terminal has 80."""
    return console.width if console else 80


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    shown = [
        _SAME_WIDTH.get(one) or one.encode("ascii", "backslashreplace").decode() for one in missing
    ]
    return "".join(shown), error.end


codecs.register_error(_HANDLER, _replace)


def replace_unencodable(*streams: TextIO) -> None:
    """Make streams of narrow encodings write ASCII or escapes for characters that they lack."""
    for stream in streams:
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None and not is_unicode_name(stream.encoding):
            reconfigure(errors=_HANDLER)


def encode(text: str, console: Console | None = None) -> str:
    """Return a text with plain minus signs, in ASCII if the console is not a Unicode one."""
    if is_unicode(console):
        return text.replace("−", "-")
    parts = unicodedata.normalize("NFKD", text.translate(_TRANSLATION))
    bare = "".join(part for part in parts if not unicodedata.combining(part))
    return bare.encode("ascii", "replace").decode()


def paragraph(
    text: str, console: Console | None = None, *, style: str = "", indent: int = 0
) -> Text:
    """Return a text wrapped to the console's width; a number keeps its unit."""
    from rich.text import Text

    width = width_of(console)
    if len(text) > width:
        joined = text.replace(" %", "\N{NO-BREAK SPACE}%")
        lines = textwrap.wrap(joined, width, subsequent_indent=" " * indent, break_on_hyphens=False)
        text = "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ")
    return Text(encode(text, console), style=style)


def plain_table(console: Console | None = None) -> Table:
    """Return an empty table with a rule below its header."""
    from rich.box import SIMPLE_HEAD, Box
    from rich.table import Table

    box = SIMPLE_HEAD if is_unicode(console) else Box(_ASCII_RULE, ascii=True)
    return Table(box=box, padding=(0, 1, 0, 0), pad_edge=False)


def percent_cell(share: float | None) -> str:
    """Format a fraction as a percentage for a table, without spaces."""
    return results.percent(share).replace(" ", "")
