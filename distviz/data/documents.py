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

import numpy as np

from distviz.data.hub_datasets import dataset_rows
from distviz.data.rows import EXPECTED, Message, check_text, content_of
from distviz.data.text_files import Rows, read_file
from distviz.errors import RequestError
from distviz.output import counted, first_of

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


@dataclass(frozen=True)
class Reading:
    """How documents are read.

    Attributes
    ----------
    field
        The field of each row that is measured; None looks for those of `content_of`.
    by_line
        Whether each line of a plain text file is a document.
    dataset
        A dataset to read after the sources, see `dataset_rows`.
    most
        Maximum number of documents; None for all.
    seed
        Shuffles them before; None keeps their order.
    """

    field: str | None = None
    by_line: bool = False
    dataset: str | None = None
    most: int | None = None
    seed: int | None = None


def read_documents(
    sources: Sequence[str | Path | dict[str, Any]], reading: Reading | None = None
) -> Documents:
    """Read documents.

    Parameters
    ----------
    sources
        A ``Path`` is a file, see `read_file`; a plain text is one document, otherwise each row is
        one, see `content_of`. A ``str`` is the text of a document, a ``dict`` is a row. Empty: the
        embedded documents, where no dataset is asked for. Empty rows are left out.
    reading
        By default all documents, in their order.

    Raises
    ------
    RequestError
        If a file is missing or empty, its content is not what its name says, or a row is malformed,
        which is named; if ``reading`` does not fit the sources.
    """
    reading = reading or Reading()
    if not sources and reading.dataset is None:
        embedded = resources.files("distviz") / "demo" / "documents.jsonl"
        sources = [json.loads(line) for line in embedded.read_text(encoding="utf-8").splitlines()]
    given = _Source("the given text", reading)
    seen, found = [given], Documents()
    for number, source in enumerate(sources):
        if isinstance(source, Path):
            seen.append(_Source(str(source), reading))
            found += seen[-1].of_file(source)
            continue
        if not isinstance(source, str | dict):
            raise RequestError(
                f"document {number} is a {type(source).__name__}",
                "give a str (a text), a pathlib.Path (a file) or a dict (a prompt)",
            )
        row = {reading.field or "text": source} if isinstance(source, str) else source
        found += given.documents([(f"document {number}", str(number), row)])
    if reading.dataset is not None:
        seen.append(_Source(reading.dataset, reading))
        found += seen[-1].of_rows(
            dataset_rows(reading.dataset, reading.field),
            most=reading.most if reading.seed is None else None,
        )
    if not found:
        raise RequestError("the text is empty, there is nothing to measure")
    if reading.seed is not None:
        order = np.random.default_rng(reading.seed).permutation(len(found))
        found = Documents(found[number] for number in order)
    found = Documents(found[: reading.most])
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


@dataclass
class _Source:
    """Makes documents of the rows of one source, and counts what it leaves out."""

    name: str
    reading: Reading
    rows: int = 0
    empty: int = 0
    ignored: dict[str, None] = field(default_factory=dict)

    def of_file(self, path: Path) -> list[Document]:
        content = read_file(path, field=self.reading.field, by_line=self.reading.by_line)
        if isinstance(content, str):
            name = "stdin" if str(path) == "-" else path.name
            return [Document(name, text=content)]
        return self.of_rows(content)

    def of_rows(self, rows: Rows, most: int | None = None) -> list[Document]:
        """Return the documents of rows, only the first ``most`` if it is given."""
        first = next(rows, None)
        if first is None:
            raise RequestError(f"{self.name} has no rows, there is nothing to measure")
        found = self.documents(itertools.chain([first], rows), most)
        if not found:
            raise RequestError(
                f"{first[0]}: {EXPECTED}, but no row has any: {counted(self.rows, 'empty row')}"
            )
        return found

    def documents(
        self, rows: Iterable[tuple[str, str, Any]], most: int | None = None
    ) -> list[Document]:
        found: list[Document] = []
        for row in rows:
            self.rows += 1
            document = self._document(*row)
            if document is None:
                self.empty += 1
                continue
            found.append(document)
            if len(found) == most:
                break
        return found

    def notes(self) -> Iterator[str]:
        if self.empty:
            verb = "is" if self.empty == 1 else "are"
            yield (
                f"{self.name}: {self.empty} of {counted(self.rows, 'row')} {verb} empty and "
                f"left out"
            )
        if self.ignored:
            names = first_of([f"'{name}'" for name in self.ignored], _SHOWN)
            yield f"{self.name}: these fields are not measured: {names}"

    def _document(self, where: str, default_id: str, row: Any) -> Document | None:
        """Return the document of a row; None if it is empty."""
        if not isinstance(row, dict):
            raise RequestError(f"{where}: {EXPECTED}")
        identity = _identity(row, where, default_id)
        content = content_of(row, where, self.reading.field)
        self.ignored |= dict.fromkeys(content.ignored)
        if content.text:
            return Document(identity, content.text)
        return _chat(identity, content.messages) if content.messages else None


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


def _chat(identity: str, messages: tuple[Message, ...]) -> Document:
    """Return the document of messages: a prompt where they are one."""
    roles = tuple(role for role, _ in messages)
    last = messages[-1][1]
    if roles in (("user",), ("system", "user")) and last.strip():
        return Document(identity, system=messages[0][1] * (len(roles) - 1), question=last)
    return Document(identity, messages=messages)


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
