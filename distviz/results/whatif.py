"""What would become of a run's values: zeroed, or kept in fewer bits; and the folder that says so.

Plain data. Everything is answered from the sketches of a run, see `questions`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from distviz.errors import RequestError
from distviz.results.run import WHATIF, read_manifest, records, staging
from distviz.results.tables import choose_places, read_csv, rows_at

__all__ = ["COLUMNS", "WhatIf", "least_first"]

COLUMNS = (
    "layer",
    "site",
    "phase",
    "question",
    "level",
    "format",
    "range",
    "threshold",
    "zeros",
    "zeroed",
    "l1_kept",
    "l2_kept",
    "clip_low",
    "clip_high",
    "scale",
    "zero_point",
    "clipped",
    "mse",
    "sqnr_db",
    "module",
    "stack",
)
"""Of ``whatif.csv``; docs/files.md explains each."""

_TEXTS = ("question", "format", "range")
_PLACE = ["stack", "layer"]


@dataclass(frozen=True)
class WhatIf:
    """Answers about a run.

    Attributes
    ----------
    manifest
        Content of ``whatif.json``.
    table
        ``whatif.csv``: one row an answer, for each layer, site, phase and module. ``question`` is
        ``sparsity`` (which threshold makes a ``level`` of zeros), ``threshold`` (how many zeros a
        threshold makes) or ``format`` (what a number format loses).
    """

    manifest: dict[str, Any]
    table: pd.DataFrame

    @property
    def sites(self) -> list[str]:
        """Sites, in the order of the table."""
        return list(dict.fromkeys(self.table["site"]))

    @property
    def n_layers(self) -> int:
        """How many layers may be asked for: those of the model, or up to the last in the table."""
        number = (self.manifest.get("model") or {}).get("layers")
        seen = int(self.table["layer"].max()) + 1
        return max(seen, number if isinstance(number, int) else 0)

    def select(
        self, layers: Iterable[int] | None = None, sites: Iterable[str] | None = None
    ) -> WhatIf:
        """Return the part at some layers and sites; None takes all.

        Raises
        ------
        RequestError
            If none of them is there.
        """
        known = zip(self.table["layer"], self.table["site"], strict=True)
        places = choose_places(known, layers, sites, "whatif folder")
        return replace(self, table=rows_at(self.table, places))

    def kinds(self, site: str) -> list[tuple[str, str]]:
        """Return every (format, range) that was asked for."""
        rows = self._rows("format", site)
        return list(dict.fromkeys(zip(rows["format"], rows["range"], strict=True)))

    def losses(self, site: str, format_: str, range_: str, phase: str = "before") -> pd.DataFrame:
        """Return a row a layer for one format and range: its module that loses most."""
        rows = self._rows("format", site, phase)
        return _one_a_layer(
            rows[(rows["format"] == format_) & (rows["range"] == range_)], "sqnr_db"
        )

    def levels(self, site: str) -> list[float]:
        """Return the shares of zeros that were asked for, ascending."""
        return sorted(set(self._rows("sparsity", site)["level"]))

    def thinned(self, site: str, level: float, phase: str = "before") -> pd.DataFrame:
        """Return a row a layer for one share of zeros: its module that keeps least energy."""
        rows = self._rows("sparsity", site, phase)
        return _one_a_layer(rows[rows["level"] == level], "l2_kept")

    def thresholds(self, site: str) -> list[float]:
        """Return the thresholds that were asked for, ascending."""
        return sorted(set(self._rows("threshold", site)["threshold"]))

    def cut(self, site: str, threshold: float, phase: str = "before") -> pd.DataFrame:
        """Return a row a layer for one threshold: its module that keeps least energy."""
        rows = self._rows("threshold", site, phase)
        return _one_a_layer(rows[rows["threshold"] == threshold], "l2_kept")

    def phases(self, site: str) -> list[str]:
        """Return the phases that were asked about, in the order of the table."""
        return list(dict.fromkeys(self.table.loc[self.table["site"] == site, "phase"]))

    def _rows(self, question: str, site: str, phase: str | None = None) -> pd.DataFrame:
        table = self.table
        chosen = (table["question"] == question) & (table["site"] == site)
        return table[chosen if phase is None else chosen & (table["phase"] == phase)]

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the table by name, as exported."""
        return {"whatif": self.table}

    def summary(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return self.manifest | {"whatif": records(self.table)}

    def write(self, folder: Path) -> None:
        """Write every file but the figures into an existing folder (not atomic, see `save`)."""
        self.table.to_csv(folder / "whatif.csv", index=False)
        text = json.dumps(self.manifest, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / WHATIF).write_text(f"{text}\n", encoding="utf-8")

    def save(self, folder: str | Path, *, force: bool = False) -> Path:
        """Write the folder without figures: complete, or not at all."""
        with staging(Path(folder), force=force) as place:
            self.write(place)
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> WhatIf:
        """Read a whatif folder.

        Raises
        ------
        RequestError
            If it is not there, no such folder, of another schema version, or damaged; the file
            is named.
        """
        path = Path(folder)
        manifest = read_manifest(path, WHATIF, "whatif folder")
        table = read_csv(path / "whatif.csv", COLUMNS)
        if not len(table):
            raise RequestError(f"{path / 'whatif.csv'} is damaged: it holds no rows")
        for name in _TEXTS:
            table[name] = table[name].astype(object).where(table[name].notna(), "")
        return cls(manifest, table.astype({"zero_point": "Int64"}))


def _one_a_layer(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """Return the row of each layer where a column is least, in the order of the table."""
    least = rows.sort_values(by, kind="stable").drop_duplicates(_PLACE)
    return least.sort_index()


def least_first(rows: pd.DataFrame, column: str, most: int) -> list[dict[str, Any]]:
    """Return the rows where a column is least, ascending, at most so many; none without a number.

    Infinite numbers are kept as such.
    """
    ordered = rows.dropna(subset=column).sort_values(column, kind="stable").head(most)
    return [
        row | {column: value}
        for row, value in zip(records(ordered), ordered[column].tolist(), strict=True)
    ]
