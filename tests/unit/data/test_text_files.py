"""Formats of text files: the same documents from each; contents that contradict the name."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import zipfile
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pytest

from distviz.data.documents import Reading, read_documents
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


def _zstandard(data: bytes) -> bytes:
    file = pa.BufferOutputStream()
    with pa.CompressedOutputStream(file, "zstd") as packed:
        packed.write(data)
    return file.getvalue().to_pybytes()


PACKINGS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": _zstandard}


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet", ".JSON"])
def test_a_compressed_file_has_the_same_documents(
    tmp_path: Path, ending: str, packing: str
) -> None:
    path = tmp_path / f"rows.v2{ending}.{packing}"
    data = content(ending, ROWS)
    # Several frames in a row are one file.
    parts = [data[:9], data[9:]]
    path.write_bytes(b"".join(map(PACKINGS[packing], parts)))
    assert [document.as_dict() for document in read_documents([path])] == ROWS


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_compressed_text_is_one_document(tmp_path: Path, packing: str) -> None:
    path = tmp_path / f"story.{packing}"
    path.write_bytes(PACKINGS[packing](b"a\r\nb"))
    assert [document.text for document in read_documents([path])] == ["a\r\nb"]


def test_what_a_file_decompresses_to_has_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distviz.data.text_files.LIMIT_BYTES", 1000)
    path = tmp_path / "bomb.txt.gz"
    path.write_bytes(gzip.compress(b"a" * (1 << 21)))
    with pytest.raises(RequestError, match="more than 1,000 bytes"):
        read_documents([path])


def test_lines_of_a_text_are_documents_if_asked(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt.xz"
    path.write_bytes(lzma.compress("one\r\n\ntwo\u2028half\nthree".encode()))
    found = read_documents([path], Reading(by_line=True))
    assert [(one.id, one.text) for one in found] == [
        ("0", "one"), ("2", "two\u2028half"), ("3", "three"),
    ]  # fmt: skip
    assert found.notes == (f"{path}: 1 of 4 rows is empty and left out",)
    (tmp_path / "rows.jsonl").write_bytes(_lines(ROWS))
    with pytest.raises(RequestError, match="has rows already"):
        read_documents([tmp_path / "rows.jsonl"], Reading(by_line=True))


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
def test_a_field_by_name(tmp_path: Path, ending: str) -> None:
    rows = [{"text": "no", "body": "yes"}, {"text": "no", "body": ""}]
    path = tmp_path / f"rows{ending}"
    path.write_bytes(content(ending, rows))
    found = read_documents([path], Reading(field="body"))
    assert [document.text for document in found] == ["yes"]
    assert found.notes == (
        f"{path}: 1 of 2 rows is empty and left out",
        f"{path}: these fields are not measured: 'text'",
    )
    with pytest.raises(RequestError, match="has no field 'title'"):
        read_documents([path], Reading(field="title"))
    (tmp_path / "plain.txt").write_text("text")
    with pytest.raises(RequestError, match="it has no fields"):
        read_documents([tmp_path / "plain.txt"], Reading(field="body"))


ENDINGS = [".jsonl", ".JSONL", ".ndjson", ".json", ".Json", ".csv", ".CSV", ".tsv", ".parquet"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_has_the_same_documents(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows{ending}"
    path.write_bytes(content(ending, ROWS))
    assert [document.as_dict() for document in read_documents([path])] == ROWS


@pytest.mark.parametrize("ending", ENDINGS)
def test_empty_rows_are_left_out_and_other_fields_named(tmp_path: Path, ending: str) -> None:
    rows = [
        {"question": "2 + 2?", "source": "4", "level": "low"},
        {"question": " ", "source": "", "level": "x"},
    ]
    path = tmp_path / f"rows{ending}"
    path.write_bytes(content(ending, rows))
    found = read_documents([path])
    assert [document.question for document in found] == ["2 + 2?"]
    assert found.notes == (
        f"{path}: 1 of 2 rows is empty and left out",
        f"{path}: these fields are not measured: 'source', 'level'",
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
        ("a.jsonl.zip", _zip(), "is compressed"),
        ("a.tar.gz", gzip.compress(b"text", mtime=0), "is compressed"),
        ("a.TXT.ZST", b"text", "cannot be decompressed as .zst"),
        ("a.jsonl.gz", _lines(ROWS), "cannot be decompressed as .gz"),
        ("a.jsonl.gz", gzip.compress(_lines(ROWS), mtime=0)[:-9], "cannot be decompressed"),
        ("a.jsonl.xz", lzma.compress(_lines(ROWS))[:-9], "cannot be decompressed"),
        ("a.jsonl.zst", _zstandard(_lines(ROWS))[:-9], "cannot be decompressed"),
        ("a.txt.gz", gzip.compress(_lines(ROWS), mtime=0), "contains JSON Lines"),
        ("a.txt.gz", gzip.compress(gzip.compress(b"text", mtime=0), mtime=0), "compressed by gzip"),
        ("a.pdf.gz", gzip.compress(b"text", mtime=0), "is not a text file"),
        ("a.pdf", b"text", "is not a text file"),
        ("a.docx", _zip(), "is not a text file"),
        ("a.safetensors", b"text", "is not a text file"),
        ("a.jsonl", b'{"text": "a", "x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "too deep"),
        ("a.txt", b"[" * 200_000 + b"]" * 200_000, "contains JSON"),
        ("a.json", b"[" * 200_000 + b"]" * 200_000, "nested too deep"),
        ("a.jsonl", b'{"text": "a", "id": ' + b"9" * 5000 + b"}", "too many digits"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
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
