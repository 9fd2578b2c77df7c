"""Tables of a result as DataFrames: read again from CSV, and cut to some layers and sites."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import pandas as pd

from distviz.errors import RequestError, first_line

__all__ = ["choose_places", "read_csv", "rows_at"]

_TEXTS = ("site", "module", "module_a", "module_b", "stack", "reason")


def read_csv(path: Path, columns: Collection[str] = ()) -> pd.DataFrame:
    """Read a table as it was written; empty texts are empty, not missing.

    Raises
    ------
    RequestError
        If the file is missing, damaged, or lacks one of the ``columns``; it is named.
    """
    try:
        table = pd.read_csv(path)
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    texts = [name for name in _TEXTS if name in table]
    table[texts] = table[texts].astype(object).where(table[texts].notna(), "")
    return _checked(table, path, columns)


def read_parquet(path: Path, columns: Collection[str] = ()) -> pd.DataFrame:
    """Read a Parquet table; errors as of `read_csv`."""
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    return _checked(table, path, columns)


def _unreadable(path: Path, error: Exception) -> RequestError:
    if isinstance(error, FileNotFoundError):
        return RequestError(f"{path} is missing, the folder is not complete")
    return RequestError(f"{path} is damaged: {first_line(error)}")


def _checked(table: pd.DataFrame, path: Path, columns: Collection[str]) -> pd.DataFrame:
    missing = set(columns) - set(table)
    if missing:
        raise RequestError(f"{path} is damaged: it has no column {min(missing)}")
    return table


def choose_places(
    known: Iterable[tuple[int, str]],
    layers: Iterable[int] | None,
    sites: Iterable[str] | None,
    name: str,
) -> set[tuple[int, str]]:
    """Return the (layer, site) pairs that are asked for; None takes all.

    Raises
    ------
    RequestError
        If none is there; the message lists what ``name`` (the run, the comparison) holds.
    """
    there = list(dict.fromkeys(known))
    if not there:
        raise RequestError(f"the {name} holds no distributions")
    wanted = None if layers is None else set(layers)
    named = None if sites is None else set(sites)
    kept = {
        (layer, site)
        for layer, site in there
        if (wanted is None or layer in wanted) and (named is None or site in named)
    }
    if not kept:
        raise RequestError(
            f"the {name} holds none of these layers and sites",
            f"it has layers {', '.join(map(str, sorted({layer for layer, _ in there})))}; "
            f"sites {', '.join(dict.fromkeys(site for _, site in there))}",
        )
    return kept


def rows_at(table: pd.DataFrame, places: set[tuple[int, str]]) -> pd.DataFrame:
    """Return the rows at some (layer, site) pairs, by layer alone where a table names no site."""
    column = next((name for name in ("layer", "layer_a") if name in table), None)
    if column is None:
        return table
    if "site" not in table:
        keep = table[column].isin({layer for layer, _ in places}).to_numpy()
    else:
        keep = pd.MultiIndex.from_frame(table[[column, "site"]]).isin(sorted(places))
    return table[keep].reset_index(drop=True)
