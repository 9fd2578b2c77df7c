"""The content of a text file: plain text, or the rows of JSON Lines, JSON, CSV, TSV or Parquet."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import stat
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from distviz.data.rows import FIELDS, TEXT_FIELDS
from distviz.errors import RequestError, first_line
from distviz.output import counted

Rows = Iterator[tuple[str, str, Any]]
"""Of each row: its place for messages, its number as text, and its value."""

LIMIT_BYTES = 1 << 30
_ROWS_AT_ONCE = 256
_FORMATS = "give .txt, .jsonl, .ndjson, .json, .csv, .tsv or .parquet"
_MAGIC = {
    b"%PDF-": "a PDF",
    b"PK\x03\x04": "a ZIP archive, or a document of Word or Excel",
    b"\x1f\x8b": "compressed by gzip",
    b"\x28\xb5\x2f\xfd": "compressed by Zstandard",
    b"\xfd7zXZ": "compressed by xz",
    b"BZh": "compressed by bzip2",
    b"7z\xbc\xaf": "a 7z archive",
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow",
    b"GGUF": "GGUF",
    b"\x93NUMPY": "NumPy",
    b"\x89HDF": "HDF5",
    b"SQLite format 3": "SQLite",
    b"{\\rtf": "RTF",
}
_UTF = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_PACKED = (".lz4", ".zip", ".7z", ".rar", ".tar", ".tgz")
_OTHER = (
    *(".pdf", ".doc", ".docx", ".odt", ".rtf", ".xls", ".xlsx", ".pptx", ".epub"),
    *(".arrow", ".feather", ".orc", ".avro", ".npy", ".npz", ".pkl", ".pickle", ".h5", ".hdf5"),
    *(".safetensors", ".gguf", ".bin", ".pt", ".pth", ".ckpt", ".sqlite", ".db"),
)


def read_file(path: Path, *, field: str | None = None, by_line: bool = False) -> str | Rows:
    """Return the text of a file, or its rows; ``-`` is standard input.

    ``.jsonl`` and ``.ndjson`` have a row per line, ``.json`` an array, ``.csv``, ``.tsv`` and
    ``.parquet`` a table; any other file is a plain text, whose lines are rows if ``by_line``. Each
    may be compressed: ``.gz``, ``.bz2``, ``.xz`` or ``.zst`` behind the ending. ``field`` is one
    that the rows need beside the usual ones.

    Raises
    ------
    RequestError
        If it cannot be read, is empty or too large, or its content is not what its name says.
        Rows raise it where they are malformed.
    """
    name = "standard input" if str(path) == "-" else str(path)
    *_, before, ending = ("", "", *(suffix.lower() for suffix in path.suffixes))
    packing = ending if ending in _OPENERS else ""
    ending = before if packing else ending
    if ending in _PACKED:
        raise RequestError(f"{name} is compressed", "decompress it first")
    if ending in _OTHER:
        raise RequestError(f"{name} is not a text file that distviz reads", _FORMATS)
    has_rows = ending in _ROWS or ending == ".parquet"
    if has_rows and by_line:
        raise RequestError(f"{name} has rows already", "leave out --text-lines")
    data = _limited(sys.stdin.buffer, name) if str(path) == "-" else _read_bytes(path, packing)
    if ending == ".parquet":
        return _parquet_rows(data, name, field)
    text = _decode(data, name)
    if not text.strip():
        raise RequestError(f"{name} is empty, there is nothing to measure")
    if has_rows:
        return _ROWS[ending](text, name)
    if found := _json_kind(text):
        raise RequestError(
            f"{name} contains {found}, not plain text",
            "give it the ending .json (an array) or .jsonl (an object a line)",
        )
    if field is not None:
        raise RequestError(f"{name} is plain text, it has no fields", "leave out --text-field")
    return _text_lines(text, name) if by_line else text


def _read_bytes(path: Path, packing: str) -> bytes:
    """Return the content of a file, decompressed as the ending ``packing`` says."""
    try:
        mode = path.stat().st_mode
        # A named pipe may never be written to; the pipes of a shell are open already.
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or path.parts[1:2] == ("dev",)):
            raise RequestError(f"{path} is not a regular file", "give - and the text as input")
        file = path.open("rb")
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    with file:
        try:
            return _limited(_OPENERS[packing](file) if packing else file, str(path))
        except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
            if not packing:
                raise _unreadable(path, error) from error
            raise RequestError(
                f"{path} cannot be decompressed as {packing}: {first_line(error)}"
            ) from error


def _unreadable(path: Path, error: Exception) -> RequestError:
    return RequestError(f"cannot read text {path}: {getattr(error, 'strerror', None) or error}")


def _zstandard(file: Any) -> Any:
    import pyarrow as pa

    return pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")


_OPENERS: dict[str, Callable[[Any], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _zstandard,
}
"""What opens a compressed file, by its ending."""


def _limited(file: Any, name: str) -> bytes:
    """Read a file that may be endless."""
    first: bytes = file.read(1 << 20)
    # UTF-16 has such bytes too, and is named later.
    if b"\0" in first and not first.startswith((*_MAGIC, *_UTF)):
        raise RequestError(f"{name} is a binary file", _FORMATS)
    data: bytes = first + file.read(LIMIT_BYTES)
    if len(data) > LIMIT_BYTES:
        raise RequestError(f"{name} has more than {LIMIT_BYTES:,} bytes", "split it")
    return data


def _decode(data: bytes, name: str) -> str:
    for start, kind in _MAGIC.items():
        if data.startswith(start):
            raise RequestError(f"{name} is a binary file: {kind}", _FORMATS)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        kind = _UTF.get(data[:2], "")
        what = f" but {kind}" if kind else f" (byte {error.start})"
        raise RequestError(f"{name} is not UTF-8 text{what}", "save it as UTF-8") from error
    if "\0" in text:
        raise RequestError(f"{name} is a binary file", _FORMATS)
    return text


def load_json(text: str, where: str) -> Any:
    """Return the value of JSON text; RequestError with the place if it is none."""
    try:
        return json.loads(text)
    except RecursionError:
        raise RequestError(f"{where} is nested too deep") from None
    except json.JSONDecodeError as error:
        raise RequestError(f"{where} is not JSON: {error}") from error
    except ValueError as error:  # a limit of Python
        raise RequestError(f"{where} has a number of too many digits") from error


def _is_json(text: str, kinds: type | tuple[type, ...]) -> bool:
    try:
        return isinstance(load_json(text, ""), kinds)
    except RequestError as error:
        return not isinstance(error.__cause__, json.JSONDecodeError)


def _json_kind(text: str) -> str:
    """Return what kind of JSON a text is; empty if it is none."""
    if not text.lstrip().startswith(("{", "[")):
        return ""
    lines = (line for line in io.StringIO(text, newline="\n") if line.strip())
    first = list(islice(lines, 2))
    if len(first) > 1 and all(_is_json(line, dict) for line in first):
        return "JSON Lines"
    return "JSON" if _is_json(text, (dict, list)) else ""


# Rows ---------------------------------------------------------------------------------------


def lines_of(text: str, name: str) -> Rows:
    """Yield the rows of JSON Lines."""
    # Not splitlines(): JSON strings may contain U+2028 and similar characters unescaped.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{name}, line {number}"
            yield where, str(number - 1), load_json(line, where)


def _text_lines(text: str, name: str) -> Rows:
    """Yield the lines of a plain text."""
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
        yield f"{name}, line {number}", str(number - 1), {"text": line.removesuffix("\r")}


def _entries_of(text: str, name: str) -> Rows:
    if _json_kind(text) == "JSON Lines":
        raise RequestError(f"{name} contains JSON Lines, not JSON", "give it the ending .jsonl")
    whole = load_json(text, name)
    entries = whole if isinstance(whole, list) else [whole]
    for number, entry in enumerate(entries):
        value = {"text": entry} if isinstance(entry, str) else entry
        yield f"{name}, entry {number + 1}", str(number), value


def _table_rows(delimiter: str) -> Callable[[str, str], Rows]:
    def rows(text: str, name: str) -> Rows:
        if _json_kind(text):
            raise RequestError(f"{name} contains JSON", "give it the ending .json or .jsonl")
        csv.field_size_limit(max(csv.field_size_limit(), len(text)))
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        header: list[str] = []
        number = 0
        try:
            for cells in reader:
                where = f"{name}, line {reader.line_num}"
                if not header:
                    header = _header([cell.strip() for cell in cells], where)
                elif cells and len(cells) != len(header):
                    raise RequestError(
                        f"{where} has {counted(len(cells), 'cell')}, the first line has "
                        f"{len(header)}",
                        "quote cells that contain the delimiter or an end of line",
                    )
                elif cells:
                    yield where, str(number), dict(zip(header, cells, strict=True))
                    number += 1
        except csv.Error as error:
            raise RequestError(f"{name}, line {reader.line_num}: {error}") from error

    return rows


def _header(names: list[str], where: str) -> list[str]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RequestError(f"{where}: the column '{twice[0]}' is there twice")
    return names


def _parquet_rows(data: bytes, name: str, field: str | None) -> Rows:
    """Yield the rows of Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not data.startswith(b"PAR1"):
        raise RequestError(f"{name} is not Parquet")
    number, size = 0, 0
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        columns = file.schema_arrow.names
        wanted = columns_to_read(columns, field)
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=wanted):
            size += batch.nbytes
            if size > LIMIT_BYTES:
                raise RequestError(f"{name} contains more than {LIMIT_BYTES:,} bytes", "split it")
            for row in batch.to_pylist():
                number += 1
                yield f"{name}, row {number}", str(number - 1), row_of(row, columns)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise RequestError(f"{name} cannot be read as Parquet: {first_line(error)}") from error


def columns_to_read(columns: Sequence[str], field: str | None) -> list[str]:
    """Return the columns of a table that may be measured."""
    return [column for column in columns if column in FIELDS or column == field]


def row_of(cells: dict[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    """Return a row of a table: a missing text is empty, columns that were not read are True."""
    others = dict.fromkeys([column for column in columns if column not in cells], True)
    given = {key: value for key, value in cells.items() if value is not None}
    missing = [key for key in cells if key not in given and key in TEXT_FIELDS]
    return others | given | dict.fromkeys(missing, "")


_ROWS: dict[str, Callable[[str, str], Rows]] = {
    ".jsonl": lines_of,
    ".ndjson": lines_of,
    ".json": _entries_of,
    ".csv": _table_rows(","),
    ".tsv": _table_rows("\t"),
}
