"""Text of tables and paragraphs: ASCII for narrow encodings, line breaks, cells.

Consoles and pipes whose encoding is not a Unicode one get ASCII.
"""

from __future__ import annotations

import textwrap
import unicodedata
from typing import TYPE_CHECKING

from distviz import results
from distviz.output import ASCII, is_unicode_name, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

_TRANSLATION = str.maketrans(ASCII)
_ASCII_RULE = "    \n    \n -- \n    \n    \n    \n    \n    \n"


def is_unicode(console: Console | None) -> bool:
    """Return whether a console prints every character; None is a standard terminal."""
    return console is None or is_unicode_name(console.encoding)


def width_of(console: Console | None) -> int:
    """Return the columns of a console; a standard terminal has 80."""
    return console.width if console else 80


def encode(text: str, console: Console | None = None) -> str:
    """Return a text as one line with plain minus signs, in ASCII where the console needs it.

    Control characters and line breaks are shown as escapes.
    """
    text = visible(text)
    if is_unicode(console):
        return text.replace("−", "-")
    parts = unicodedata.normalize("NFKD", text.translate(_TRANSLATION))
    bare = "".join(part for part in parts if not unicodedata.combining(part))
    return bare.encode("ascii", "replace").decode()


def encode_lines(text: str, console: Console | None = None) -> str:
    """Return a text of several lines, each as `encode` returns it."""
    return "\n".join(encode(line, console) for line in text.split("\n"))


def paragraph(
    text: str, console: Console | None = None, *, style: str = "", indent: int = 0
) -> Text:
    """Return a text wrapped to the console's width; a number keeps its unit."""
    from rich.text import Text

    width, lines = width_of(console), [visible(text)]
    if len(lines[0]) > width:
        joined = lines[0].replace(" %", "\N{NO-BREAK SPACE}%")
        lines = textwrap.wrap(joined, width, subsequent_indent=" " * indent, break_on_hyphens=False)
        lines = [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]
    return Text(encode_lines("\n".join(lines), console), style=style)


def plain_table(console: Console | None = None) -> Table:
    """Return an empty table with a rule below its header."""
    from rich.box import SIMPLE_HEAD, Box
    from rich.table import Table

    box = SIMPLE_HEAD if is_unicode(console) else Box(_ASCII_RULE, ascii=True)
    return Table(box=box, padding=(0, 1, 0, 0), pad_edge=False)


def percent_cell(share: float | None) -> str:
    """Format a fraction as a percentage for a table, without spaces."""
    return results.percent(share).replace(" ", "")
