"""Cells of tables: short texts and full values."""

from __future__ import annotations

import numpy as np
import pandas as pd

from distviz.reports.cells import data_table


def test_cells() -> None:
    frame = pd.DataFrame(
        {
            "n": [1234567, 2],
            "near_zero": [0.0694, np.nan],
            "x": [-0.000012345678, 3.0],
            "blank": ["", ""],
        }
    )
    table = data_table("t", frame)
    assert table.columns == [("n", True), ("near_zero", True), ("x", True)]
    text = [[(cell.text, cell.value) for cell in row] for row in table.rows]
    assert text == [
        [("1,234,567", "1234567"), ("6.94 %", "0.0694"), ("−1.235e−5", "-1.2345678e-05")],
        [("2", "2"), ("–", ""), ("3", "3.0")],
    ]
