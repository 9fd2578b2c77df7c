"""The result of a what-if study: values of a run set to zero, or stored in fewer bits.

Everything is computed from the sketches of a run, see `distviz.studies.whatif`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import pandas as pd
from msgspec import Meta

from distviz.results.columns import Row, names_of
from distviz.results.labels import decibels, percent, place_name
from distviz.results.reading import Folder
from distviz.results.result import Result, model_layers
from distviz.results.schema import (
    Count,
    Finite,
    Layer,
    Manifest,
    Number,
    Phase,
    Positive,
    Share,
    WhatIfManifest,
)
from distviz.results.storage import WHATIF
from distviz.results.tables import records


class WhatIfRow(Row, kw_only=True):
    """``whatif.csv``."""

    layer: Layer
    site: str
    phase: Phase
    question: Literal["sparsity", "threshold", "format"]
    level: Share | None
    format: str
    range: str
    threshold: Positive | None
    zeros: Share | None
    zeroed: Share | None
    l1_kept: Share | None
    l2_kept: Share | None
    clip_low: Finite | None
    clip_high: Finite | None
    scale: Positive | None
    zero_point: Annotated[int, Meta(ge=-(2**31), le=2**31)] | None
    clipped: Share | None
    mse: Positive | None
    sqnr_db: Number | None
    sqnr_rest_db: Number | None = None
    l2_kept_rest: Share | None = None
    rank: Annotated[int, Meta(ge=1)] | None = None
    rank_rest: Annotated[int, Meta(ge=1)] | None = None
    top_energy: Share | None = None
    value_energy: Share | None = None
    channel: Count | None = None
    channel_energy: Share | None = None
    module: str
    stack: str


COLUMNS = tuple(names_of(WhatIfRow))
"""Of ``whatif.csv``; docs/files.md explains each."""

WHOLE = ("zero_point", "channel", "rank", "rank_rest")
"""Columns of whole numbers that may be missing."""
Item = TypeVar("Item")
RANGES = ("mse", "max", "percentile", "none")
"""Choices of a format's range; the first of these that was requested is shown first."""

NO_COST = "SQNR is the error of the values, not the cost to the model."
HALF = 0.5
"""Of the energy: a value or a channel that holds so much decides every ratio of energies."""
TOP = "the largest 0.01 % of the values"

_PLACE = ["stack", "layer"]
_NEAR = 1.0
"""Decibels: a smaller difference is not told."""
_FAR = 0.5
"""A rank is far from another at so much of all places."""


