"""The content of a page as plain data: parts, sections and blocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

Spec = dict[str, Any]
"""A chart in the grammar of Vega-Lite; strings that begin with ``$`` name colours."""


@dataclass(frozen=True)
class Prose:
    """Sentences; each line is a paragraph."""

    kind: ClassVar[str] = "prose"
    text: str


@dataclass(frozen=True)
class Drawing:
    """A drawing in characters: pieces of text and their kind, ``plain``, ``seen`` or ``change``."""

    kind: ClassVar[str] = "drawing"
    description: str
    pieces: list[tuple[str, str]]


@dataclass(frozen=True)
class Choice:
    """A curve to show or hide: the name of its layer, its title, colour and kind of line."""

    key: str
    title: str
    color: str
    dash: str


@dataclass(frozen=True)
class Chart:
    """One chart with its data, and of which of its curves the reader chooses."""

    kind: ClassVar[str] = "chart"
    title: str
    spec: Spec
    height: int = 170
    choices: list[Choice] = field(default_factory=list)
    chosen: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Switch:
    """Choices of curves for all charts of a part."""

    kind: ClassVar[str] = "switch"
    title: str
    choices: list[Choice]


@dataclass(frozen=True)
class Browser:
    """Figures of the same kind, one per layer or step, with a slider.

    Attributes
    ----------
    title
        What they show.
    specs
        Charts by name; strings that begin with ``$`` are replaced by colours and frame values.
    groups
        By site: one frame per layer. A frame has ``label``, ``note``, ``numbers`` (a small table
        of texts) and ``views``: by scale of the values, ``all`` on the axes of all layers and
        ``own`` where those of this layer differ. A view has ``edges`` of bins, ``columns`` of one
        number per bin, ``tokens`` (values shared by its charts), ``outside`` (lines of text) and
        ``panels`` (``spec``, ``title``, ``phase``, ``fields``: the columns of the chart).
    scales
        By site: the scale of the values that is shown first, ``"linear"`` or ``"symlog"``.
    first
        The site and the number of the frame that is shown first.
    when
        What is added to the captions of the largest channels and values: the phase.
    noun, group_noun
        What a frame and what a group is.
    """

    kind: ClassVar[str] = "browser"
    title: str
    specs: dict[str, Spec]
    groups: dict[str, list[dict[str, Any]]]
    scales: dict[str, str]
    first: tuple[str, int] = ("", 0)
    when: str = ""
    noun: str = "layer"
    group_noun: str = "site"


@dataclass(frozen=True)
class Cell:
    """The text of a cell, and the full value for sorting and copying."""

    text: str
    value: str


@dataclass(frozen=True)
class DataTable:
    """A table to sort, filter and copy; a column has a name and whether it is numeric.

    ``meanings`` has names of columns, separated by commas, and what they mean.
    """

    kind: ClassVar[str] = "table"
    title: str
    columns: list[tuple[str, bool]]
    rows: list[list[Cell]]
    meanings: list[tuple[str, str]] = field(default_factory=list)

    def meaning(self, column: str) -> str:
        """Return what a column means; empty where that is not known."""
        return next((text for names, text in self.meanings if column in names.split(", ")), "")


@dataclass(frozen=True)
class Facts:
    """Terms and their values."""

    kind: ClassVar[str] = "facts"
    pairs: list[tuple[str, str]]


@dataclass(frozen=True)
class Command:
    """A command to copy."""

    kind: ClassVar[str] = "command"
    text: str


@dataclass(frozen=True)
class Fold:
    """Collapsed blocks; their facts and tables are printed in any case."""

    kind: ClassVar[str] = "fold"
    title: str
    blocks: list[Any]
    grid: bool = False


Block = Prose | Drawing | Chart | Switch | Browser | DataTable | Facts | Command | Fold


@dataclass(frozen=True)
class Section:
    """A heading with blocks; ``grid`` places small charts side by side."""

    title: str
    blocks: list[Block]
    grid: bool = False


@dataclass(frozen=True)
class Part:
    """One folder: name, what was measured, verdict in a paragraph, sections."""

    title: str
    subtitle: str
    verdict: str
    sections: list[Section]
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Page:
    """All folders of a report."""

    title: str
    parts: list[Part]
