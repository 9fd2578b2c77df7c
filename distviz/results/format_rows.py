"""What number formats lose in the layers of a run: rows of ``formats.csv`` for figures and text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from distviz.results.run import Run

LOST = "SQNR, dB (error of the values, not a cost)"
TOKEN_LOST = "the same within each token, mean over tokens"


def format_kinds(run: Run, site: str) -> list[tuple[str, str]]:
    """Return every (format, rotation) that was measured at a site, as they were given."""
    rows = _at(run, site)
    return list(dict.fromkeys(zip(rows.get("rotation", ()), rows.get("format", ()), strict=True)))


def kind_name(kind: tuple[str, str]) -> str:
    """Return how a (rotation, format) is written."""
    rotation, name = kind
    return name if rotation == "none" else f"{name} {rotation}"


def format_losses_of(
    run: Run, site: str, kind: tuple[str, str], phase: str = "before"
) -> pd.DataFrame:
    """Return a row per stack and layer: of its modules, the one with the smallest SQNR.

    ``token_sqnr_db`` is added: 10 log10 of 1 / token_error_share.
    """
    rows = _at(run, site)
    chosen = (rows["rotation"] == kind[0]) & (rows["format"] == kind[1]) & (rows["phase"] == phase)
    found = rows[chosen].sort_values("sqnr_db", kind="stable")
    found = found.drop_duplicates(["stack", "layer"]).sort_index()
    return found.assign(token_sqnr_db=found["token_error_share"].map(_decibels))


def _at(run: Run, site: str) -> pd.DataFrame:
    table = run.formats
    return table[table["site"] == site] if len(table) else table


def _decibels(share: float) -> float:
    if not share > 0:
        return math.inf if share == 0 else math.nan
    return -10 * math.log10(share)
