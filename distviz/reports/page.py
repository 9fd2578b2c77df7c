"""What a page consists of, as plain data: parts, sections, and a few kinds of blocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

__all__ = [
    "Block",
    "Browser",
    "Cell",
    "Chart",
    "Command",
    "DataTable",
    "Drawing",
    "Facts",
    "Fold",
    "Page",
    "Part",
    "Prose",
    "Section",
]

Spec = dict[str, Any]
"""A chart in the grammar of Vega-Lite; strings that begin with ``$`` name colours."""


@dataclass(frozen=True)
class Prose:
    """Sentences; lines are kept apart."""

    kind: ClassVar[str] = "prose"
    text: str


@dataclass(frozen=True)
class Drawing:
    """A drawing in characters: pieces of text, each ``plain``, ``seen`` or ``change``."""

    kind: ClassVar[str] = "drawing"
    description: str
    pieces: list[tuple[str, str]]


@dataclass(frozen=True)
class Chart:
    """One chart, its data inside."""

    kind: ClassVar[str] = "chart"
    title: str
    spec: Spec
    height: int = 170


@dataclass(frozen=True)
class Browser:
    """Figures of the same kind, one a layer, that a slider walks through.

    Attributes
    ----------
    title
        What they show.
    specs
        Charts by name; strings that begin with ``$`` are filled in from colours and frame.
    groups
        By site: one frame a layer. A frame has ``label``, ``note``, ``left``, ``step`` (bins),
        ``tokens`` (what its charts share), ``panels`` (``spec``, ``title``, ``phase``, ``columns``
        of one number a bin) and ``numbers`` (a small table, texts).
    """

    kind: ClassVar[str] = "browser"
    title: str
    specs: dict[str, Spec]
    groups: dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Cell:
    """What a table shows, and the full value for sorting and copying."""

    text: str
    value: str


@dataclass(frozen=True)
class DataTable:
    """A table that can be sorted, filtered and copied.

    Attributes
    ----------
    columns
        Name, and whether its cells are numbers.
    rows
        One cell a column.
    """

    kind: ClassVar[str] = "table"
    title: str
    columns: list[tuple[str, bool]]
    rows: list[list[Cell]]


@dataclass(frozen=True)
class Facts:
    """Terms and what they are."""

    kind: ClassVar[str] = "facts"
    pairs: list[tuple[str, str]]


@dataclass(frozen=True)
class Command:
    """What to type."""

    kind: ClassVar[str] = "command"
    text: str


@dataclass(frozen=True)
class Fold:
    """Blocks that are shown when asked for; facts and tables are printed in any case."""

    kind: ClassVar[str] = "fold"
    title: str
    blocks: list[Any]
    grid: bool = False


Block = Prose | Drawing | Chart | Browser | DataTable | Facts | Command | Fold


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it; ``grid`` sets small charts side by side."""

    title: str
    blocks: list[Block]
    grid: bool = False


@dataclass(frozen=True)
class Part:
    """One folder: its name, what was measured, the verdict in a paragraph, the sections."""

    title: str
    subtitle: str
    verdict: str
    sections: list[Section]
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Page:
    """All folders of a report, one after the other."""

    title: str
    parts: list[Part]
