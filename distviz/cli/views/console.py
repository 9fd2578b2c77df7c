"""What all texts on the terminal share: ASCII where the console asks for it, breaks, tables."""

from __future__ import annotations

import textwrap
import unicodedata
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD, Box
from rich.table import Table
from rich.text import Text

from distviz.cli.views.plain_text import PLAIN, is_unicode_name

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["is_unicode", "paragraph", "plain_table", "write"]

_RULED_ASCII = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
_PLAIN = str.maketrans(PLAIN)


def is_unicode(console: Console | None) -> bool:
    """Tell whether the console's encoding is a Unicode one; None is a standard terminal."""
    return console is None or is_unicode_name(console.encoding)


def write(text: str, console: Console | None = None) -> str:
    """Numbers with a plain minus, everything in ASCII where the console asks for it."""
    if is_unicode(console):
        return text.replace("−", "-")
    parts = unicodedata.normalize("NFKD", text.translate(_PLAIN))
    bare = "".join(part for part in parts if not unicodedata.combining(part))
    return bare.encode("ascii", "replace").decode()


def paragraph(
    text: str, console: Console | None = None, *, style: str = "", indent: int = 0
) -> Text:
    """Return a text broken into lines as wide as the console; a number keeps its unit."""
    width = console.width if console else 80
    if len(text) <= width:
        return Text(write(text, console), style=style)
    kept = text.replace(" %", "\N{NO-BREAK SPACE}%")
    lines = textwrap.wrap(
        kept, width, subsequent_indent=" " * indent, break_on_hyphens=False, drop_whitespace=True
    )
    return Text(write("\n".join(lines).replace("\N{NO-BREAK SPACE}", " "), console), style=style)


def plain_table(console: Console | None = None) -> Table:
    """Return an empty table with a rule below its head."""
    box = SIMPLE_HEAD if is_unicode(console) else _RULED_ASCII
    return Table(box=box, padding=(0, 1, 0, 0), pad_edge=False)
