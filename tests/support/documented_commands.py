"""The command lines that README, documentation and help show; found, not listed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from distviz.cli import examples as manual

__all__ = ["ROOT", "Line", "command_lines", "mentions"]

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```(bash|console)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_MENTION = re.compile(r"(?<!`)`(distviz [^`]+)`(?!`)")
_OPERATORS = {"|", "||", "&", "&&", ";", "<", ">", ">>"}


@dataclass
class Line:
    """A command line as a reader would type it.

    Attributes
    ----------
    text
        Without prompt and comment; broken lines joined.
    places
        Where it stands.
    output
        What a console block shows below it.
    """

    text: str
    places: list[str] = field(default_factory=list)
    output: list[str] = field(default_factory=list)

    @property
    def words(self) -> list[str]:
        """Its words, as a shell splits them."""
        return shlex.split(self.text, comments=True)

    @property
    def is_plain(self) -> bool:
        """Whether it is one command: no pipe, no second command."""
        lexer = shlex.shlex(self.text, posix=True, punctuation_chars=True)
        return not _OPERATORS & set(lexer)


def pages() -> list[Path]:
    """README, CONTRIBUTING and every page of the documentation."""
    documentation = sorted((ROOT / "docs").rglob("*.md"))
    built = [page for page in documentation if "_build" in page.parts]
    return [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(page for page in documentation if page not in built),
    ]


def command_lines() -> list[Line]:
    """Every command line once, however often it is shown."""
    found: dict[str, Line] = {}
    for place, line in _all():
        known = found.setdefault(line.text, line)
        known.places.append(place)
        known.output = known.output or line.output
    return list(found.values())


def _all() -> Iterator[tuple[str, Line]]:
    for page in pages():
        for kind, body in _BLOCK.findall(page.read_text(encoding="utf-8")):
            parts = _console(body) if kind == "console" else _bash(body)
            yield from ((page.relative_to(ROOT).as_posix(), line) for line in parts)
    for name, page in {"": manual.ROOT, **manual.PAGES}.items():
        for example in page.examples:
            yield f"distviz {name} --help", Line(example.line)


def _bash(body: str) -> Iterator[Line]:
    for line in body.replace("\\\n", " ").splitlines():
        text = _without_comment(line)
        if text:
            yield Line(text)


def _console(body: str) -> Iterator[Line]:
    for part in re.split(r"^\$ ", body.replace("\\\n> ", " "), flags=re.MULTILINE)[1:]:
        command, *output = part.rstrip().splitlines()
        yield Line(_without_comment(command), output=output)


def _without_comment(line: str) -> str:
    return re.sub(r"(^|\s)#\s.*$", "", line).strip()


def mentions() -> Iterator[tuple[str, list[str]]]:
    """Every ``distviz …`` in running text, as words, and where it stands."""
    for page in pages():
        text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
        for found in _MENTION.findall(text):
            yield page.relative_to(ROOT).as_posix(), found.replace("…", "").split()
