"""The sketches as a Parquet file of (key, token class, value, count) rows.

The grid, NaN, infinities, exact zeros and extremes are in the file's metadata, as JSON under
``distviz``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct
from numpy.typing import NDArray

from distviz.output import counted
from distviz.parsing import NOT_FINITE, parse_json
from distviz.results.arrow_tables import read_parquet
from distviz.results.schema import CountsNote, check
from distviz.sites import SiteKey
from distviz.stats import Moments, Sketch, float_grid

_METADATA = b"distviz"
_MOST = 2**62
"""No sum of counts is larger."""
_LARGEST = float(np.finfo(np.float32).max)
_CELL, _TINY = 2.0**-7, 2.0**-126
"""Width of a cell of bf16, relative and, below the normal numbers, absolute in units of it."""
_KEY = ("layer", "site", "phase", "module", "token_class", "stack")


def write(path: Path, sketches: dict[SiteKey, dict[str, Sketch]], schema_version: int) -> None:
    """Write the sketches; equal sketches give equal bytes.

    Columns: layer int32, site, phase, module, token_class (strings), value float32, count int64,
    stack (string); non-zero cells only, values ascending, -0.0 and 0.0 separate.
    """
    parts = [
        (_names(key, token_class), *sketch.pairs(), _exact(sketch))
        for key, by_class in sketches.items()
        for token_class, sketch in by_class.items()
    ]
    write_counts(path, _KEY, parts, schema_version, "sketches")


def write_counts(
    path: Path,
    names: Sequence[str],
    parts: Sequence[tuple[dict[str, Any], NDArray[Any], NDArray[np.int64], dict[str, Any]]],
    schema_version: int,
    noun: str,
) -> None:
    """Write a Parquet file of rows of values and their counts.

    Parameters
    ----------
    path
        The file.
    names
        The columns that say which distribution a row belongs to; ``stack`` is the last one.
    parts
        Of each distribution: its entry in these columns, values, counts, and further facts.
    schema_version, noun
        For the metadata: JSON with the entries and facts of all parts in a list ``noun``.
    """
    tables, entries = [], []
    types = {name: pa.int32() if name == "layer" else pa.string() for name in names}
    for own, values, counts, facts in parts:
        columns = {
            name: pa.repeat(pa.scalar(own[name], kind), values.size) for name, kind in types.items()
        }
        columns["value"] = pa.array(values.astype(np.float32))
        columns["count"] = pa.array(counts)
        tables.append(pa.table(columns))
        entries.append(own | facts | {"cells": int(values.size)})
    schema = pa.schema({**types, "value": pa.float32(), "count": pa.int64()})
    whole = pa.concat_tables(tables) if tables else schema.empty_table()
    order = [*(name for name in names if name != "stack"), "value", "count", "stack"]
    note = {"schema_version": schema_version, noun: entries}
    whole = whole.select(order).replace_schema_metadata({_METADATA: json.dumps(note)})
    pq.write_table(whole, path, compression="zstd", write_page_checksum=True)


def _names(key: SiteKey, token_class: str) -> dict[str, Any]:
    return {**key._asdict(), "token_class": token_class}


def _exact(sketch: Sketch) -> dict[str, Any]:
    moments = sketch.moments
    higher = moments.m3_m4 if sketch.is_rounded else None
    return {
        "grid": sketch.grid,
        "nan": sketch.nan,
        "inf": sketch.inf,
        "zeros": sketch.zeros,
        "min": None if math.isnan(sketch.min) else sketch.min,
        "max": None if math.isnan(sketch.max) else sketch.max,
        "is_rounded": sketch.is_rounded,
        "moments": [moments.count, moments.mean, moments.m2],
        "higher": None if higher is None else [*higher, moments.l1],
    }


def parse(data: bytes) -> dict[SiteKey, dict[str, Sketch]]:
    """Return the sketches from the bytes of a file that `write` wrote.

    Raises
    ------
    ValueError, OSError, pyarrow.ArrowException
        If the file is damaged, or its rows contradict its metadata.
    """
    sketches: dict[SiteKey, dict[str, Sketch]] = {}
    for entry, own_values, own_counts in read_counts(data, CountsNote, "sketches"):
        key = SiteKey(*(entry[name] for name in SiteKey._fields))
        by_class = sketches.setdefault(key, {})
        if entry["token_class"] in by_class:
            raise ValueError(f"it has {_place(entry)} twice")
        try:
            by_class[entry["token_class"]] = _restore(entry, own_values, own_counts)
        except ValueError as error:
            raise ValueError(f"{_place(entry)}: {error}") from error
    return sketches


def read_counts(
    data: bytes, kind: type[Struct], noun: str
) -> Iterator[tuple[dict[str, Any], NDArray[np.float32], NDArray[np.int64]]]:
    """Return entry, values and counts of each distribution in a file of `write_counts`.

    ``kind`` is the schema of its metadata. Raises what `parse` raises.
    """
    table = read_parquet(data, ["value", "count"])
    note = (table.schema.metadata or {}).get(_METADATA)
    if note is None or table.schema.types != [pa.float32(), pa.int64()]:
        raise ValueError(f"it has no {noun}: columns value and count, and metadata of distviz")
    plain = parse_json(note, allows=NOT_FINITE)
    check(plain, kind)
    values, counts = (table[name].to_numpy() for name in ("value", "count"))
    cells = [entry["cells"] for entry in plain[noun]]
    if sum(cells) != values.size or table["value"].null_count or table["count"].null_count:
        raise ValueError(f"it has {counted(values.size, 'row')}, its metadata names {sum(cells):,}")
    ends = np.cumsum(cells)[:-1]
    return zip(plain[noun], np.split(values, ends), np.split(counts, ends), strict=False)


def check_counts(counts: NDArray[np.int64]) -> None:
    """Raise ValueError if counts are not positive, or their sum may be too large."""
    if counts.size and (counts.min() < 1 or counts.max() > _MOST // counts.size):
        raise ValueError("its counts are not positive, or too large")


def _place(entry: dict[str, Any]) -> str:
    return ", ".join(str(entry[name]) for name in _KEY)


def _restore(entry: dict[str, Any], values: Any, counts: Any) -> Sketch:
    sketch = Sketch(entry["grid"])
    exact = values.astype(np.float64)
    if sketch.grid == "fp16":
        with np.errstate(over="ignore"):
            codes = values.astype(np.float16).view(np.uint16)
    else:
        codes = float_grid.to_bf16_codes(np.nan_to_num(exact))
    grid = float_grid.values(sketch.grid or "bf16")
    if not np.array_equal(grid[codes], exact) or np.unique(codes).size < codes.size:
        raise ValueError(f"its values are not different values of the {sketch.grid} grid")
    check_counts(counts)
    sketch.table[codes] = counts
    sketch.nan, sketch.inf, sketch.zeros = entry["nan"], entry["inf"], entry["zeros"]
    sketch.min = math.nan if entry["min"] is None else entry["min"]
    sketch.max = math.nan if entry["max"] is None else entry["max"]
    sketch.is_rounded = entry["is_rounded"]
    count, mean, m2 = entry["moments"]
    sketch.moments = Moments.of(count, mean, m2, entry["higher"])
    _check_facts(sketch, exact)
    return sketch


def _check_facts(sketch: Sketch, values: NDArray[np.float64]) -> None:
    """Check extremes, zeros and moments against the counts."""
    total = int(sketch.table.sum())
    if sketch.moments.count != total:
        raise ValueError(
            f"its moments are of {counted(sketch.moments.count, 'value')}, it has {total:,}"
        )
    if sketch.zeros > int(sketch.table[[0, float_grid.SIGN]].sum()):
        raise ValueError(f"it does not hold {counted(sketch.zeros, 'zero')}")
    if bool(values.size) == (math.isnan(sketch.min) or math.isnan(sketch.max)):
        raise ValueError("its extremes do not agree with its values")
    if values.size:
        step = _CELL if sketch.is_rounded else 0.0
        given = np.array([sketch.min, sketch.max])
        stored = np.array([values.min(), values.max()])
        # A finite value that would round to infinity is counted in the last cell.
        reached = np.clip(given, -_LARGEST, _LARGEST)
        size = np.maximum(np.abs(reached), np.abs(stored))
        if (np.abs(reached - stored) > step * size + _TINY * step).any():
            raise ValueError(f"its extremes {given.tolist()} do not agree with its values")
