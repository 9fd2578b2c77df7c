"""The result of a what-if study: values of a run set to zero, or stored in fewer bits.

Everything is computed from the sketches of a run, see `distviz.studies.whatif`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import pandas as pd

from distviz.results.columns import Row, WhatIfRow, names_of
from distviz.results.labels import decibels, percent, place_name
from distviz.results.reading import Folder
from distviz.results.result import Result, model_layers
from distviz.results.schema import Manifest, WhatIfManifest
from distviz.results.storage import WHATIF
from distviz.results.tables import records

COLUMNS = tuple(names_of(WhatIfRow))
"""Of ``whatif.csv``; docs/files.md explains each."""

Item = TypeVar("Item")
RANGES = ("mse", "max", "percentile", "none")
"""Choices of a format's range; the first of these that was requested is shown first."""

_PLACE = ["stack", "layer"]


@dataclass(frozen=True)
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

    def losses(self, site: str, format_: str, range_: str, phase: str = "before") -> pd.DataFrame:
        """Return a row per layer for one format and range: its module with the largest loss."""
        rows = self._rows("format", site, phase)
        return _one_a_layer(
            rows[(rows["format"] == format_) & (rows["range"] == range_)], "sqnr_db"
        )

    def levels(self, site: str) -> list[float]:
        """Return the shares of zeros, ascending."""
        return sorted(set(self._rows("sparsity", site)["level"]))

    def thinned(self, site: str, level: float, phase: str = "before") -> pd.DataFrame:
        """Return a row per layer for one share of zeros: its module with the smallest l2_kept."""
        rows = self._rows("sparsity", site, phase)
        return _one_a_layer(rows[rows["level"] == level], "l2_kept")

    def thresholds(self, site: str) -> list[float]:
        """Return the thresholds, ascending."""
        return sorted(set(self._rows("threshold", site)["threshold"]))

    def cut(self, site: str, threshold: float, phase: str = "before") -> pd.DataFrame:
        """Return a row per layer for one threshold: its module with the smallest l2_kept."""
        rows = self._rows("threshold", site, phase)
        return _one_a_layer(rows[rows["threshold"] == threshold], "l2_kept")

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
        table = table.astype({"zero_point": "Int64"})
        return cls(folder.manifest, table, file_warnings=folder.changes())


def evenly(items: Sequence[Item], most: int) -> list[Item]:
    """Choose at most so many of several items, evenly spaced, from the last one backwards."""
    return list(items[::-1][:: max(len(items) // most, 1)][:most])


def whatif_verdict(results: WhatIf) -> str:
    """Return which format loses most and least over all sites, where, and what zeros cost."""
    worst: dict[str, dict[str, Any]] = {}
    for name, range_ in dict.fromkeys(kind for s in results.sites for kind in results.kinds(s)):
        tables = [_first_losses(results, site, name, range_) for site in results.sites]
        worst |= {f"{name} ({range_})": row for row in least_first(pd.concat(tables), "sqnr_db", 1)}
    order = sorted(worst, key=lambda name: worst[name]["sqnr_db"])
    amounts = ("the most signal over noise", "the least")
    sentences = [
        f"{name} has {amount}: {decibels(worst[name]['sqnr_db'])} dB in its worst layer, "
        f"{_where(results, worst[name])}"
        for amount, names in zip(amounts, (order[-1:], order[:-1][:1]), strict=True)
        for name in names
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
    return f"{start}{'; '.join(sentences)}." if sentences else ""


def _first_losses(results: WhatIf, site: str, name: str, range_: str) -> pd.DataFrame:
    return results.losses(site, name, range_, results.phases(site)[0])


def _where(results: WhatIf, row: dict[str, Any]) -> str:
    """Return the layer, and its site where the results have several."""
    return place_name(row) + f" ({row['site']})" * (len(results.sites) > 1)


def _one_a_layer(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """Return the row of each layer with the smallest value of a column, in table order."""
    least = rows.sort_values(by, kind="stable").drop_duplicates(_PLACE)
    return least.sort_index()


def least_first(rows: pd.DataFrame, column: str, most: int) -> list[dict[str, Any]]:
    """Return at most ``most`` rows with the smallest values of a column, ascending, without NaN.

    Infinite numbers stay infinite.
    """
    ordered = rows.dropna(subset=column).sort_values(column, kind="stable").head(most)
    return [
        row | {column: value}
        for row, value in zip(records(ordered), ordered[column].tolist(), strict=True)
    ]
