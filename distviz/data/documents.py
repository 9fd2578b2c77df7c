"""Documents from files, standard input, Python values, or embedded in distviz."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from distviz.data.text_files import TEXT_FIELDS, Rows, lines_of, read_file
from distviz.errors import RequestError
from distviz.output import counted

Message = tuple[str, str]
"""Role and content."""

_EXPECTED = 'expected an object with "text", with "system" and "question", or with "messages"'
_ROLES = {"human": "user", "gpt": "assistant"}
_MESSAGE_FIELDS = ("role", "content"), ("from", "value")
_SHOWN = 8


@dataclass(frozen=True)
class Document:
    """One document: plain ``text``, a prompt of ``system`` and ``question``, or a longer chat."""

    id: str
    text: str = ""
    system: str = ""
    question: str = ""
    messages: tuple[Message, ...] = ()

    @property
    def is_prompt(self) -> bool:
        """Whether a chat template applies to it: a prompt, or a longer chat."""
        return bool(self.question or self.messages)

    @property
    def chat(self) -> list[dict[str, str]]:
        """The messages for a chat template."""
        system = [("system", self.system)] if self.system else []
        messages = self.messages or (*system, ("user", self.question))
        return [{"role": role, "content": content} for role, content in messages]

    @property
    def pieces(self) -> list[tuple[str, str, str]]:
        """Part, role and text of what is tokenized apart, without a chat template."""
        if self.messages:
            first = self.messages[0][0] == "system"
            return [
                ("system" if first and number == 0 else "question", role, content)
                for number, (role, content) in enumerate(self.messages)
            ]
        if self.question:
            return [("system", "system", self.system), ("question", "user", self.question)]
        return [("text", "rest", self.text)]

    def as_dict(self) -> dict[str, Any]:
        """Return the entry of ``documents.jsonl``."""
        if self.messages:
            return {"id": self.id, "messages": self.chat}
        if self.question:
            return {"id": self.id, "system": self.system, "question": self.question}
        return {"id": self.id, "text": self.text}


class Documents(list[Document]):
    """Documents, with ``notes``: warnings about what of their sources is left out."""

    notes: tuple[str, ...] = ()


def read_documents(sources: Sequence[str | Path | dict[str, Any]]) -> Documents:
    """Read documents.

    Parameters
    ----------
    sources
        A ``Path`` is a file: ``.jsonl`` and ``.ndjson`` have a document per line, ``.json`` an
        array, ``.csv``, ``.tsv`` and ``.parquet`` one per row (``text``, or ``system`` and
        ``question``, or ``messages``); ``-`` is standard input, any other file is one document. A
        ``str`` is the text of a document, a ``dict`` is like a line of JSONL. Empty: the embedded
        documents. Empty rows are left out.

    Raises
    ------
    RequestError
        If a file is missing or empty, its content is not what its name says, or a row is malformed,
        which is named.
    """
    if not sources:
        embedded = resources.files("distviz") / "demo" / "documents.jsonl"
        rows = lines_of(embedded.read_text(encoding="utf-8"), "documents.jsonl")
        return Documents(_Source("documents.jsonl").documents(rows))
    given = _Source("the given text")
    seen, found = [given], Documents()
    for number, source in enumerate(sources):
        if isinstance(source, Path):
            seen.append(_Source(str(source)))
            found += seen[-1].of_file(source)
            continue
        if not isinstance(source, str | dict):
            raise RequestError(
                f"document {number} is a {type(source).__name__}",
                "give a str (a text), a pathlib.Path (a file) or a dict (a prompt)",
            )
        row = {"text": source} if isinstance(source, str) else source
        found += given.documents([(f"document {number}", str(number), row)])
    if not found:
        raise RequestError("the text is empty, there is nothing to measure")
    found.notes = tuple(note for one in seen for note in one.notes())
    return found


def list_sources(text: Any) -> list[Any]:
    """Return the documents that Python code gave, as a list.

    Raises
    ------
    RequestError
        If it is not several documents, or there are none.
    """
    if isinstance(text, str | bytes | Path | dict) or not isinstance(text, Iterable):
        raise RequestError(
            f"text is a {type(text).__name__}, it must be a list of documents",
            "give text=[...]: a str is a text, a pathlib.Path a file, a dict a prompt",
        )
    if not (found := list(text)):
        raise RequestError("the text is empty, there is nothing to measure")
    return found


def check_text(text: str, where: str) -> str:
    """Return a text; RequestError if it has a lone surrogate, which is no character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"{where} has a lone surrogate (U+{ord(text[error.start]):04X}, character "
            f"{error.start + 1}), which no text has",
            "it is half of a character or a damaged byte; correct the text",
        ) from None
    return text


