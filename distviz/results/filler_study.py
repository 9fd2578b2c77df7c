"""The result of a filler study: how filler tokens change the activations of other tokens.

A filler folder holds a run for each number of filler tokens (``count_000`` ...) beside its tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pandas as pd

from distviz.output import counted
from distviz.results import agreement
from distviz.results.columns import AttentionKept, FillerAlong, FillerChange, Row, TokenChange
from distviz.results.reading import Folder
from distviz.results.result import Result
from distviz.results.run import Run
from distviz.results.schema import FillerManifest, Manifest
from distviz.results.storage import FILLER
from distviz.results.tables import records
from distviz.stats import ALPHA, inference, verdict

QUANTITIES = (
    "near_zero_difference",
    "log_variance_ratio",
    "log_l1_ratio",
    "log_l2_ratio",
    "gini_difference",
)
"""The quantities in the order of the tables; differences are with filler minus without."""


@dataclass(frozen=True, repr=False)
class FillerStudy(Result):
    """How filler tokens change the activations, by their number.

    Attributes
    ----------
    manifest
        Content of ``filler.json``.
    runs
        Filler count -> run over the prompt's own tokens; 0 is always included.
    table
        ``filler.csv``: for each count, layer, site and quantity the mean change over prompts with
        its interval and p-value, see `distviz.stats.inference`.
    attention
        ``attention.csv``: the mean attention weight that remains on the prompt's own tokens.
    positions
        ``positions.csv``: like ``table``, by distance to the filler.
    tokens
        ``tokens.parquet``: the change at every own token.
    """

    FILE: ClassVar[str] = FILLER
    NOUN: ClassVar[str] = "filler study"
    SCHEMA: ClassVar[type[Manifest]] = FillerManifest
    TABLES: ClassVar[dict[str, type[Row]]] = {
        "filler.csv": FillerChange,
        "attention.csv": AttentionKept,
        "positions.csv": FillerAlong,
        "tokens.parquet": TokenChange,
    }
    COMPRESSION: ClassVar[Literal["snappy", "zstd"]] = "zstd"

    runs: dict[int, Run]
    table: pd.DataFrame
    attention: pd.DataFrame
    positions: pd.DataFrame
    tokens: pd.DataFrame

    @property
    def counts(self) -> list[int]:
        """Numbers of filler tokens, without 0."""
        return sorted(count for count in self.runs if count)

    @property
    def verdict(self) -> str:
        """A sentence for each number of filler tokens, and how it was tested."""
        main = self.table[self.table["quantity"].isin(inference.QUANTITIES)]
        lines: list[str] = []
        grounds: dict[str, None] = {}
        for count, rows in main.groupby("filler_count"):
            *findings, basis = verdict(rows.rename(columns={"layer": "layer_a"})).split("\n")
            lines.append(f"{counted(str(count), 'filler token')}: " + "\n".join(findings))
            grounds[basis] = None
        return "\n".join([*lines, *grounds])

    def changes(self, count: int, quantity: str, site: str | None = None) -> pd.DataFrame:
        """Return the rows of ``filler.csv`` of one quantity; ``site`` None selects the first."""
        rows = self.table[
            (self.table["filler_count"] == count) & (self.table["quantity"] == quantity)
        ]
        return rows[rows["site"] == (rows["site"].iloc[0] if site is None else site)]

    def most_changed(
        self, count: int, site: str | None = None, quantity: str = "near_zero_difference"
    ) -> list[int]:
        """Return the layers by size of change, significant changes first."""
        rows = self.changes(count, quantity, site)
        ranked = rows.assign(
            is_noise=~(rows["p_adjusted"] < ALPHA), size=-rows["estimate"].abs()
        ).sort_values(["is_noise", "size", "layer"])
        return [int(layer) for layer in dict.fromkeys(ranked["layer"])]

    @property
    def n_layers(self) -> int:
        """The number of layers that can be selected."""
        return self.runs[0].n_layers

    def _places(self) -> Iterable[tuple[int, str]]:
        return zip(self.table["layer"], self.table["site"], strict=True)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return every table by name, as exported."""
        return {
            "filler": self.table,
            "attention": self.attention,
            "positions": self.positions,
            "tokens": self.tokens,
        }

    def summary(self) -> dict[str, Any]:
        """Return what ``--json`` prints: the manifest and the small tables."""
        tables = {"filler": records(self.table), "attention": records(self.attention)}
        return self.stated | tables

    @property
    def stated(self) -> dict[str, Any]:
        """The manifest with the verdict; its warnings include `file_warnings`."""
        return super().stated | {"verdict": self.verdict}

    def _write_files(self, folder: Path) -> None:
        super()._write_files(folder)
        for count, run in self.runs.items():
            place = folder / run_folder(count)
            place.mkdir()
            run.write(place)

    @classmethod
    def _from_folder(cls, folder: Folder, tables: Sequence[pd.DataFrame]) -> FillerStudy:
        counts = agreement.check_filler(folder, dict(zip(cls.TABLES, tables, strict=True)))
        runs = {count: Run.load(folder.path / run_folder(count)) for count in counts}
        agreement.check_model(folder, "model", runs[0].manifest, run_folder(0))
        of_runs = [warning for run in runs.values() for warning in run.file_warnings]
        file_warnings = (*folder.changes(), *of_runs)
        return cls(folder.manifest, runs, *tables, file_warnings=file_warnings)


def run_folder(count: int) -> str:
    """Return the folder name of the run with this number of filler tokens."""
    return f"count_{count:03d}"
