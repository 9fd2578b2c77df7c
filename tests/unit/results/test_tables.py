"""Tables are read as they were written, checked for columns, and cut to layers and sites."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from distviz.errors import RequestError
from distviz.results.tables import choose_places, read_table, records, rows_at

TABLE = pd.DataFrame(
    {
        "layer": [0, 0, 2],
        "site": ["act", "up", "act"],
        "preset": ["", "gemma", ""],
        "x": [1.5, 2, 3],
    }
)
PLACES = [(0, "act"), (0, "up"), (2, "act")]


@pytest.mark.parametrize("name", ["table.csv", "table.parquet"])
def test_what_is_written_is_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if path.suffix == ".csv":
        TABLE.to_csv(path, index=False)
    else:
        TABLE.to_parquet(path)
    pd.testing.assert_frame_equal(read_table(path, {"layer", "x"}), TABLE)
    with pytest.raises(RequestError, match=rf"{name} is damaged: it has no column y"):
        read_table(path, {"y", "z"})


def test_labels_of_layers_stay_text_and_an_empty_file_has_no_columns(tmp_path: Path) -> None:
    path = tmp_path / "sweep.csv"
    path.write_text("layers,preset\n0,\n1,\n")
    assert read_table(path).to_dict("list") == {"layers": ["0", "1"], "preset": ["", ""]}
    path.write_text("\n")
    assert read_table(path).empty
    with pytest.raises(RequestError, match="no column layers"):
        read_table(path, ["layers"])
    with pytest.raises(RequestError, match=r"none\.csv is missing"):
        read_table(tmp_path / "none.csv")


def test_records_are_json() -> None:
    table = pd.DataFrame({"n": [1, 2], "x": [0.1, math.inf], "y": [math.nan, -1.0]})
    assert records(table) == [{"n": 1, "x": 0.1, "y": None}, {"n": 2, "x": None, "y": -1.0}]


def test_places_are_chosen_by_layer_and_site() -> None:
    assert choose_places(PLACES, None, None, "run") == set(PLACES)
    assert choose_places(PLACES, [0], ["act"], "run") == {(0, "act")}
    with pytest.raises(RequestError, match=r"the run holds none of these.*\n.*layers 0, 2; sites"):
        choose_places(PLACES, [1], None, "run")
    with pytest.raises(RequestError, match="holds no distributions"):
        choose_places([], None, None, "run")


def test_rows_at_places() -> None:
    assert rows_at(TABLE, {(0, "up"), (2, "act")})["x"].tolist() == [2, 3]
    assert rows_at(TABLE.drop(columns="site"), {(0, "act")})["x"].tolist() == [1.5, 2]
    without = TABLE[["x"]]
    assert rows_at(without, {(0, "act")}) is without