@dataclass
class _Source:
    """Makes documents of the rows of one source, and counts what it leaves out."""

    name: str
    rows: int = 0
    empty: int = 0
    ignored: dict[str, None] = field(default_factory=dict)

    def of_file(self, path: Path) -> list[Document]:
        content = read_file(path)
        if isinstance(content, str):
            name = "stdin" if str(path) == "-" else path.name
            return [Document(name, text=content)]
        rows = iter(content)
        first = next(rows, None)
        if first is None:
            raise RequestError(f"{self.name} has no rows, there is nothing to measure")
        found = self.documents(itertools.chain([first], rows))
        if not found:
            raise RequestError(
                f"{first[0]}: {_EXPECTED}, but no row has any: {counted(self.rows, 'empty row')}"
            )
        return found

    def documents(self, rows: Rows | Iterable[tuple[str, str, Any]]) -> list[Document]:
        found = [self._document(*row) for row in rows]
        self.rows += len(found)
        self.empty += found.count(None)
        return [document for document in found if document is not None]

    def notes(self) -> Iterator[str]:
        if self.empty:
            verb = "is" if self.empty == 1 else "are"
            yield (
                f"{self.name}: {self.empty} of {counted(self.rows, 'row')} {verb} empty and "
                f"left out"
            )
        if self.ignored:
            names = [f"'{name}'" for name in list(self.ignored)[:_SHOWN]]
            more = f" and {len(self.ignored) - _SHOWN} more" if len(self.ignored) > _SHOWN else ""
            yield f"{self.name}: these fields are not measured: {', '.join(names)}{more}"

    def _document(self, where: str, default_id: str, row: Any) -> Document | None:
        """Return the document of a row; None if it is empty."""
        if not isinstance(row, dict):
            raise RequestError(f"{where}: {_EXPECTED}")
        identity = _identity(row, where, default_id)
        chats = [name for name in ("messages", "conversations") if row.get(name) is not None]
        texts = {n: _text(row, n, where) for n in TEXT_FIELDS if row.get(n) is not None}
        used = {name for name in texts if texts[name].strip()}
        if len(chats) + len(used & {"text", "question"}) > 1:
            raise RequestError(f"{where}: {_EXPECTED}", "it has several of them")
        if chats:
            self._ignore(row, {"id", *chats, *texts} - used)
            return _chat(identity, self._messages(row[chats[0]], f"{where}: '{chats[0]}'"))
        if not {"text", "question"} & set(texts):
            null = [n for n in ("text", "question") if n in row]
            what = f"'{null[0]}' is not a string" if null else _EXPECTED
            raise RequestError(f"{where}: {what}", _fields(row))
        kept = {"text"} if "text" in used else {"system", "question"}
        self._ignore(row, {"id", *kept, *texts} - (used - kept))
        if not used & {"text", "question"}:
            return None
        if "text" in used:
            return Document(identity, text=texts["text"])
        return Document(identity, system=texts.get("system", ""), question=texts["question"])

    def _ignore(self, row: dict[str, Any], known: set[str]) -> None:
        others = [name for name, value in row.items() if name not in known and value is not None]
        self.ignored |= dict.fromkeys(map(str, others))

    def _messages(self, given: Any, where: str) -> tuple[Message, ...]:
        if not isinstance(given, list):
            raise RequestError(f"{where} is not a list of messages")
        return tuple(self._message(one, f"{where}, message {n}") for n, one in enumerate(given, 1))

    def _message(self, given: Any, where: str) -> Message:
        names = next(
            (pair for pair in _MESSAGE_FIELDS if isinstance(given, dict) and pair[0] in given), None
        )
        if names is None:
            raise RequestError(f'{where}: expected an object with "role" and "content"')
        content = given.get(names[1])
        if isinstance(content, list) and all(_is_text_part(part) for part in content):
            content = "".join(part["text"] for part in content)
        if not isinstance(content, str):
            raise RequestError(f"{where}: '{names[1]}' is not text", _fields(given))
        role = _text(given, names[0], where)
        if not role.strip():
            raise RequestError(f"{where}: '{names[0]}' is empty")
        others = [name for name, value in given.items() if name not in names and value is not None]
        self.ignored |= dict.fromkeys(f"{name} of a message" for name in others)
        return _ROLES.get(role, role), check_text(content, f"{where}: '{names[1]}'")


def _is_text_part(part: Any) -> bool:
    return (
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
    )


def _text(row: dict[str, Any], name: str, where: str) -> str:
    if not isinstance(row[name], str):
        raise RequestError(f"{where}: '{name}' is not a string")
    return check_text(row[name], f"{where}: '{name}'")


def _identity(row: dict[str, Any], where: str, default: str) -> str:
    given = default if row.get("id") is None else row["id"]
    if isinstance(given, bool) or not isinstance(given, str | int | float):
        raise RequestError(f"{where}: 'id' is not a string or a number")
    if isinstance(given, float) and not math.isfinite(given):
        raise RequestError(f"{where}: 'id' is {given}")
    try:
        return check_text(str(given), f"{where}: 'id'")
    except ValueError:
        raise RequestError(f"{where}: 'id' has too many digits") from None


def _chat(identity: str, messages: tuple[Message, ...]) -> Document | None:
    """Return the document of messages: a prompt where they are one; None if all are empty."""
    if not any(content.strip() for _, content in messages):
        return None
    roles = tuple(role for role, _ in messages)
    last = messages[-1][1]
    if roles in (("user",), ("system", "user")) and last.strip():
        return Document(identity, system=messages[0][1] * (len(roles) - 1), question=last)
    return Document(identity, messages=messages)


def _fields(row: dict[str, Any]) -> str:
    return f"its fields are {', '.join(map(str, list(row)[:_SHOWN])) or 'none'}"


def fingerprint(documents: Sequence[Document]) -> str:
    """Return the SHA-256 of documents in their order, in hexadecimal."""
    return fingerprint_of_entries(document.as_dict() for document in documents)


def fingerprint_of_entries(entries: Iterable[dict[str, Any]]) -> str:
    """Return `fingerprint` from the entries of ``documents.jsonl``."""
    digest = hashlib.sha256()
    for entry in entries:
        line = json.dumps(entry, ensure_ascii=False, sort_keys=True)
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()
