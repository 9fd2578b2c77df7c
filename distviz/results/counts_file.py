"""The sketches as a Parquet file of (key, token class, value, count) rows.

The grid, NaN, infinities, exact zeros and extremes are in the file's metadata, as JSON under
``distviz``.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distviz.sites import SiteKey
from distviz.stats import Moments, Sketch, float_grid

_METADATA = b"distviz"
_KEY = ("layer", "site", "phase", "module", "token_class", "stack")


def write(path: Path, sketches: dict[SiteKey, dict[str, Sketch]], schema_version: int) -> None:
    """Write the sketches; equal sketches give equal bytes.

    Columns: layer int32, site, phase, module, token_class (strings), value float32, count int64,
    stack (string); non-zero cells only, values ascending, -0.0 and 0.0 separate.
    """
    tables, entries = [], []
    for key, by_class in sketches.items():
        for token_class, sketch in by_class.items():
            values, counts = sketch.pairs()
            names = _names(key, token_class)
            columns = {
                name: pa.repeat(
                    pa.scalar(value, pa.int32() if name == "layer" else pa.string()), values.size
                )
                for name, value in names.items()
            }
            columns["value"] = pa.array(values.astype(np.float32))
            columns["count"] = pa.array(counts)
            tables.append(pa.table(columns))
            entries.append(names | _exact(sketch) | {"cells": int(values.size)})
    schema = pa.schema(
        [pa.field(name, pa.int32() if name == "layer" else pa.string()) for name in _KEY]
        + [pa.field("value", pa.float32()), pa.field("count", pa.int64())]
    )
    whole = pa.concat_tables(tables) if tables else schema.empty_table()
    order = ["layer", "site", "phase", "module", "token_class", "value", "count", "stack"]
    note = {"schema_version": schema_version, "sketches": entries}
    whole = whole.select(order).replace_schema_metadata({_METADATA: json.dumps(note)})
    pq.write_table(whole, path, compression="zstd")


def _names(key: SiteKey, token_class: str) -> dict[str, Any]:
    return {**key._asdict(), "token_class": token_class}


def _exact(sketch: Sketch) -> dict[str, Any]:
    return {
        "grid": sketch.grid,
        "nan": sketch.nan,
        "inf": sketch.inf,
        "zeros": sketch.zeros,
        "min": None if math.isnan(sketch.min) else sketch.min,
        "max": None if math.isnan(sketch.max) else sketch.max,
        "is_rounded": sketch.is_rounded,
        "moments": [sketch.moments.count, sketch.moments.mean, sketch.moments.m2],
    }


def read(path: Path) -> dict[SiteKey, dict[str, Sketch]]:
    """Read what `write` wrote.

    Raises
    ------
    ValueError, KeyError, OSError
        If the file is damaged, or its rows contradict its metadata.
    """
    table = pq.read_table(path, columns=["value", "count"])
    note = json.loads((pq.read_schema(path).metadata or {})[_METADATA])
    values = table["value"].to_numpy()
    counts = table["count"].to_numpy()
    sketches: dict[SiteKey, dict[str, Sketch]] = {}
    start = 0
    for entry in note["sketches"]:
        key = SiteKey(*(entry[name] for name in SiteKey._fields))
        stop = start + entry["cells"]
        if stop > values.size:
            raise ValueError("it holds fewer rows than it says")
        sketch = _restore(entry, values[start:stop], counts[start:stop])
        sketches.setdefault(key, {})[entry["token_class"]] = sketch
        start = stop
    if start != values.size:
        raise ValueError("it holds more rows than it says")
    return sketches


def _restore(entry: dict[str, Any], values: Any, counts: Any) -> Sketch:
    sketch = Sketch(entry["grid"])
    if sketch.grid == "fp16":
        codes = values.astype(np.float16).view(np.uint16)
    else:
        codes = float_grid.to_bf16_codes(values.astype(np.float64))
    sketch.table[codes] = counts
    sketch.nan, sketch.inf, sketch.zeros = entry["nan"], entry["inf"], entry["zeros"]
    sketch.min = math.nan if entry["min"] is None else entry["min"]
    sketch.max = math.nan if entry["max"] is None else entry["max"]
    sketch.is_rounded, sketch.moments = entry["is_rounded"], Moments.of(*entry["moments"])
    return sketch
