"""The content of a text file: plain text, or the rows of JSON Lines, JSON, CSV, TSV or Parquet."""

from __future__ import annotations

import csv
import io
import json
import stat
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from distviz.errors import RequestError, first_line
from distviz.output import counted

TEXT_FIELDS = ("text", "system", "question")
FIELDS = (*TEXT_FIELDS, "id", "messages", "conversations")
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
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip", ".7z", ".rar", ".tar", ".tgz")
_OTHER = (
    *(".pdf", ".doc", ".docx", ".odt", ".rtf", ".xls", ".xlsx", ".pptx", ".epub"),
    *(".arrow", ".feather", ".orc", ".avro", ".npy", ".npz", ".pkl", ".pickle", ".h5", ".hdf5"),
    *(".safetensors", ".gguf", ".bin", ".pt", ".pth", ".ckpt", ".sqlite", ".db"),
)


def read_file(path: Path) -> str | Rows:
    """Return the text of a file, or its rows; ``-`` is standard input.

    Raises
    ------
    RequestError
        If it cannot be read, is empty or too large, or its content is not what its name says.
        Rows raise it where they are malformed.
    """
    name, ending = str(path), path.suffix.lower()
    if ending in _COMPRESSED:
        raise RequestError(f"{name} is compressed", "decompress it first")
    if ending in _OTHER:
        raise RequestError(f"{name} is not a text file that distviz reads", _FORMATS)
    if name == "-":
        data, name = _limited(sys.stdin.buffer, "standard input"), "standard input"
    else:
        data = _read_bytes(path)
    if ending == ".parquet":
        return _parquet_rows(data, name)
    text = _decode(data, name)
    if not text.strip():
        raise RequestError(f"{name} is empty, there is nothing to measure")
    if ending in _ROWS:
        return _ROWS[ending](text, name)
    if found := _json_kind(text):
        raise RequestError(
            f"{name} contains {found}, not plain text",
            "give it the ending .json (an array) or .jsonl (an object a line)",
        )
    return text


def _read_bytes(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
        # A named pipe may never be written to; the pipes of a shell are open already.
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or path.parts[1:2] == ("dev",)):
            raise RequestError(f"{path} is not a regular file", "give - and the text as input")
        with path.open("rb") as file:
            return _limited(file, str(path))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RequestError(f"cannot read text {path}: {reason}") from error


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


def _parquet_rows(data: bytes, name: str) -> Rows:
    """Yield the rows of Parquet; a missing text is empty, other columns are only named."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not data.startswith(b"PAR1"):
        raise RequestError(f"{name} is not Parquet")
    number, size = 0, 0
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        columns = file.schema_arrow.names
        others = dict.fromkeys([column for column in columns if column not in FIELDS], True)
        wanted = [column for column in columns if column in FIELDS]
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=wanted):
            size += batch.nbytes
            if size > LIMIT_BYTES:
                raise RequestError(f"{name} contains more than {LIMIT_BYTES:,} bytes", "split it")
            for row in batch.to_pylist():
                number += 1
                missing = [key for key in TEXT_FIELDS if key in row and row[key] is None]
                given = {key: value for key, value in row.items() if value is not None}
                yield (
                    f"{name}, row {number}",
                    str(number - 1),
                    (others | given | dict.fromkeys(missing, "")),
                )
    except (pa.ArrowException, OSError, ValueError) as error:
        raise RequestError(f"{name} cannot be read as Parquet: {first_line(error)}") from error


_ROWS: dict[str, Callable[[str, str], Rows]] = {
    ".jsonl": lines_of,
    ".ndjson": lines_of,
    ".json": _entries_of,
    ".csv": _table_rows(","),
    ".tsv": _table_rows("\t"),
}
