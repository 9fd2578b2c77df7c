"""What filler tokens do to the prompt's own tokens: plain data, and the folder that holds it.

A filler folder holds a run for each number of filler tokens (``count_000`` ...) beside its tables,
so it can be shown and drawn again by itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from distviz.errors import RequestError
from distviz.results.run import FILLER, Run, read_manifest, records, staging
from distviz.results.tables import choose_places, read_csv, read_parquet, rows_at
from distviz.stats import inference, verdict

__all__ = ["ALPHA", "QUANTITIES", "FillerStudy", "run_folder"]

ALPHA = 0.05
"""A change is more than noise where the adjusted p is below."""

QUANTITIES = (
    "near_zero_difference",
    "log_variance_ratio",
    "log_l1_ratio",
    "log_l2_ratio",
    "gini_difference",
)
"""What changes, in the order of the tables; differences are with filler minus without."""

_PLACE = {"filler_count", "layer", "site", "module", "stack"}
_CHANGES = _PLACE | {"quantity", "estimate", "ci_low", "ci_high", "p_adjusted", "approximate"}
_ALONG = _CHANGES | {"distance_low", "distance_high", "tokens"}
_KEPT = {"filler_count", "layer", "attention_kept", "module"}
_TOKENS = _PLACE | {"document", "position", "distance", "token", *QUANTITIES}


@dataclass(frozen=True)
class FillerStudy:
    """What filler tokens do, by how many there are.

    Attributes
    ----------
    manifest
        Content of ``filler.json``.
    runs
        Filler count -> run over the prompt's own tokens; 0 is always there.
    table
        ``filler.csv``: for each count, layer, site and quantity the mean change over prompts with
        its interval and p-value, see `distviz.stats.inference`.
    attention
        ``attention.csv``: the mean attention weight that the prompt's own tokens keep.
    positions
        ``positions.csv``: as ``table``, by distance to the filler.
    tokens
        ``tokens.parquet``: what changed in every single own token.
    """

    manifest: dict[str, Any]
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
        """One plain sentence for each number of filler tokens, and what they rest on."""
        main = self.table[self.table["quantity"].isin(inference.QUANTITIES)]
        lines: list[str] = []
        grounds: dict[str, None] = {}
        for count, rows in main.groupby("filler_count"):
            *said, basis = verdict(rows.rename(columns={"layer": "layer_a"})).split("\n")
            lines.append(f"{count} filler tokens: " + "\n".join(said))
            grounds[basis] = None
        return "\n".join([*lines, *grounds])

    def changes(self, count: int, quantity: str, site: str | None = None) -> pd.DataFrame:
        """Return the rows of ``filler.csv`` of one quantity; ``site`` None takes the first."""
        rows = self.table[
            (self.table["filler_count"] == count) & (self.table["quantity"] == quantity)
        ]
        return rows[rows["site"] == (rows["site"].iloc[0] if site is None else site)]

    def most_changed(
        self, count: int, site: str | None = None, quantity: str = "near_zero_difference"
    ) -> list[int]:
        """Return the layers by size of change, those that are more than noise first."""
        rows = self.changes(count, quantity, site)
        ranked = rows.assign(
            is_noise=~(rows["p_adjusted"] < ALPHA), size=-rows["estimate"].abs()
        ).sort_values(["is_noise", "size", "layer"])
        return [int(layer) for layer in dict.fromkeys(ranked["layer"])]

    @property
    def n_layers(self) -> int:
        """How many layers may be asked for."""
        return self.runs[0].n_layers

    def select(
        self, layers: Iterable[int] | None = None, sites: Iterable[str] | None = None
    ) -> FillerStudy:
        """Return the part at some layers and sites; None takes all, see `Run.select`."""
        known = zip(self.table["layer"], self.table["site"], strict=True)
        places = choose_places(known, layers, sites, "filler study")
        return replace(
            self,
            table=rows_at(self.table, places),
            attention=rows_at(self.attention, places),
            positions=rows_at(self.positions, places),
            tokens=rows_at(self.tokens, places),
        )

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return every table by name, as exported."""
        return {
            "filler": self.table,
            "attention": self.attention,
            "positions": self.positions,
            "tokens": self.tokens,
        }

    def summary(self) -> dict[str, Any]:
        """Return what ``--json`` prints: the manifest and the tables that stay small."""
        tables = {"filler": records(self.table), "attention": records(self.attention)}
        return self.manifest | {"verdict": self.verdict} | tables

    def write(self, folder: Path) -> None:
        """Write every file but the figures into an existing folder (not atomic, see `save`)."""
        for name, table in self.tables().items():
            if name == "tokens":
                table.to_parquet(folder / "tokens.parquet", index=False, compression="zstd")
            else:
                table.to_csv(folder / f"{name}.csv", index=False)
        for count, run in self.runs.items():
            place = folder / run_folder(count)
            place.mkdir()
            run.write(place)
        text = json.dumps(self.manifest | {"verdict": self.verdict}, indent=2, ensure_ascii=False)
        (folder / FILLER).write_text(f"{text}\n", encoding="utf-8")

    def save(self, folder: str | Path, *, force: bool = False) -> Path:
        """Write the folder without figures: complete, or not at all."""
        with staging(Path(folder), force=force) as place:
            self.write(place)
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> FillerStudy:
        """Read a filler folder.

        Raises
        ------
        RequestError
            If it is not there, not a filler study, of another schema version, or damaged; the
            file is named.
        """
        path = Path(folder)
        manifest = read_manifest(path, FILLER, "filler study")
        counts = manifest.get("counts")
        if not isinstance(counts, list) or 0 not in counts or set(map(type, counts)) != {int}:
            raise RequestError(f"{path / FILLER} is damaged: its counts are {counts!r}")
        tables = {
            name: read_csv(path / f"{name}.csv", columns)
            for name, columns in (("filler", _CHANGES), ("positions", _ALONG))
        }
        for name, table in tables.items():
            if not len(table) or sorted(set(table["filler_count"])) != sorted({*counts} - {0}):
                raise RequestError(
                    f"{path / name}.csv is damaged: it does not hold the counts of {FILLER}, "
                    f"{', '.join(map(str, counts))}"
                )
        attention = read_csv(path / "attention.csv", _KEPT)
        tokens = read_parquet(path / "tokens.parquet", _TOKENS)
        runs = {count: Run.load(path / run_folder(count)) for count in counts}
        return cls(manifest, runs, tables["filler"], attention, tables["positions"], tokens)


def run_folder(count: int) -> str:
    """Return the name of the run with so many filler tokens."""
    return f"count_{count:03d}"
