"""Tables are read as they were written, in their declared types, or refused with the column."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from distviz.results.arrow_tables import parse_table, read_parquet
from distviz.results.columns import Row
from distviz.results.schema import Count, Finite, Layer, Number, Share


class Small(Row, kw_only=True):
    can_be_blank: ClassVar[bool] = True
    layer: Layer
    site: str
    share: Share | None
    n: Count | None = None
    ok: bool = True
    x: Number | None = None


FRAME = pd.DataFrame(
    {
        "layer": [0, 0, 2], "site": ["act", "up", ""], "share": [0.5, math.nan, 1 / 3],
        "n": [2**40, None, 3], "ok": [True, False, True], "x": [math.inf, 1e-300, math.nan],
        "mine": ["2026-01-01", "", "é"],
    }
)  # fmt: skip


def bytes_of(frame: pd.DataFrame, *, is_parquet: bool) -> bytes:
    if is_parquet:
        return bytes(frame.to_parquet(None, index=False))
    return frame.to_csv(index=False).encode()


@pytest.mark.parametrize("is_parquet", [True, False])
def test_what_is_written_is_read(is_parquet: bool) -> None:
    again = parse_table(bytes_of(FRAME, is_parquet=is_parquet), Small, is_parquet=is_parquet)
    pd.testing.assert_frame_equal(again[FRAME.columns[:-1]], FRAME[FRAME.columns[:-1]])
    assert [*again["mine"]][2] == "é"


def test_a_blank_table_has_no_columns() -> None:
    assert parse_table(b"\n", Small, is_parquet=False).shape == (0, 0)
    assert parse_table(pd.DataFrame().to_parquet(None), Small, is_parquet=True).shape == (0, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": None}, "it has no column layer"),
        ({"layer": ["a", "b", "c"]}, "layer"),
        ({"layer": [0, 1, 10**9]}, "column layer: expected int <= 9999"),
        ({"layer": [0, -2, 1]}, "column layer: expected int >= -1"),
        ({"layer": [0, 1.5, 1]}, "layer"),
        ({"layer": [0, None, 1]}, "layer"),
        ({"layer": [0, 1, 10**25]}, "layer"),
        ({"layer": [0, 1, math.inf]}, "layer"),
        ({"share": [0, 1, 1.5]}, "column share: expected float <= 1"),
        ({"share": ["a", "b", "c"]}, "share"),
        ({"n": [0, -1, 1]}, "column n: expected int >= 0"),
        ({"ok": ["no", "x", "y"]}, "ok"),
    ],
)
@pytest.mark.parametrize("is_parquet", [True, False])
def test_a_column_that_does_not_fit_is_named(
    change: dict[str, Any], message: str, is_parquet: bool
) -> None:
    ((name, values),) = change.items()
    frame = FRAME.drop(columns=name) if values is None else FRAME.assign(**change)
    if is_parquet and values is not None and any(value == 10**25 for value in values):
        frame = frame.assign(layer=frame["layer"].astype(float))
    with pytest.raises((ValueError, pa.ArrowException), match=message):
        parse_table(bytes_of(frame, is_parquet=is_parquet), Small, is_parquet=is_parquet)


@pytest.mark.parametrize("values", [[[1], [2], [3]], [{"a": 1}] * 3, [b"\xff"] * 3])
def test_columns_of_other_kinds_are_refused(values: list[Any]) -> None:
    for name in ("layer", "site", "share"):
        data = bytes_of(FRAME.assign(**{name: values}), is_parquet=True)
        with pytest.raises(ValueError, match=f"column {name}: expected"):
            parse_table(data, Small, is_parquet=True)


def test_a_column_twice_is_refused() -> None:
    text = b"layer,site,share,share\n0,act,1,1\n"
    with pytest.raises(ValueError, match="the column share twice"):
        parse_table(text, Small, is_parquet=False)
    with pytest.raises(ValueError, match="Expected 3 columns"):
        parse_table(b"layer,site,share\n0,act,1\n0,act,1,7\n", Small, is_parquet=False)


def test_a_file_that_claims_too_many_rows_is_not_decoded(tmp_path: Path) -> None:
    path = tmp_path / "bomb.parquet"
    schema = pa.schema([("layer", pa.int64())])
    with parquet.ParquetWriter(path, schema) as writer:
        zeros = pa.table({"layer": np.zeros(2_000_000, np.int64)})
        for _ in range(3):
            writer.write_table(zeros, row_group_size=2_000_000)
    with pytest.raises(ValueError, match="it claims 6,000,000 rows in"):
        read_parquet(path.read_bytes())


def test_damaged_pages_are_found() -> None:
    class Numbers(Row, kw_only=True):
        x: Finite

    sink = io.BytesIO()
    table = pa.table({"x": np.random.default_rng(0).random(5000)})
    parquet.write_table(table, sink, compression="none", write_page_checksum=True)
    data = bytearray(sink.getvalue())
    data[2000] ^= 1
    with pytest.raises(OSError, match="CRC"):
        parse_table(bytes(data), Numbers, is_parquet=True)
