"""Plain data and arrays as bytes, for checkpoints and for messages between processes.

A tree consists of dicts with string keys, lists, strings, numbers, booleans, None and NumPy arrays.
All floats and integers of any size are restored exactly; no pickle.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from distviz.errors import first_line
from distviz.stats import float_grid
from distviz.stats.moments import Moments
from distviz.stats.sketch import Sketch

_ARRAY = "$array"
_LENGTH_BYTES = 8
_Size = Annotated[int, msgspec.Meta(ge=0, le=2**48)]


class _Array(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The entry of an array: dtype as NumPy writes it, and its first byte after the JSON."""

    dtype: Annotated[str, msgspec.Meta(pattern=r"^[<>|][biufc]\d+\Z")]
    shape: list[_Size]
    place: _Size


def encode(tree: Any) -> bytes:
    """Return the bytes of a tree: length of the JSON (8 bytes, little-endian), JSON, arrays."""
    arrays: list[bytes] = []
    place = 0

    def array(value: Any) -> dict[str, Any]:
        nonlocal place
        if not isinstance(value, np.ndarray):
            raise TypeError(f"a {type(value).__name__} cannot be packed")
        data = np.ascontiguousarray(value).tobytes()
        entry = {_ARRAY: [value.dtype.str, list(value.shape), place]}
        arrays.append(data)
        place += len(data)
        return entry

    head = json.dumps(tree, default=array, separators=(",", ":")).encode()
    return b"".join([len(head).to_bytes(_LENGTH_BYTES, "little"), head, *arrays])


def decode(data: bytes | memoryview) -> Any:
    """Restore what `encode` returned; arrays are writable copies.

    Raises
    ------
    ValueError
        If the bytes are none that `encode` returns.
    """
    start = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")

    def restore(entry: dict[str, Any]) -> Any:
        if _ARRAY not in entry:
            return entry
        found = msgspec.convert(entry[_ARRAY], _Array)
        size, place = math.prod(found.shape), start + found.place
        return np.frombuffer(data, found.dtype, size, place).reshape(found.shape).copy()

    try:
        return json.loads(bytes(data[_LENGTH_BYTES:start]), object_hook=restore)
    except (RecursionError, OverflowError) as error:
        raise ValueError(first_line(error)) from error


def pack_tables(tables: Sequence[NDArray[np.integer]]) -> dict[str, Any]:
    """Return the non-zero cells of tables of 65,536 counters."""
    cells = [np.flatnonzero(table) for table in tables]
    counts = [table[occupied] for table, occupied in zip(tables, cells, strict=True)]
    together = np.concatenate(counts) if counts else np.empty(0, np.int64)
    smallest = np.min_scalar_type(int(together.max(initial=0)))
    return {
        "lengths": [occupied.size for occupied in cells],
        "cells": np.concatenate(cells).astype(np.uint16) if cells else np.empty(0, np.uint16),
        "counts": together.astype(smallest),
    }


def unpack_tables(packed: dict[str, Any]) -> list[NDArray[np.int64]]:
    """Return the tables, int64 (65536,) each."""
    tables, start = [], 0
    for length in packed["lengths"]:
        table = np.zeros(float_grid.CELLS, np.int64)
        part = slice(start, start + length)
        table[packed["cells"][part]] = packed["counts"][part]
        tables.append(table)
        start += length
    return tables


def pack_moments(moments: Iterable[Moments]) -> list[list[Any]]:
    """Return moments as exact plain numbers."""
    return [[m.count, m.first, m.second, m.overflows, m.higher] for m in moments]


def unpack_moments(packed: Iterable[Sequence[Any]]) -> list[Moments]:
    """Restore what `pack_moments` returned."""
    return [
        Moments(count, first, second, lost, None if more is None else (more[0], more[1], more[2]))
        for count, first, second, lost, more in packed
    ]


def pack_sketches(sketches: Sequence[Sketch]) -> dict[str, Any]:
    """Return a tree with complete sketches."""
    return {
        "facts": [[s.grid, s.nan, s.inf, s.zeros, s.min, s.max, s.is_rounded] for s in sketches],
        "moments": pack_moments(s.moments for s in sketches),
        "tables": pack_tables([s.table for s in sketches]),
    }


def unpack_sketches(packed: dict[str, Any]) -> list[Sketch]:
    """Restore what `pack_sketches` returned."""
    found = []
    moments, tables = unpack_moments(packed["moments"]), unpack_tables(packed["tables"])
    for facts, own, table in zip(packed["facts"], moments, tables, strict=True):
        sketch = Sketch(facts[0])
        sketch.nan, sketch.inf, sketch.zeros, sketch.min, sketch.max, sketch.is_rounded = facts[1:]
        sketch.moments, sketch.table = own, table
        found.append(sketch)
    return found
