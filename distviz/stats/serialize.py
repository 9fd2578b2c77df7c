"""Plain data and arrays as one piece of bytes, for states on disk and between processes.

A tree is made of dicts with string keys, lists, strings, numbers, booleans, None and NumPy arrays.
Floats, NaN and infinities included, and integers of any size come back as they were; no pickle.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distviz.stats import float_grid
from distviz.stats.moments import Moments
from distviz.stats.sketch import Sketch

__all__ = [
    "decode",
    "encode",
    "pack_moments",
    "pack_sketches",
    "pack_tables",
    "unpack_moments",
    "unpack_sketches",
    "unpack_tables",
]

_ARRAY = "$array"
_LENGTH_BYTES = 8


def encode(tree: Any) -> bytes:
    """Write a tree: length of the JSON (8 bytes, little-endian), the JSON, the arrays."""
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
    """Read what `encode` wrote; arrays are copies that may be changed."""
    start = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")

    def restore(entry: dict[str, Any]) -> Any:
        if _ARRAY not in entry:
            return entry
        dtype, shape, place = entry[_ARRAY]
        size = int(np.prod(shape))
        return np.frombuffer(data, dtype, size, start + place).reshape(shape).copy()

    return json.loads(bytes(data[_LENGTH_BYTES:start]), object_hook=restore)


def pack_tables(tables: Sequence[NDArray[np.integer]]) -> dict[str, Any]:
    """Keep the cells of tables of 65,536 counters that are not zero."""
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


def pack_moments(moments: Iterable[Moments]) -> list[list[int]]:
    """Return plain numbers, exact."""
    return [[m.count, m.first, m.second, int(m.overflows)] for m in moments]


def unpack_moments(packed: Iterable[Sequence[int]]) -> list[Moments]:
    """Return the moments again."""
    return [Moments(c, first, second, bool(lost)) for c, first, second, lost in packed]


def pack_sketches(sketches: Sequence[Sketch]) -> dict[str, Any]:
    """Return a tree that holds sketches whole."""
    return {
        "facts": [[s.grid, s.nan, s.inf, s.zeros, s.min, s.max, s.is_rounded] for s in sketches],
        "moments": pack_moments(s.moments for s in sketches),
        "tables": pack_tables([s.table for s in sketches]),
    }


def unpack_sketches(packed: dict[str, Any]) -> list[Sketch]:
    """Return the sketches again."""
    found = []
    moments, tables = unpack_moments(packed["moments"]), unpack_tables(packed["tables"])
    for facts, own, table in zip(packed["facts"], moments, tables, strict=True):
        sketch = Sketch(facts[0])
        sketch.nan, sketch.inf, sketch.zeros, sketch.min, sketch.max, sketch.is_rounded = facts[1:]
        sketch.moments, sketch.table = own, table
        found.append(sketch)
    return found
