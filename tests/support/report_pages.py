"""The pages of the documentation, for tests that read them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt

if TYPE_CHECKING:
    from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]


@cache
def tokens_of(page: Path) -> tuple[Token, ...]:
    """Return the page's tokens, those inside lines included."""
    parser = MarkdownIt("commonmark").enable("table")
    found: list[Token] = []
    for token in parser.parse(page.read_text(encoding="utf-8")):
        found += [token, *(token.children or [])]
    return tuple(found)
