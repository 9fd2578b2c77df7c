"""Text of tables and paragraphs: ASCII for narrow encodings, line breaks, cells.

Consoles and pipes whose encoding is not a Unicode one get ASCII. A table that is wider than its
console leaves out whole columns and says which; no number is ever cut.
"""

from __future__ import annotations

import re
import sys
import textwrap
import unicodedata
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from distviz import results
from distviz.cli.help import wrap_command
from distviz.output import ASCII, counted, is_unicode_name, visible
from distviz.stats import ALPHA

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.box import Box
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table
    from rich.text import Text

_TRANSLATION = str.maketrans(ASCII)
_GLUED = re.compile(r" (?=[=%/]|(?:nats|dB|bits|[KMG]?B)\b)|(?<=[=/]) |(?<=\d,) (?=[-+−\d.]+\])")
"""Spaces at which no line ends: within an assignment, an interval, before a unit."""
_NAME = 16
"""Characters of a name that are kept before a column of numbers is."""
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
    """Return a text wrapped between words to the console's width; a number keeps its unit."""
    width, lines = width_of(console), [encode(text, console)]
    if len(lines[0]) > width:
        joined = _GLUED.sub("\N{NO-BREAK SPACE}", lines[0])
        indented = " " * indent
        wrap = textwrap.TextWrapper(
            width, subsequent_indent=indented, break_on_hyphens=False, break_long_words=False
        )
        lines = [line.replace("\N{NO-BREAK SPACE}", " ") for line in wrap.wrap(joined)]
    return _unwrapped("\n".join(lines), style)


