"""Tables as Arrow reads them, checked against the rows that `columns` declares."""

from __future__ import annotations

import io
import re
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import inspect, structs

from distviz.output import counted
from distviz.results.columns import Row
from distviz.results.schema import check

_TYPES: dict[type[inspect.Type], pa.DataType] = {
    inspect.IntType: pa.int64(),
    inspect.FloatType: pa.float64(),
    inspect.BoolType: pa.bool_(),
    inspect.StrType: pa.string(),
    inspect.LiteralType: pa.string(),
}
_COLUMN = re.compile(r"In CSV column #(\d+)")
_MOST_ROWS = 1_000_000
"""Rows that a file of any size may have."""
_DENSEST = 10
"""Rows per byte of a file beyond `_MOST_ROWS` rows."""


def parse_table(data: bytes, row: type[Row], *, is_parquet: bool) -> pd.DataFrame:
    """Return a table from the bytes of its file.

    Raises
    ------
    ValueError, OSError, pyarrow.ArrowException
        If it is damaged, lacks a column, or has values that ``row`` does not allow.
    """
    columns = structs.fields(row)
    table = read_parquet(data) if is_parquet else _read_csv(data, columns)
    if row.can_be_blank and not table.num_columns:
        return pd.DataFrame()
    names = table.column_names
    if len(set(names)) < len(names):
        raise ValueError(f"it has the column {max(names, key=names.count)} twice")
    missing = [one.encode_name for one in columns if one.required and one.encode_name not in names]
    if missing:
        raise ValueError(f"it has no column {min(missing)}")
    for column in columns:
        if column.encode_name in names:
            table = _checked(table, column)
    frame: pd.DataFrame = table.to_pandas(ignore_metadata=True)
    return frame


def read_parquet(data: bytes, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file, if its number of rows is plausible for its size."""
    from pyarrow import parquet

    file = parquet.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
    n_rows = file.metadata.num_rows
    if n_rows > max(_MOST_ROWS, _DENSEST * len(data)):
        raise ValueError(f"it claims {counted(n_rows, 'row')} in {counted(len(data), 'byte')}")
    return file.read(columns, use_threads=False)


def _read_csv(data: bytes, columns: tuple[structs.FieldInfo, ...]) -> pa.Table:
    from pyarrow import csv

    if not data.strip():
        return pa.table({})
    types = {}
    for column in columns:
        kind, is_optional = _kind_of(column)
        # An integer that may be missing is written as a float, such as 3.0.
        is_float = is_optional and kind == pa.int64()
        types[column.encode_name] = pa.float64() if is_float else kind
    try:
        return csv.read_csv(
            io.BytesIO(data),
            read_options=csv.ReadOptions(use_threads=False),
            parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=csv.ConvertOptions(column_types=types, null_values=[""]),
        )
    except pa.ArrowInvalid as error:
        names = data.partition(b"\n")[0].decode(errors="replace").strip().split(",")
        text = _COLUMN.sub(lambda found: f"column {names[int(found[1])]}", str(error))
        raise ValueError(text) from error


def _kind_of(column: structs.FieldInfo) -> tuple[pa.DataType, bool]:
    """Return the Arrow type of a column, and whether values may be missing."""
    info = inspect.type_info(column.type)
    kinds = info.types if isinstance(info, inspect.UnionType) else (info,)
    (kind,) = [kind for kind in kinds if not isinstance(kind, inspect.NoneType)]
    return _TYPES[type(kind)], len(kinds) > 1


def _checked(table: pa.Table, column: structs.FieldInfo) -> pa.Table:
    """Return the table with the column in its declared type, checked."""
    name = column.encode_name
    kind, _ = _kind_of(column)
    try:
        values = _as_type(table[name], kind)
        check(_extremes(values), list[column.type])  # type: ignore[name-defined]
    except ValueError as error:
        reason = str(error).partition(" in [")[0]
        raise ValueError(f"column {name}: {reason}") from error
    return table.set_column(table.column_names.index(name), name, values)


def _as_type(values: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Convert between numbers, and between strings; NaN is a missing value."""
    types = pa.types
    if types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    own = values.type
    is_number = types.is_integer(own) or types.is_floating(own)
    fits = (
        types.is_null(own)
        or (types.is_boolean(kind) and types.is_boolean(own))
        or (types.is_string(kind) and (types.is_string(own) or types.is_large_string(own)))
        or ((types.is_integer(kind) or types.is_floating(kind)) and is_number)
    )
    if not fits:
        raise ValueError(f"expected {kind}, got {own}")
    if types.is_floating(own):
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, own), values)
    return values.cast(kind)


def _extremes(values: pa.ChunkedArray) -> list[Any]:
    """Return values that are within a range only if all are."""
    if pa.types.is_string(values.type) or pa.types.is_boolean(values.type):
        return list(pc.unique(values).to_pylist())
    missing = [None] if values.null_count else []
    if values.null_count == len(values):
        return missing
    return [*pc.min_max(values).as_py().values(), *missing]
