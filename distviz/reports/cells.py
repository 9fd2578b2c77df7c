"""Cells of tables: short texts to read, full values to sort and copy; settings as facts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from distviz.reports.page import Block, Cell, Command, DataTable, Facts, Fold, Section
from distviz.results import meanings_of, number, percent

_SHARES = frozenset(
    (
        *("near_zero", "near", "fraction", "fraction_moved", "top1_agreement", "attention_kept"),
        *("error_share", "token_error_share", "energy_share"),
    )
)
_PHASES = ("phase", "phase_a", "phase_b")
_DIGITS = 4
_GROUPS = ("model", "text", "text_a", "text_b", "model_a", "model_b", "arm", "versions", "seconds")
_MACHINE = ("created", "device", "dtype", "threads", "schema_version")


def data_table(
    title: str, frame: pd.DataFrame, columns: Sequence[str] | None = None, *, table: str = ""
) -> DataTable:
    """Return a frame as a table of the page, without empty and missing columns.

    Phases are left out where all are ``before``: nothing comes after it.
    ``table`` names the file whose columns it has, as `meanings_of` does, or is the title.
    """
    names = [name for name in (columns or frame.columns) if name in frame]
    phases = [name for name in names if name in _PHASES]
    unused = phases if (frame[phases] == "before").all(axis=None) else []
    names = [name for name in names if name not in unused and not _is_blank(frame[name])]
    numeric = {name: pd.api.types.is_numeric_dtype(frame[name]) for name in names}
    rows = [
        [_cell(str(name), value) for name, value in zip(names, row, strict=True)]
        for row in frame[names].itertuples(index=False, name=None)
    ]
    heads = [(str(name), bool(numeric[name])) for name in names]
    meanings = meanings_of(table or title, [name for name, _ in heads])
    return DataTable(title, heads, rows, meanings)


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
    if isinstance(value, float) and math.isinf(value):
        return Cell("inf" if value > 0 else "−inf", repr(value))
    if isinstance(value, float):
        is_share = name in _SHARES or name.startswith(("near_zero_a", "near_zero_b"))
        text = percent(value) if is_share else number(value, _DIGITS)
        is_short = not is_share and float(f"{value:.3g}") == value and 1e-4 <= abs(value) < 1e6
        return Cell(f"{value:g}".replace("-", "−") if is_short else text, repr(value))
    return Cell(str(value), str(value))


def provenance(manifest: dict[str, Any], command: str) -> Section:
    """Return the last section of a part: the command that repeats it, and the manifest."""
    blocks: list[Block] = [Command(command)] if command else []
    blocks.append(_facts({name: manifest[name] for name in _MACHINE if name in manifest}))
    for name in (*_GROUPS, "settings", "asked"):
        found = manifest.get(name)
        if isinstance(found, dict) and found:
            blocks.append(Fold(name.replace("_", " "), [_facts(found)]))
    return Section("How this was made", blocks)


def _facts(values: dict[str, Any]) -> Facts:
    return Facts([(name.replace("_", " "), _text(value)) for name, value in values.items()])


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "–"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(one)}" for key, one in value.items())
    if isinstance(value, int):
        return f"{value:,}" if value >= 10_000 else str(value)
    return str(value)
