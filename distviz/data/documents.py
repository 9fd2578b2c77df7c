"""Documents from text files, JSONL, standard input, or embedded in distviz."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from distviz.errors import RequestError


@dataclass(frozen=True)
class Document:
    """One document: plain ``text``, or a prompt of ``system`` and ``question``."""

    id: str
    text: str = ""
    system: str = ""
    question: str = ""

    @property
    def is_prompt(self) -> bool:
        """Whether it is a prompt."""
        return bool(self.question)

    def as_dict(self) -> dict[str, str]:
        """Return the entry of ``documents.jsonl``."""
        if self.is_prompt:
            return {"id": self.id, "system": self.system, "question": self.question}
        return {"id": self.id, "text": self.text}


def read_documents(sources: Sequence[str | Path | dict[str, str]]) -> list[Document]:
    """Read documents.

    Parameters
    ----------
    sources
        A ``Path`` is a file: ``.jsonl`` has a document per line (``text``, or ``system`` and
        ``question``), ``-`` is standard input, any other file is one document. A ``str`` is the
        text of a document, a ``dict`` is like a line of JSONL. Empty: the embedded documents.

    Raises
    ------
    RequestError
        If a file is missing, not text or empty, or has a malformed line, which is named.
    """
    if not sources:
        embedded = resources.files("distviz") / "demo" / "documents.jsonl"
        return list(_from_lines(embedded.read_text(encoding="utf-8"), "documents.jsonl"))
    found: list[Document] = []
    for source in sources:
        if isinstance(source, Path):
            found += _from_file(source)
        elif isinstance(source, dict):
            found.append(_from_entry(source, f"document {len(found)}", str(len(found))))
        else:
            found.append(Document(str(len(found)), text=source))
    if not any(document.text.strip() or document.is_prompt for document in found):
        raise RequestError("the text is empty, there is nothing to measure")
    return found


def _from_file(path: Path) -> list[Document]:
    if str(path) == "-":
        return [Document("stdin", text=_decode(sys.stdin.buffer.read(), "standard input"))]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RequestError(f"cannot read text {path}: {error.strerror}") from error
    text = _decode(data, str(path))
    if not text.strip():
        raise RequestError(f"{path} is empty, there is nothing to measure")
    if path.suffix == ".jsonl":
        return list(_from_lines(text, str(path)))
    return [Document(path.name, text=text)]


def _decode(data: bytes, name: str) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{name} is not UTF-8 text (byte {error.start})", "give a .txt or .jsonl file"
        ) from error
    if "\0" in text:
        raise RequestError(f"{name} is a binary file", "give a .txt or .jsonl file")
    return text


def _from_lines(text: str, name: str) -> Iterator[Document]:
    # Not splitlines(): JSON strings may contain U+2028 and similar characters unescaped.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise RequestError(f"{where} is not JSON: {error}") from error
        yield _from_entry(entry, where, str(number - 1))


def _from_entry(entry: Any, where: str, default_id: str) -> Document:
    expected = 'expected an object with "text", or with "system" and "question"'
    if not isinstance(entry, dict):
        raise RequestError(f"{where}: {expected}")
    for name in ("text", "system", "question"):
        if not isinstance(entry.get(name, ""), str):
            raise RequestError(f"{where}: '{name}' is not a string")
    text, question = entry.get("text", ""), entry.get("question", "")
    if bool(text.strip()) == bool(question.strip()):
        raise RequestError(f"{where}: {expected}")
    identity = str(entry.get("id", default_id))
    return Document(identity, text=text, system=entry.get("system", ""), question=question)


def fingerprint(documents: Sequence[Document]) -> str:
    """Return the SHA-256 of documents in their order, in hexadecimal."""
    digest = hashlib.sha256()
    for document in documents:
        line = json.dumps(document.as_dict(), ensure_ascii=False, sort_keys=True)
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()
