"""``tokens.parquet``: a row for each token of each place, written without holding it in memory.

While a model is measured, the rows of a place are appended to files. At the end they are read
twice: for the medians of the place, and to be written with their ratios to them. Memory: one chunk
of rows; 72 bytes per token of one place where several processes measured, or a run was resumed.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from msgspec import structs
from numpy.typing import NDArray

from distviz.results.columns import Place
from distviz.results.reading import Folder
from distviz.results.schema import Count, Positive
from distviz.sites import SiteKey, key_order

ROW = np.dtype({
    "names": ["document", "index", "token", "channel", "absmax", "l2"],
    "formats": ["<i4", "<i8", "<i4", "<i4", "<f8", "<f8"],
})  # fmt: skip
"""A row while it is measured; index is 2^32 window + position, -1 is no token id or channel."""
FILE = "tokens.parquet"


class RunToken(Place, kw_only=True):
    """``tokens.parquet`` of a run."""

    document: Count
    window: Count
    position: Count
    token: str
    token_id: Count | None
    absmax: Positive | None
    channel: Count | None
    l2: Positive | None
    absmax_ratio: Positive | None
    l2_ratio: Positive | None


_CHUNK = 1 << 16
_TEXT = pa.dictionary(pa.int32(), pa.string())
_SCHEMA = pa.schema({
    "layer": pa.int32(), "site": _TEXT, "phase": _TEXT, "document": pa.int32(),
    "window": pa.int32(), "position": pa.int32(), "token": _TEXT, "token_id": pa.int32(),
    "absmax": pa.float64(), "channel": pa.int32(), "l2": pa.float64(),
    "absmax_ratio": pa.float64(), "l2_ratio": pa.float64(), "module": _TEXT, "stack": _TEXT,
})  # fmt: skip


@dataclass(frozen=True)
class RowFile:
    """A file of rows of one place: its path, the number of rows in use, and their checksum."""

    path: str
    rows: int = 0
    checksum: int = 0

    def append(self, rows: NDArray[Any]) -> RowFile:
        """Append rows of type `ROW`; return the longer file."""
        data = rows.tobytes()
        with Path(self.path).open("ab") as file:
            file.write(data)
        return RowFile(self.path, self.rows + rows.size, zlib.crc32(data, self.checksum))

    def read(self) -> NDArray[Any]:
        """Return the rows, mapped from the file."""
        return np.memmap(self.path, ROW, "r", shape=(self.rows,))

    def check(self) -> None:
        """Raise ValueError if the file is missing, shorter or changed."""
        name, left, found = Path(self.path).name, self.rows * ROW.itemsize, 0
        try:
            with Path(self.path).open("rb") as file:
                while left and (data := file.read(min(left, 1 << 24))):
                    found, left = zlib.crc32(data, found), left - len(data)
        except OSError as error:
            raise ValueError(f"{name}: {error.strerror}") from error
        if left or found != self.checksum:
            raise ValueError(f"{name} is damaged")


@dataclass(frozen=True)
class TokenRows:
    """The rows of a finished measurement, in files.

    Attributes
    ----------
    files
        Those of each place.
    texts
        Token id -> text.
    folder
        Kept as long as the rows are; a temporary folder is removed with it.
    """

    files: Mapping[SiteKey, list[RowFile]]
    texts: Mapping[int, str] = field(default_factory=dict)
    folder: Any = None

    def write(self, path: Path) -> None:
        """Write ``tokens.parquet``, by place, document, window and position."""
        from pyarrow import parquet

        with parquet.ParquetWriter(path, _SCHEMA, compression="zstd") as writer:
            for key in sorted(self.files, key=key_order):
                rows = _in_order([one.read() for one in self.files[key]])
                medians = [lower_median(rows, name) for name in ("absmax", "l2")]
                for start in range(0, rows.size, _CHUNK):
                    part = np.asarray(rows[start : start + _CHUNK])
                    writer.write_table(self._table(key, part, medians))

    def at(self, places: set[tuple[int, str]]) -> TokenRows:
        """Return the rows at some (layer, site) pairs."""
        chosen = {key: f for key, f in self.files.items() if (key.layer, key.site) in places}
        return replace(self, files=chosen)

    def _table(self, key: SiteKey, rows: NDArray[Any], medians: list[float]) -> pa.Table:
        ids, where = np.unique(rows["token"], return_inverse=True)
        texts = pa.array([self.texts.get(one, "") for one in ids.tolist()], pa.string())
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = [rows[name] / m for name, m in zip(("absmax", "l2"), medians, strict=True)]
        constants = {name: _same(str(getattr(key, name)), rows.size) for name in _NAMES}
        columns = {
            "layer": np.full(rows.size, key.layer),
            "document": rows["document"],
            "window": rows["index"] >> 32,
            "position": rows["index"] & 0xFFFFFFFF,
            "token_id": _optional(rows["token"]),
            "absmax": _without_nan(rows["absmax"]),
            "channel": _optional(rows["channel"]),
            "l2": _without_nan(rows["l2"]),
            "absmax_ratio": _without_nan(ratios[0]),
            "l2_ratio": _without_nan(ratios[1]),
        }
        token = pa.DictionaryArray.from_arrays(pa.array(where.astype(np.int32)), texts)
        columns |= constants | {"token": token}
        arrays = [
            pa.array(columns[field.name]).cast(field.type)
            if isinstance(columns[field.name], np.ndarray)
            else columns[field.name].cast(field.type)
            for field in _SCHEMA
        ]
        return pa.Table.from_arrays(arrays, schema=_SCHEMA)


_NAMES = ("site", "phase", "module", "stack")


def _same(text: str, size: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(size, np.int32)), pa.array([text]))


def _optional(numbers: NDArray[np.int32]) -> pa.Array:
    return pa.array(numbers, mask=numbers < 0)


def _without_nan(numbers: NDArray[np.float64]) -> pa.Array:
    return pa.array(numbers, mask=np.isnan(numbers))


def _in_order(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """Return rows by document and index; those of one measurement at a time already are."""
    if len(parts) == 1 and _is_ascending(parts[0]):
        return parts[0]
    rows = np.concatenate(parts)
    return rows[np.lexsort((rows["index"], rows["document"]))]


def _is_ascending(rows: NDArray[Any]) -> bool:
    for start in range(0, rows.size, _CHUNK):
        part = np.asarray(rows[start : start + _CHUNK + 1])
        document, index = np.diff(part["document"]), np.diff(part["index"])
        if not ((document > 0) | ((document == 0) & (index > 0))).all():
            return False
    return True


def lower_median(rows: NDArray[Any], name: str) -> float:
    """Return the lower median of a column of values >= 0, NaN left out, by chunks of rows."""
    starts = range(0, rows.size, _CHUNK)
    found, rank, shown = np.uint64(0), -1, np.uint64(16)
    for shift in (48, 32, 16, 0):
        counts = np.zeros(1 << 16, np.int64)
        for start in starts:
            values = np.ascontiguousarray(rows[start : start + _CHUNK][name])
            digits = values[~np.isnan(values)].view(np.uint64) >> np.uint64(shift)
            digits = digits[digits >> shown == found] & np.uint64(0xFFFF)
            counts += np.bincount(digits.astype(np.int64), minlength=1 << 16)
        below = np.cumsum(counts)
        if not below[-1]:
            return np.nan
        rank = (int(below[-1]) - 1) // 2 if rank < 0 else rank
        digit = int(np.searchsorted(below, rank, side="right"))
        rank -= int(below[digit] - counts[digit])
        found = found << shown | np.uint64(digit)
    return float(found.view(np.float64))


@dataclass(frozen=True)
class TokenFile:
    """``tokens.parquet`` of a folder, read when it is asked for.

    Attributes
    ----------
    path
        The file.
    places
        The (layer, site) pairs that are selected; None: all.
    """

    path: Path
    places: frozenset[tuple[int, str]] | None = None

    @classmethod
    def of(cls, folder: Folder) -> TokenFile | None:
        """Return the file of a folder, None without one; a damaged one raises RequestError."""
        from pyarrow import parquet

        if not folder.has(FILE):
            return None
        try:
            names = parquet.ParquetFile(folder.path / FILE).schema_arrow.names
        except (pa.ArrowException, OSError, ValueError) as error:
            raise folder.damaged(FILE, error) from error
        missing = {one.encode_name for one in structs.fields(RunToken)} - {*names}
        if missing:
            raise folder.damaged(FILE, f"it has no column {min(missing)}")
        return cls(folder.path / FILE)

    def at(self, places: set[tuple[int, str]]) -> TokenFile:
        """Return the rows at some (layer, site) pairs."""
        return replace(self, places=frozenset(places))

    def read(self) -> pd.DataFrame:
        """Return the selected rows; all of them are in memory."""
        frame: pd.DataFrame = pa.Table.from_batches(self._batches(), _SCHEMA).to_pandas()
        return frame

    def write(self, path: Path) -> None:
        """Copy the selected rows."""
        from pyarrow import parquet

        if self.places is None:
            shutil.copyfile(self.path, path)
            return
        with parquet.ParquetWriter(path, _SCHEMA, compression="zstd") as writer:
            for batch in self._batches():
                writer.write_batch(batch)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the selected rows; a batch may hold rows of several places."""
        from pyarrow import parquet

        file = parquet.ParquetFile(self.path)
        for batch in file.iter_batches(_CHUNK):
            if self.places is not None:
                pairs = zip(*(batch.column(n).to_pylist() for n in ("layer", "site")), strict=True)
                batch = batch.filter(pa.array([one in self.places for one in pairs]))  # noqa: PLW2901
            yield from pa.Table.from_batches([batch]).cast(_SCHEMA).to_batches()
