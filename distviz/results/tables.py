"""Tables of a result as DataFrames: selecting rows, conversion to plain data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from distviz.errors import RequestError
from distviz.output import listed
from distviz.sites import SiteKey


def need(table: pd.DataFrame, columns: Iterable[str], name: str) -> pd.DataFrame:
    """Return a table of the file ``name``, which must have some of its optional columns.

    Raises
    ------
    RequestError
        If one is missing.
    """
    missing = [column for column in columns if column not in table]
    if missing:
        raise RequestError(f"{name} has no column {missing[0]}", "measure again")
    return table


def by_document(
    table: pd.DataFrame, keys: Sequence[SiteKey], columns: Sequence[str]
) -> dict[str, pd.DataFrame]:
    """Return columns of ``documents.parquet`` as (places, documents), NaN where there is no row.

    The columns of the result are the numbers of the documents.

    Raises
    ------
    RequestError
        If the table lacks a column.
    """
    names = list(SiteKey._fields)
    if not len(table):
        return {name: pd.DataFrame(index=range(len(keys)), dtype=float) for name in columns}
    rows = need(table, [*names, "document", *columns], "documents.parquet")
    wanted = pd.MultiIndex.from_tuples([tuple(key) for key in keys], names=names)
    return {
        name: rows.pivot_table(
            index=names, columns="document", values=name, aggfunc="first"
        ).reindex(wanted)
        for name in columns
    }


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows as plain data for JSON, with all digits; NaN and infinities become None."""
    columns = {
        str(name): [None if isinstance(v, float) and not math.isfinite(v) else v for v in values]
        for name, values in table.to_dict(orient="list").items()
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def choose_places(
    known: Iterable[tuple[int, str]],
    layers: Iterable[int] | None,
    sites: Iterable[str] | None,
    name: str,
) -> set[tuple[int, str]]:
    """Return the (layer, site) pairs that are asked for; None selects all.

    Raises
    ------
    RequestError
        If none exists; the message lists what ``name`` (the run, the comparison) has.
    """
    there = list(dict.fromkeys(known))
    if not there:
        raise RequestError(f"the {name} holds no distributions")
    wanted = None if layers is None else set(layers)
    named = None if sites is None else set(sites)
    chosen = {
        (layer, site)
        for layer, site in there
        if (wanted is None or layer in wanted) and (named is None or site in named)
    }
    if not chosen:
        held = ", ".join(map(str, sorted({layer for layer, _ in there})))
        raise RequestError(
            f"the {name} holds none of these layers and sites",
            f"it has {listed('layer', held)}; "
            f"sites {', '.join(dict.fromkeys(site for _, site in there))}",
        )
    return chosen


def rows_at(table: pd.DataFrame, places: set[tuple[int, str]]) -> pd.DataFrame:
    """Return the rows at some (layer, site) pairs; by layer alone if the table has no site."""
    column = next((name for name in ("layer", "layer_a") if name in table), None)
    if column is None:
        return table
    if "site" not in table:
        keep = table[column].isin({layer for layer, _ in places}).to_numpy()
    else:
        keep = pd.MultiIndex.from_frame(table[[column, "site"]]).isin(sorted(places))
    return table[keep].reset_index(drop=True)
