"""The counts as a Parquet file: plain columns, every value restored, contradictions found."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import torch
from support.counted_runs import key_of, make_run

from distviz.errors import RequestError
from distviz.results.run import Run
from distviz.stats.sketch import Sketch

if TYPE_CHECKING:
    from collections.abc import Sequence

ODD = [0.0, -0.0, -0.0, math.nan, math.nan, math.inf, -math.inf, 1e-45, -9.2e-41, 3.4e38, -7.25]


def sketch_of(values: Sequence[float], dtype: torch.dtype) -> Sketch:
    return Sketch().add(torch.tensor(values, dtype=torch.float64).to(dtype))


# There and back -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_save_and_load_change_nothing(dtype: torch.dtype, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    noise = (torch.randn(5000, generator=generator) * 3).tolist()
    run = make_run({
        key_of(): {"all": sketch_of(ODD, dtype)},
        key_of(1): {"digits": sketch_of(noise, dtype), "other": sketch_of(ODD[:3], dtype)},
        key_of(2): {"all": Sketch()},
        key_of(3): {"all": sketch_of([math.nan, math.inf], dtype)},
    })  # fmt: skip
    again = Run.load(run.save(tmp_path / "run"))
    assert again.sketches == run.sketches
    assert [*again.sketches] == [*run.sketches]
    assert again.manifest == run.manifest
    assert again.texts is None
    sketch = again.sketches[key_of()]["all"]
    infinite = int(torch.isinf(torch.tensor(ODD, dtype=torch.float64).to(dtype)).sum())
    assert (sketch.nan, sketch.inf) == (2, infinite)
    assert np.array_equal(sketch.table, run.sketches[key_of()]["all"].table)
    signs = [math.copysign(1, value) for value in sketch.pairs()[0] if value == 0]
    assert signs == [-1.0, 1.0]
    pd.testing.assert_frame_equal(again.stats(), run.stats(), check_exact=True)
    again.save(tmp_path / "again")
    for name in ("counts.parquet", "stats.csv", "histograms.csv", "run.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def test_every_16_bit_value_survives(tmp_path: Path) -> None:
    codes = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    for kind in (torch.bfloat16, torch.float16):
        sketch = Sketch().add(codes.view(kind))
        folder = make_run({key_of(): {"all": sketch}}).save(tmp_path / str(kind))
        assert Run.load(folder).sketches == {key_of(): {"all": sketch}}


def test_counts_as_plain_parquet(tmp_path: Path) -> None:
    values = [0.5, -0.0, 0.0, 0.5, -2.0]
    folder = make_run({key_of(4): {"all": sketch_of(values, torch.float32)}}).save(tmp_path / "run")
    table = pd.read_parquet(folder / "counts.parquet")
    assert table["value"].tolist() == [-2.0, 0.0, 0.0, 0.5]
    assert np.signbit(table["value"]).tolist() == [True, True, False, False]
    assert table["count"].tolist() == [1, 1, 1, 2]
    assert set(table["token_class"]) == {"all"}
    assert table["value"].dtype == np.float32
    metadata = __import__("pyarrow.parquet").parquet.read_schema(folder / "counts.parquet").metadata
    assert json.loads(metadata[b"distviz"])["sketches"][0]["grid"] == "bf16"


# What cannot be read ------------------------------------------------------------------------


@pytest.fixture
def saved(demo_run: Run, tmp_path: Path) -> Path:
    return demo_run.save(tmp_path / "run")


def test_rows_that_contradict_the_metadata(saved: Path) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(saved / "counts.parquet")
    pq.write_table(table.slice(0, table.num_rows - 3), saved / "counts.parquet")
    with pytest.raises(RequestError, match=r"counts\.parquet is damaged"):
        Run.load(saved)


@pytest.mark.parametrize(("name", "place"), [("moments", 2), ("higher", 1), ("higher", 2)])
def test_sums_that_cannot_be_negative(name: str, place: int, tmp_path: Path) -> None:
    """Of squares, fourth powers and magnitudes, of values that were rounded."""
    import pyarrow.parquet as pq

    run = make_run({key_of(): {"all": sketch_of([0.1, -0.7, 3.3], torch.float32)}})
    file = run.save(tmp_path / "run") / "counts.parquet"
    table = pq.read_table(file)
    ((key, text),) = table.schema.metadata.items()
    note = json.loads(text)
    note["sketches"][0][name][place] *= -1
    pq.write_table(table.replace_schema_metadata({key: json.dumps(note)}), file)
    with pytest.raises(RequestError, match=rf"counts\.parquet is damaged: expected .*{name}"):
        Run.load(tmp_path / "run")