@dataclass(frozen=True, repr=False)
class WhatIf(Result):
    """The effect of zeros and number formats on the values of a run.

    Attributes
    ----------
    manifest
        Content of ``whatif.json``.
    table
        ``whatif.csv``: one row per result, for each layer, site, phase and module. ``question`` is
        ``sparsity`` (which threshold makes a ``level`` of zeros), ``threshold`` (how many zeros a
        threshold makes) or ``format`` (what a number format loses).
    """

    FILE: ClassVar[str] = WHATIF
    NOUN: ClassVar[str] = "whatif folder"
    SCHEMA: ClassVar[type[Manifest]] = WhatIfManifest
    TABLES: ClassVar[dict[str, type[Row]]] = {"whatif.csv": WhatIfRow}

    table: pd.DataFrame

    @property
    def sites(self) -> list[str]:
        """Sites, in the order of the table."""
        return list(dict.fromkeys(self.table["site"]))

    @property
    def n_layers(self) -> int:
        """The number of layers that can be selected, the model's or the table's."""
        return max(int(self.table["layer"].max()) + 1, model_layers(self.manifest))

    def _places(self) -> Iterable[tuple[int, str]]:
        return zip(self.table["layer"], self.table["site"], strict=True)

    def kinds(self, site: str) -> list[tuple[str, str]]:
        """Return every (format, range) of the table."""
        rows = self._rows("format", site)
        return list(dict.fromkeys(zip(rows["format"], rows["range"], strict=True)))

    def losses(
        self, site: str, format_: str, range_: str, phase: str = "before", by: str = "sqnr_db"
    ) -> pd.DataFrame:
        """Return a row per layer for one format and range: its module with the lowest SQNR.

        ``by`` is ``sqnr_db``, or ``sqnr_rest_db`` for that without the largest 0.01 %.
        """
        rows = self._rows("format", site, phase)
        return _one_a_layer(rows[(rows["format"] == format_) & (rows["range"] == range_)], by)

    def levels(self, site: str) -> list[float]:
        """Return the shares of zeros, ascending."""
        return sorted(set(self._rows("sparsity", site)["level"]))

    def thinned(
        self, site: str, level: float, phase: str = "before", by: str = "l2_kept"
    ) -> pd.DataFrame:
        """Return a row per layer for one share of zeros: its module with the smallest l2_kept.

        ``by`` is ``l2_kept``, or ``l2_kept_rest`` for that without the largest 0.01 %.
        """
        rows = self._rows("sparsity", site, phase)
        return _one_a_layer(rows[rows["level"] == level], by)

    def thresholds(self, site: str) -> list[float]:
        """Return the thresholds, ascending."""
        return sorted(set(self._rows("threshold", site)["threshold"]))

    def cut(
        self, site: str, threshold: float, phase: str = "before", by: str = "l2_kept"
    ) -> pd.DataFrame:
        """Return a row per layer for one threshold; ``by`` as of `thinned`."""
        rows = self._rows("threshold", site, phase)
        return _one_a_layer(rows[rows["threshold"] == threshold], by)

    def worst(self) -> pd.DataFrame:
        """Return a row for each answer of the first phase of a site: its worst layer."""
        parts = []
        for site in self.sites:
            phase = self.phases(site)[0]
            parts += [(self.losses(site, *kind, phase), "sqnr_db") for kind in self.kinds(site)]
            parts += [(self.thinned(site, one, phase), "l2_kept") for one in self.levels(site)]
            parts += [(self.cut(site, one, phase), "l2_kept") for one in self.thresholds(site)]
        least = [rows.dropna(subset=by).nsmallest(1, by) for rows, by in parts]
        return pd.concat(least) if least else self.table.iloc[:0]

    def phases(self, site: str) -> list[str]:
        """Return the phases of a site, in the order of the table."""
        return list(dict.fromkeys(self.table.loc[self.table["site"] == site, "phase"]))

    def named_phase(self, site: str) -> str:
        """Return the first phase of a site as printed: the only one needs no name."""
        first, *others = self.phases(site)
        return first if others else ""

    def _rows(self, question: str, site: str, phase: str | None = None) -> pd.DataFrame:
        table = self.table
        chosen = (table["question"] == question) & (table["site"] == site)
        return table[chosen if phase is None else chosen & (table["phase"] == phase)]

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the table by name, as exported."""
        return {"whatif": self.table}

    def summary(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return self.stated | {"whatif": records(self.table)}

    @classmethod
    def _from_folder(cls, folder: Folder, tables: Sequence[pd.DataFrame]) -> WhatIf:
        (table,) = tables
        if table.empty:
            raise folder.damaged("whatif.csv", "it has no rows")
        # Folders of before do not have all columns.
        table = table.reindex(columns=[*COLUMNS, *(set(table) - set(COLUMNS))])
        table = table.astype(dict.fromkeys(WHOLE, "Int64"))
        return cls(folder.manifest, table, file_warnings=folder.changes())


def evenly(items: Sequence[Item], most: int) -> list[Item]:
    """Choose at most so many of several items, evenly spaced, from the last one backwards."""
    return list(items[::-1][:: max(len(items) // most, 1)][:most])


def whatif_verdict(results: WhatIf) -> str:
    """Return the formats of highest and lowest SQNR over all sites, and what zeros keep.

    Beside them stand the numbers without the largest 0.01 % of the values, and the layer whose rank
    they change most.
    """
    kinds = dict.fromkeys(kind for site in results.sites for kind in results.kinds(site))
    least = {kind: least_first(_losses(results, kind), "sqnr_db", 1) for kind in kinds}
    worst = {kind: rows[0] for kind, rows in least.items() if rows}
    order = sorted(worst, key=lambda kind: worst[kind]["sqnr_db"])
    amounts = ("the highest SQNR", "the lowest")
    sentences = [
        f"{_kind_name(kind)} has {amount}: {decibels(worst[kind]['sqnr_db'])} dB in its worst "
        f"layer, {_where(results, worst[kind])}{_rest(results, kind)}"
        for amount, kinds in zip(amounts, (order[-1:], order[:-1][:1]), strict=True)
        for kind in kinds
    ]
    levels = {level for site in results.sites for level in results.levels(site)}
    if levels:
        level = min(sorted(levels), key=lambda one: abs(one - 0.5))
        rows = [results.thinned(s, level, results.phases(s)[0]) for s in results.sites]
        sentences += [
            f"with {100 * level:g} % zeros the worst layer, {_where(results, row)}, keeps "
            f"{percent(row['l2_kept'])} of its energy"
            for row in least_first(pd.concat(rows), "l2_kept", 1)
        ]
    phases = results.phases(results.sites[0])
    start = f"{phases[0]}: " * (len(phases) > 1)
    found = f"{start}{'; '.join(sentences)}." if sentences else ""
    return " ".join(filter(None, [found, _moved(results), NO_COST * bool(worst)]))


def _losses(results: WhatIf, kind: tuple[str, str], by: str = "sqnr_db") -> pd.DataFrame:
    """Return the rows of all sites, each in its first phase, for a format and range."""
    parts = [results.losses(s, *kind, results.phases(s)[0], by) for s in results.sites]
    return pd.concat(parts)


def _kind_name(kind: Sequence[str]) -> str:
    return f"{kind[0]} ({kind[1]})"


def _rest(results: WhatIf, kind: tuple[str, str]) -> str:
    """Return the worst layer without the largest 0.01 % of the values, if it has another SQNR."""
    by = "sqnr_rest_db"
    worst = least_first(_losses(results, kind), "sqnr_db", 1)
    return "".join(
        f" (without the largest 0.01 %: {decibels(row[by])} dB in layer {_where(results, row)})"
        for row in least_first(_losses(results, kind, by), by, 1)
        if not abs(row[by] - worst[0]["sqnr_db"]) < _NEAR
    )


def _moved(results: WhatIf) -> str:
    """Return the layer whose rank falls most without the largest 0.01 %, where these decide it."""
    first = {site: results.phases(site)[0] for site in results.sites}
    rows = results.table[results.table["question"] == "format"]
    rows = rows[rows["phase"] == rows["site"].map(first)].dropna(subset=["rank", "rank_rest"])
    lowest = rows.groupby(["site", "format", "range"])["rank_rest"].transform("max")
    falls = (rows["rank_rest"] - rows["rank"]).where(rows["top_energy"] >= HALF, 0).astype(int)
    most = int(falls.argmax()) if len(falls) else 0
    if not (falls > 0).any() or falls.iloc[most] < lowest.iloc[most] * _FAR:
        return ""
    (row,) = least_first(rows.iloc[[most]], "sqnr_db", 1)
    return (
        f"By SQNR, {_kind_name((row['format'], row['range']))} in layer {_where(results, row)} is "
        f"rank {row['rank']} ({decibels(row['sqnr_db'])} dB), but rank {row['rank_rest']} without "
        f"{TOP}, which hold {percent(row['top_energy'])} of the energy: "
        f"{percent(row['zeroed'])} of the values become zero."
    )


def _where(results: WhatIf, row: dict[str, Any]) -> str:
    """Return the layer, and its site where the results have several."""
    return place_name(row) + f" ({row['site']})" * (len(results.sites) > 1)


def _one_a_layer(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """Return the row of each layer with the smallest value of a column, in table order."""
    least = rows.sort_values(by, kind="stable").drop_duplicates(_PLACE)
    return least.sort_index()


def least_first(
    rows: pd.DataFrame, column: str, most: int, *, is_reversed: bool = False
) -> list[dict[str, Any]]:
    """Return at most ``most`` rows with the smallest values of a column, ascending, without NaN.

    The largest, descending, if ``is_reversed``. Infinite numbers stay infinite.
    """
    known = rows.dropna(subset=column)
    ordered = known.sort_values(column, kind="stable", ascending=not is_reversed).head(most)
    return [
        row | {column: value}
        for row, value in zip(records(ordered), ordered[column].tolist(), strict=True)
    ]
