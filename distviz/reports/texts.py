"""The text that was measured: the beginning of each document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from distviz.output import counted, visible
from distviz.reports.page import Block, Facts, Fold, Prose, Section

if TYPE_CHECKING:
    from distviz.results import Run

_DOCUMENTS = 40
_LENGTH = 240
"""Characters of a document that are shown; of its name a fifth."""


def text_section(run: Run, side: str = "") -> Section | None:
    """Return the beginning of the first documents; None where their texts were not kept.

    ``side`` names the run in the heading, such as `` of A``.
    """
    if not run.texts:
        return None
    measured = run.texts[: _measured(run)]
    shown = [_entry(number, one) for number, one in enumerate(measured[:_DOCUMENTS])]
    blocks: list[Block] = [Fold(f"{counted(len(measured), 'document')} measured", [Facts(shown)])]
    rest, unread = len(measured) - len(shown), len(run.texts) - len(measured)
    if rest:
        blocks.append(Prose(f"documents.jsonl has {counted(rest, 'more document')}."))
    if unread:
        blocks.append(Prose(f"Not measured: {counted(unread, 'further document')}."))
    return Section(f"The text{side}", blocks)


def _measured(run: Run) -> int | None:
    """Return how many of the documents were measured, the first ones; None means all."""
    return int(run.documents["document"].max()) + 1 if "document" in run.documents else None


def _entry(number: int, document: dict[str, Any]) -> tuple[str, str]:
    name = str(document.get("id") or number)
    text = " / ".join(filter(None, _pieces(document)))
    return _cut(name, _LENGTH // 5), _cut(text, _LENGTH)


def _pieces(document: dict[str, Any]) -> Iterator[str]:
    """Yield what a model read: the text, or the parts of a prompt or a chat."""
    for name in ("text", "system", "question"):
        yield str(document.get(name) or "").strip()
    for message in document.get("messages") or []:
        yield f"{message.get('role', '')}: {message.get('content', '')}"


def _cut(text: str, length: int) -> str:
    """Return the beginning of a text as one line."""
    line = " ".join(text[: 4 * length].split())
    return visible(line if len(line) <= length and len(text) <= 4 * length else line[:length] + "…")
