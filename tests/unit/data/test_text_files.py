"""Formats of text files: the same documents from each; contents that contradict the name."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import zipfile
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from distviz.data.documents import read_documents
from distviz.errors import RequestError

if TYPE_CHECKING:
    from pathlib import Path

ROWS = [
    {"id": "one", "text": 'a "first", document\nof two lines'},
    {"id": "two", "text": "größer\u2028als"},
]


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _table(rows: list[dict[str, Any]], delimiter: str) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    pd.DataFrame(rows).to_parquet(file)
    return file.getvalue()


def content(ending: str, rows: list[dict[str, Any]]) -> bytes:
    """Rows as a file of this ending."""
    kind = ending.lower()
    if kind in (".jsonl", ".ndjson"):
        return _lines(rows)
    if kind == ".json":
        return json.dumps(rows).encode()
    return _parquet(rows) if kind == ".parquet" else _table(rows, {".csv": ","}.get(kind, "\t"))


ENDINGS = [".jsonl", ".JSONL", ".ndjson", ".json", ".Json", ".csv", ".CSV", ".tsv", ".parquet"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_has_the_same_documents(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows{ending}"
    path.write_bytes(content(ending, ROWS))
    assert [document.as_dict() for document in read_documents([path])] == ROWS


@pytest.mark.parametrize("ending", ENDINGS)
def test_empty_rows_are_left_out_and_other_fields_named(tmp_path: Path, ending: str) -> None:
    rows = [
        {"question": "2 + 2?", "answer": "4", "level": "low"},
        {"question": " ", "answer": "", "level": "x"},
    ]
    path = tmp_path / f"rows{ending}"
    path.write_bytes(content(ending, rows))
    found = read_documents([path])
    assert [document.question for document in found] == ["2 + 2?"]
    assert found.notes == (
        f"{path}: 1 of 2 rows is empty and left out",
        f"{path}: these fields are not measured: 'answer', 'level'",
    )


def test_an_array_of_strings_and_one_object(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('["A", "", "B"]')
    (tmp_path / "b.json").write_text('{\n "text": "C"\n}')
    found = read_documents([tmp_path / "a.json", tmp_path / "b.json"])
    assert [(document.id, document.text) for document in found] == [
        ("0", "A"), ("2", "B"), ("0", "C"),
    ]  # fmt: skip


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "text")
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("a.txt", _lines(ROWS), "contains JSON Lines, not plain text"),
        ("a", _lines(ROWS), "contains JSON Lines, not plain text"),
        ("a.txt", json.dumps(ROWS).encode(), "contains JSON, not plain text"),
        ("a.ipynb", json.dumps({"cells": []}, indent=1).encode(), "contains JSON"),
        ("a.jsonl", b"Once upon a time.\n", "line 1 is not JSON"),
        ("a.jsonl", json.dumps(ROWS).encode(), "line 1: expected an object"),
        ("a.json", _lines(ROWS), "contains JSON Lines, not JSON"),
        ("a.json", b"Once upon a time.", "is not JSON"),
        ("a.json", b"5", "entry 1: expected"),
        ("a.csv", json.dumps(ROWS).encode(), "contains JSON"),
        ("a.csv", b"Once upon a time,\nthere was\n", r"line 2 has 1 cell, the first line has 2"),
        ("a.csv", b"name;text\nx;y\n", "expected an object"),
        ("a.csv", b"text,text\nx,y\n", "'text' is there twice"),
        ("a.csv", b'text\n"x', "unexpected end of data"),
        ("a.csv", b"text\n", "has no rows"),
        ("a.txt", _parquet(ROWS), "is a binary file: Parquet"),
        ("a.parquet", _lines(ROWS), "is not Parquet"),
        ("a.parquet", _parquet(ROWS)[:-9], "cannot be read as Parquet"),
        ("a.parquet", _parquet([{"texts": "x"}]), "row 1: expected"),
        ("a.parquet", _parquet([{"text": 5}]), "row 1: 'text' is not a string"),
        ("a.txt", b"%PDF-1.7\nBT (text) Tj ET\n", "binary file: a PDF"),
        ("a.txt", gzip.compress(b"text", mtime=0), "compressed by gzip"),
        ("a.txt", _zip(), "ZIP archive"),
        ("a.txt", "text".encode("utf-16"), "is not UTF-8 text but UTF-16"),
        ("a.txt", "text".encode("utf-16-le"), "is a binary file"),
        ("a.jsonl.gz", gzip.compress(_lines(ROWS), mtime=0), "is compressed"),
        ("a.TXT.ZST", b"text", "is compressed"),
        ("a.pdf", b"text", "is not a text file"),
        ("a.docx", _zip(), "is not a text file"),
        ("a.safetensors", b"text", "is not a text file"),
        ("a.jsonl", b'{"text": "a", "x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "too deep"),
        ("a.txt", b"[" * 200_000 + b"]" * 200_000, "contains JSON"),
        ("a.json", b"[" * 200_000 + b"]" * 200_000, "nested too deep"),
        ("a.jsonl", b'{"text": "a", "id": ' + b"9" * 5000 + b"}", "too many digits"),
    ],
)  # fmt: skip
def test_a_content_that_contradicts_its_name(
    tmp_path: Path, name: str, data: bytes, match: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(RequestError, match=match):
        read_documents([tmp_path / name])


@pytest.mark.parametrize("name", ["story.txt", "STORY.TXT", "notes.md", "code.py", "story"])
def test_plain_text_keeps_every_character(tmp_path: Path, name: str) -> None:
    text = "[1] A reference.\r\n{x} is a set,\u2028\ufeff\x85 [and] so on\n"
    (tmp_path / name).write_bytes(text.encode())
    (document,) = read_documents([tmp_path / name])
    assert (document.id, document.text) == (name, text)


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    cases = {"pipe.txt": "not a regular file", ".": "Is a directory", "no": "No such file"}
    for name, reason in cases.items():
        with pytest.raises(RequestError, match=reason):
            read_documents([tmp_path / name])
    with pytest.raises(RequestError, match="binary file"):
        read_documents([type(tmp_path)("/dev/zero")])
    with pytest.raises(RequestError, match="cannot read text"):
        read_documents([tmp_path / "a\0b"])
