"""The result of a filler study: how filler tokens change the activations of other tokens.

A filler folder holds a run for each number of filler tokens (``count_000`` ...) beside its tables.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pandas as pd

from distviz.results.result import Result
from distviz.results.run import Run
from distviz.results.storage import FILLER
from distviz.results.tables import damaged, records
from distviz.stats import ALPHA, inference, verdict

QUANTITIES = (
    "near_zero_difference",
    "log_variance_ratio",
    "log_l1_ratio",
    "log_l2_ratio",
    "gini_difference",
)
"""The quantities in the order of the tables; differences are with filler minus without."""

_PLACE = {"filler_count", "layer", "site", "module", "stack"}
_CHANGES = _PLACE | {"quantity", "estimate", "ci_low", "ci_high", "p_adjusted", "approximate"}
_ALONG = _CHANGES | {"distance_low", "distance_high", "tokens"}
_KEPT = {"filler_count", "layer", "attention_kept", "module"}
_TOKENS = _PLACE | {"document", "position", "distance", "token", *QUANTITIES}


@dataclass(frozen=True)
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
    TABLES: ClassVar[dict[str, Collection[str]]] = {
        "filler.csv": _CHANGES,
        "attention.csv": _KEPT,
        "positions.csv": _ALONG,
        "tokens.parquet": _TOKENS,
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
            lines.append(f"{count} filler tokens: " + "\n".join(findings))
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
        return self.manifest | {"verdict": self.verdict} | tables

    def write(self, folder: Path) -> None:
        """Write every file but the figures into an existing folder (not atomic, see `save`)."""
        whole = replace(self, manifest=self.manifest | {"verdict": self.verdict})
        super(FillerStudy, whole).write(folder)
        for count, run in self.runs.items():
            place = folder / run_folder(count)
            place.mkdir()
            run.write(place)

    @classmethod
    def _from_folder(
        cls, folder: Path, manifest: dict[str, Any], tables: Sequence[pd.DataFrame]
    ) -> FillerStudy:
        counts = manifest.get("counts")
        if not isinstance(counts, list) or 0 not in counts or set(map(type, counts)) != {int}:
            raise damaged(folder / FILLER, f"its counts are {counts!r}")
        for name, table in zip(cls.TABLES, tables, strict=True):
            if name in ("filler.csv", "positions.csv") and set(table["filler_count"]) != (
                {*counts} - {0}
            ):
                known = ", ".join(map(str, counts))
                raise damaged(folder / name, f"it does not hold the counts of {FILLER}, {known}")
        runs = {count: Run.load(folder / run_folder(count)) for count in counts}
        return cls(manifest, runs, *tables)


def run_folder(count: int) -> str:
    """Return the folder name of the run with this number of filler tokens."""
    return f"count_{count:03d}"
