"""Tables are checked for columns, cut to layers and sites, and become plain data."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from distviz.errors import RequestError
from distviz.results.tables import choose_places, need, records, rows_at

TABLE = pd.DataFrame(
    {
        "layer": [0, 0, 2],
        "site": ["act", "up", "act"],
        "preset": ["", "gemma", ""],
        "x": [1.5, 2, 3],
    }
)
PLACES = [(0, "act"), (0, "up"), (2, "act")]


def test_a_table_that_lacks_an_optional_column_is_named() -> None:
    assert need(TABLE, ["x"], "table.csv") is TABLE
    assert need(TABLE[:0], ["x"], "table.csv").empty
    with pytest.raises(RequestError, match=r"table\.csv has no column y"):
        need(TABLE, ["x", "y"], "table.csv")


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