def _unwrapped(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(text, style=style, no_wrap=True, overflow="ignore")


def command(line: str, console: Console | None = None) -> Text:
    """Return a command line, broken between options with backslashes where it is too long."""
    is_whole = len(line) <= width_of(console) or (console is not None and console.soft_wrap)
    lines = [line] if is_whole else wrap_command(line, width_of(console))
    return _unwrapped(encode_lines("\n".join(lines), console))


def percent_cell(share: float | None) -> str:
    """Format a fraction as a percentage for a table, without spaces."""
    return results.percent(share).replace(" ", "")


def p_cell(p: float | None) -> str:
    """Format an adjusted p-value for a table, with a star where it is significant."""
    if p is None:
        return "–"
    return f"{p:.3f}{'*' if p < ALPHA else ' '}" if p >= 5e-4 else "<0.001*"


def shortened(name: str, width: int, gap: str = "…") -> str:
    """Return a name of at most ``width`` characters, its middle left out; numbers stay whole."""
    if len(name) <= width:
        return name
    size = max(width - len(gap), 2)
    start, end = name[: size // 2], name[len(name) - (size - size // 2) :]
    if re.match(r"\d\d", name[len(start) - 1 :]):
        start = start.rstrip("0123456789")
    if re.match(r"\d\d", name[len(name) - len(end) - 1 :]):
        end = end.lstrip("0123456789")
    return f"{start}{gap}{end}"


# Tables -------------------------------------------------------------------------------------


def box_of(console: Console | None) -> Box:
    """Return the lines of a table: a rule below its header."""
    from rich.box import SIMPLE_HEAD, Box

    return SIMPLE_HEAD if is_unicode(console) else Box(_ASCII_RULE, ascii=True)


@dataclass(frozen=True)
class Column:
    """A column of a `FittedTable`.

    Attributes
    ----------
    heading
        Neighbours with the same heading show it once.
    part
        Second line of the heading, such as ``before``.
    drop
        Columns with the highest number are left out first, together; those with 0 stay.
    kind
        Numbers stand on the right, text and names on the left; names may lose their middle.
    """

    heading: str
    part: str = ""
    drop: int = 0
    kind: Literal["number", "text", "name"] = "number"


class FittedTable:
    """A table that leaves out whole columns where the console is narrow, and says which.

    A console that does not wrap, such as that of a pipe, gets every column.

    Parameters
    ----------
    columns
        From left to right.
    source
        Where the numbers of all columns are besides ``--json``, such as ``stats.csv``.
    """

    def __init__(self, columns: Iterable[Column], source: str = "") -> None:
        self.columns = list(columns)
        self._source = source
        self._rows: list[tuple[list[str], str]] = []

    def add_row(self, cells: Iterable[object], style: str = "") -> None:
        """Add a row with a cell for each column."""
        row = [str(cell) for cell in cells]
        if len(row) != len(self.columns):
            raise ValueError(
                f"{counted(len(row), 'cell')} for {counted(len(self.columns), 'column')}"
            )
        self._rows.append((row, style))

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Yield the table as wide as there is room, and a line about what is left out."""
        width = sys.maxsize if options.no_wrap else options.max_width
        fit = _Fit(self.columns, [row for row, _ in self._rows], console)
        shown, widths = fit.within(width)
        yield self._table(fit, shown, widths, console)
        if len(shown) < len(self.columns):
            missing = ", ".join(_missing(self.columns, shown))
            where = ", ".join(filter(None, ("a wider terminal", self._source, "--json")))
            yield paragraph(f"not shown: {missing} (see {where})", console, style="dim")

    def _table(
        self, fit: _Fit, shown: Sequence[int], widths: dict[int, int], console: Console
    ) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(
            box=box_of(console),
            padding=(0, 1, 0, 0),
            pad_edge=False,
            width=fit.total(shown, widths),
        )
        before = ""
        for index in shown:
            column = self.columns[index]
            side = "right" if column.kind == "number" else "left"
            lines = [line for line in (column.heading, column.part) if line]
            if column.part and column.heading == before:
                lines[0] = ""
            before = column.heading
            heading = encode_lines("\n".join(lines), console)
            table.add_column(heading, justify=side, no_wrap=True, min_width=widths[index])  # type: ignore[arg-type]
        for number, (_, style) in enumerate(self._rows):
            cells = (fit.cell(number, index, widths[index]) for index in shown)
            table.add_row(*map(Text, cells), style=style)
        return table


def _missing(columns: Sequence[Column], shown: Sequence[int]) -> Iterator[str]:
    """Yield the names of columns that are not shown; those of one heading together."""
    for heading, group in groupby(range(len(columns)), lambda index: columns[index].heading):
        indices = list(group)
        lost = [index for index in indices if index not in shown]
        if len(lost) == len(indices) > 1:
            yield heading
        else:
            yield from (f"{heading} {columns[index].part}".rstrip() for index in lost)


class _Fit:
    """Which columns fit, and how wide they are."""

    def __init__(
        self, columns: Sequence[Column], rows: Sequence[Sequence[str]], console: Console
    ) -> None:
        self._columns = columns
        self._rows = [[encode(cell, console) for cell in row] for row in rows]
        self._gap = encode("…", console)
        self._heads = []
        for before, one in zip([None, *columns], columns, strict=False):
            is_named = before is None or before.heading != one.heading or before.drop > one.drop
            lines = [one.heading if is_named or not one.part else "", one.part]
            self._heads.append(max(len(encode(line, console)) for line in lines))

    @cached_property
    def _natural(self) -> list[int]:
        from rich.cells import cell_len

        cells = zip(*self._rows, strict=True) if self._rows else ([()] * len(self._columns))
        return [
            max([head, *map(cell_len, column)])
            for head, column in zip(self._heads, cells, strict=True)
        ]

    def within(self, width: int) -> tuple[list[int], dict[int, int]]:
        """Return the columns shown and their widths; the last resort is wider than asked."""
        ranks = sorted({column.drop for column in self._columns} - {0}, reverse=True)
        everything = range(len(self._columns))
        for least in (self._preferred, self._least):
            for count in range(len(ranks) + 1):
                shown = [i for i in everything if self._columns[i].drop not in ranks[:count]]
                widths = {i: self._natural[i] for i in shown}
                names = [i for i in shown if self._columns[i].kind == "name"]
                # The widest name gives way first.
                for index in sorted(names, key=lambda i: -self._natural[i]):
                    excess = max(self.total(shown, widths) - width, 0)
                    if excess:
                        widths[index] = max(widths[index] - excess, least(index))
                if self.total(shown, widths) <= width:
                    return shown, widths
        return shown, widths

    @staticmethod
    def total(shown: Sequence[int], widths: dict[int, int]) -> int:
        """Return the columns of the screen that a table takes, its edges included."""
        return sum(widths[index] for index in shown) + 2 * len(shown)

    def _preferred(self, index: int) -> int:
        return max(min(self._natural[index], _NAME), self._least(index))

    def _least(self, index: int) -> int:
        """Return the smallest width at which different names still look different."""
        names = {row[index] for row in self._rows}
        start = max(self._heads[index], min(8, self._natural[index]))
        for width in range(start, self._natural[index]):
            short = {shortened(name, width, self._gap) for name in names}
            if len(short) == len(names) and max(map(len, short)) <= width:
                return width
        return self._natural[index]

    def cell(self, row: int, index: int, width: int) -> str:
        """Return the text of a cell."""
        text = self._rows[row][index]
        return shortened(text, width, self._gap) if self._columns[index].kind == "name" else text
