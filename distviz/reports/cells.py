"""Tables of numbers as tables of the page: short texts to read, full values to sort and copy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from distviz.reports.page import Cell, DataTable
from distviz.results import number, percent

__all__ = ["data_table"]

_SHARES = frozenset(
    ("near_zero", "near", "fraction", "fraction_moved", "top1_agreement", "attention_kept")
)
_DIGITS = 4


def data_table(title: str, frame: pd.DataFrame, columns: Sequence[str] | None = None) -> DataTable:
    """Return a frame as a table of the page; columns that are empty or missing are left out."""
    names = [name for name in (columns or frame.columns) if name in frame]
    names = [name for name in names if not _is_blank(frame[name])]
    numeric = {name: pd.api.types.is_numeric_dtype(frame[name]) for name in names}
    rows = [
        [_cell(str(name), value) for name, value in zip(names, row, strict=True)]
        for row in frame[names].itertuples(index=False, name=None)
    ]
    return DataTable(title, [(str(name), bool(numeric[name])) for name in names], rows)


def _is_blank(column: pd.Series[Any]) -> bool:
    return bool(column.isna().all() or (column.astype(str) == "").all())


def _cell(name: str, value: Any) -> Cell:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Cell("–", "")
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool):
        return Cell("yes" if value else "no", str(value).lower())
    if isinstance(value, int):
        return Cell(f"{value:,}", str(value))
    if isinstance(value, float):
        is_share = name in _SHARES or name.startswith(("near_zero_a", "near_zero_b"))
        text = percent(value) if is_share else number(value, _DIGITS)
        is_short = not is_share and float(f"{value:.3g}") == value and 1e-4 <= abs(value) < 1e6
        return Cell(f"{value:g}".replace("-", "−") if is_short else text, repr(value))
    return Cell(str(value), str(value))
