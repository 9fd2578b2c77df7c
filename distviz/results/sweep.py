"""The result of a sweep: one row per setting, the Pareto front and the recommendation."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import pandas as pd
from msgspec import defstruct

from distviz.arm import ARM, PRESETS, has_bounds, has_selection
from distviz.errors import RequestError
from distviz.output import counted, listed
from distviz.parsing import exact, exact_percentage
from distviz.results.columns import Row, Setting
from distviz.results.reading import Folder
from distviz.results.result import Result, model_layers
from distviz.results.schema import Count, Integer, Manifest, Number, Positive, SweepManifest
from distviz.results.storage import SWEEP
from distviz.results.sweep_layers import RANKS, costs, disagreements
from distviz.results.tables import records
from distviz.sites import ACT

NAMED = ["redistribution", "layers", "at", "c", "p1", "fraction", "mode", "preset"]
"""The columns that identify a setting."""

SWEEP_QUANTITIES = {
    "fraction_moved": "share of the values that changed",
    "near_zero_before": "near-zero share at the redistributed layers, mean over them; one ε for "
    "all rows, that of near_zero_c",
    "near_zero_after": "the same after the redistribution",
    "near_zero_removed": "the difference of the two",
    "own_near_zero_removed": "the same difference with the ε of the row's own c",
    "std_ratio": "standard deviation after over before, mean over its layers",
    "gini_before": "Gini coefficient of |x|",
    "gini_after": "the same after the redistribution",
    "wasserstein_normalized": "Wasserstein-1 distance over the standard deviation before",
    "last_near_zero_before": "near-zero share at the last layer",
    "last_near_zero_after": "the same with the redistribution",
    "last_std_ratio": "standard deviation after over before, at the last layer",
    "last_wasserstein_normalized": "Wasserstein-1 distance over std, at the last layer",
    "sqnr_db": "energy of the values that arrive over that of their change, dB, mean over places",
    "loss_before": "next-token cross-entropy, nats",
    "loss_after": "the same with the redistribution",
    "kl": "mean KL(before || after) of next-token distributions, nats",
    "top1_agreement": "share of positions with the same most likely token",
}
"""The quantities of every setting and seed; ``*_spread`` is their standard deviation over seeds."""


SWEEP_INTERVALS = (
    "loss_change", "loss_change_low", "loss_change_high", "kl_low", "kl_high",
    "top1_agreement_low", "top1_agreement_high",
)  # fmt: skip
"""Columns of ``sweep.csv``: 95 % intervals over documents."""
_ADDED = ("own_near_zero_removed", "sqnr_db")
"""Quantities that older folders do not have."""
_NUMBERS = {"": Number, "_spread": Positive}
_OPTIONAL: Any = Number | None


def _columns(ending: str) -> list[Any]:
    kind: Any = _NUMBERS[ending] | None
    return [
        (f"{name}{ending}", kind, None) if name in _ADDED else (f"{name}{ending}", kind)
        for name in SWEEP_QUANTITIES
    ]


SweepRow: type[Row] = defstruct(  # type: ignore[assignment]
    "SweepRow",
    [
        ("seeds", Count),
        *_columns(""),
        *_columns("_spread"),
        *((name, _OPTIONAL, None) for name in (*SWEEP_INTERVALS, *RANKS)),
        ("documents", Count, 0),
    ],
    bases=(Setting,),
    kw_only=True,
)
"""``sweep.csv``."""
SeedRow: type[Row] = defstruct(  # type: ignore[assignment]
    "SeedRow", [("seed", Integer), *_columns("")], bases=(Setting,), kw_only=True
)
"""``sweep_seeds.csv``."""


@dataclass(frozen=True)
class Recommendation:
    """The recommended setting, if any, and the reason.

    Of the settings within the budget, those count as equal that remove at least 95 % of the largest
    removed share of near-zero values; of these, the one with the smallest KL is recommended.

    Attributes
    ----------
    row
        Its index in the table; None if no setting fits the budget.
    reason
        One or two sentences.
    command
        The command of a run with it; empty if no setting fits.
    """

    row: int | None
    reason: str
    command: str


@dataclass(frozen=True, repr=False)
class Sweep(Result):
    """The effect of every setting.

    Attributes
    ----------
    manifest
        Content of ``sweep.json``.
    table
        ``sweep.csv``: one row per setting, mean and spread over seeds.
    seeds
        ``sweep_seeds.csv``: one row per setting and seed.
    """

    FILE: ClassVar[str] = SWEEP
    NOUN: ClassVar[str] = "sweep folder"
    SCHEMA: ClassVar[type[Manifest]] = SweepManifest
    TABLES: ClassVar[dict[str, type[Row]]] = {"sweep.csv": SweepRow, "sweep_seeds.csv": SeedRow}

    table: pd.DataFrame
    seeds: pd.DataFrame

    @property
    def budget_kl(self) -> float:
        """The largest KL divergence of a recommended setting, nats."""
        return float(self.manifest["budget_kl"])

    @property
    def band_name(self) -> str:
        """Which ε the near-zero shares refer to."""
        c = self.manifest.get("near_zero_c")
        return "ε of each row's c" if c is None else f"ε of c = {c:g} in every row"

    @property
    def costs(self) -> list[str]:
        """What the settings of a sweep by layer cost, see `distviz.results.sweep_layers.costs`."""
        return costs(self.table) if self.is_by_layer else []

    @property
    def is_by_layer(self) -> bool:
        """Whether each setting redistributes in one layer alone, for every layer."""
        return bool(self.manifest["by_layer"])

    @cached_property
    def recommendation(self) -> Recommendation:
        """The largest redistribution within the budget, at the least KL, see `Recommendation`."""
        return _recommend(self.table, self.budget_kl, self._command)

    def _command(self, row: pd.Series[Any]) -> str:
        """Return the run that repeats a row, with its first seed."""
        source = (self.manifest.get("model") or {}).get("source")
        words = [str(source)] if source and source != "demo" else []
        words += ["--arm-layers", str(row["layers"])]
        if row["redistribution"] != "arm":
            words += ["--redistribution", str(row["redistribution"])]
        if row["at"] != ACT:
            words += ["--at", str(row["at"])]
        if has_selection(str(row["redistribution"])):
            words += self._parameters(row)
        if row["mode"] != "replace":
            words += ["--arm-mode", str(row["mode"])]
        return shlex.join(["distviz", "run", *words, *self.manifest.get("flags", [])])

    def _parameters(self, row: pd.Series[Any]) -> list[str]:
        """Return the flags of a row's c or fraction and p1, or of its preset."""
        name = str(row["preset"]).split(",", maxsplit=1)[0]
        own = dict((self.manifest.get("presets") or {}).get(name, {}))
        published = PRESETS.get(name)
        words = [] if published is None else ["--preset", name]
        known = {} if published is None else published
        if not math.isnan(row["fraction"]):
            known = {"c": ARM().c} | known  # beside a fraction, c only defines near-zero
        for option in ("fraction", "c", "p1"):
            if row[option] != known.get(option) and not math.isnan(row[option]):
                write = exact_percentage if option == "p1" else exact
                words += [f"--{option}", write(row[option])]
        if published is None and "percentile_of" in own and not self._gives("--percentile-of"):
            words += ["--percentile-of", str(own["percentile_of"])]
        return words

    def _gives(self, flag: str) -> bool:
        return flag in self.manifest.get("flags", [])

    @property
    def n_layers(self) -> int:
        """The number of layers that can be selected."""
        return model_layers(self.manifest) or 1

    def select(
        self, layers: Iterable[int] | None = None, sites: Iterable[str] | None = None
    ) -> Sweep:
        """Return the settings that redistribute in one of the layers alone; None selects all.

        Raises
        ------
        RequestError
            If there is none, or none at these sites.
        """
        if sites is not None:
            return self._at_sites(set(sites)).select(layers)
        if layers is None:
            return self
        wanted = {str(layer) for layer in layers}
        if not wanted & set(self.table["layers"]):
            raise RequestError(
                "the sweep holds no setting in these layers alone",
                f"it has {listed('layer', ', '.join(dict.fromkeys(self.table['layers'])))}",
            )
        table, seeds = (
            table[table["layers"].isin(wanted)].reset_index(drop=True)
            for table in (self.table, self.seeds)
        )
        return replace(self, table=table, seeds=seeds)

    def _at_sites(self, sites: set[str]) -> Sweep:
        table, seeds = (
            one[[sites.issuperset(at.split(",")) for at in one["at"]]].reset_index(drop=True)
            for one in (self.table, self.seeds)
        )
        if table.empty:
            known = ", ".join(dict.fromkeys(self.table["at"]))
            raise RequestError(
                f"the sweep holds no setting at {', '.join(sites)}", f"it has {known}"
            )
        return replace(self, table=table, seeds=seeds)

    def summary(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        found = self.recommendation
        chosen = None if found.row is None else records(self.table.loc[[found.row]])[0]
        return self.stated | {
            "settings": records(self.table),
            "recommended": chosen,
            "costs": self.costs,
            "disagreements": disagreements(self.table),
        }

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return every table by its file's name."""
        return {"sweep": self.table, "sweep_seeds": self.seeds}

    @property
    def stated(self) -> dict[str, Any]:
        """The manifest with the recommendation; its warnings include `file_warnings`."""
        found = self.recommendation
        return super().stated | {"reason": found.reason, "command": found.command}

    @classmethod
    def _from_folder(cls, folder: Folder, tables: Sequence[pd.DataFrame]) -> Sweep:
        if tables[0].empty:
            raise folder.damaged("sweep.csv", "it has no rows")
        tables = [one if "at" in one else one.assign(at=ACT) for one in tables]
        return cls(folder.manifest, *tables, file_warnings=folder.changes())


def join_seeds(seeds: pd.DataFrame) -> pd.DataFrame:
    """Return one row per setting: the mean of every quantity over seeds, and its spread.

    The spread is the sample standard deviation, NaN for one seed.
    """
    groups = seeds.groupby(NAMED, sort=False, dropna=False)
    table = groups["seed"].count().rename("seeds").reset_index()
    for name in SWEEP_QUANTITIES:
        table[name] = groups[name].mean().to_numpy()
        table[f"{name}_spread"] = groups[name].std(ddof=1).to_numpy()
    return table


def pareto(table: pd.DataFrame) -> list[int]:
    """Return the Pareto front: rows for which no other removes as much near-zero at less KL.

    Ascending by KL divergence, without rows that have none.
    """
    known = table[table["kl"].notna() & table["near_zero_removed"].notna()]
    order = known.sort_values(["kl", "near_zero_removed"], ascending=[True, False], kind="stable")
    front, best = [], -math.inf
    for row, removed in zip(order.index, order["near_zero_removed"], strict=True):
        if removed > best:
            front.append(int(row))
            best = float(removed)
    return front


_EQUAL = 0.95
"""Settings that remove this share of the largest removal within the budget count as equal."""


def _recommend(table: pd.DataFrame, budget: float, command: Any) -> Recommendation:
    measured = table[table["kl"].notna()]
    if not any(map(has_selection, table["redistribution"])):
        return Recommendation(
            None, "a recommendation is of settings that move near-zero values", ""
        )
    if measured.empty:
        return Recommendation(None, "no effect on the output was measured, nothing can be said", "")
    useful = measured[measured["near_zero_removed"] > 0]
    fitting = useful[useful["kl"] <= budget]
    if useful.empty:
        return Recommendation(None, "no setting makes fewer values near-zero", "")
    if fitting.empty:
        least = useful.iloc[int(useful["kl"].argmin())]
        return Recommendation(
            None,
            f"no setting fits the budget of {counted(f'{budget:g}', 'nat')}: the mildest, "
            f"{setting_name(least)}, costs KL {least['kl']:.3g} "
            f"(loss {counted(format(least['loss_after'] - least['loss_before'], '+.3g'), 'nat')})",
            "",
        )
    largest = fitting["near_zero_removed"].max()
    equal = fitting[fitting["near_zero_removed"] >= _EQUAL * largest]
    order = equal.sort_values(["kl", "near_zero_removed"], ascending=[True, False], kind="stable")
    row = int(order.index[0])
    best = table.iloc[row]
    reason = (
        f"{setting_name(best)}: moves {best['fraction_moved']:.1%} of the values and takes "
        f"the near-zero share from {best['near_zero_before']:.1%} to "
        f"{best['near_zero_after']:.1%} for KL {counted(format(best['kl'], '.3g'), 'nat')} "
        f"(budget {budget:g})"
    )
    larger = useful[useful["near_zero_removed"] > largest]
    if len(equal) > 1:
        reason += (
            f"; the smallest KL of the {counted(len(equal), 'setting')} that remove about as much"
        )
    if len(larger):
        following = larger.iloc[int(larger["kl"].argmin())]
        reason += f"; {setting_name(following)} would remove more and costs {following['kl']:.3g}"
    elif len(equal) == 1:
        reason += "; no setting tried removes more"
    return Recommendation(row, reason, command(best))


def band_names(part: pd.DataFrame) -> list[str]:
    """Return the names of the rows of a heatmap over c and p1: c or fraction.

    A preset with c and p1 of an earlier row adds its name.
    """
    names, seen = [], set()
    for _, row in part.iterrows():
        given = not math.isnan(row["fraction"])
        name = f"fraction {row['fraction']:g}" if given else f"c {row['c']:g}"
        if (name, row["p1"]) in seen:
            name = f"{name} · {row['preset']}"
        seen.add((name, row["p1"]))
        names.append(name)
    return names


def varied_columns(table: pd.DataFrame) -> list[str]:
    """Return the columns by which settings differ; c, fraction and p1 if all are equal."""
    names = [name for name in NAMED if len(table[name].drop_duplicates()) > 1]
    return names or ["c", "fraction", "p1"]


def setting_name(row: pd.Series[Any] | dict[str, Any], varied: Sequence[str] = NAMED) -> str:
    """Return how a sentence names a setting, by the columns that vary."""
    words = []
    if "redistribution" in varied and row["redistribution"] != "arm":
        words.append(str(row["redistribution"]))
    if "at" in varied and (row.get("at", ACT) != ACT or varied is not NAMED):
        words.append(f"at {row['at']}")
    if ("c" in varied or "fraction" in varied) and has_selection(str(row["redistribution"])):
        given = not math.isnan(row["fraction"])
        words.append(f"fraction = {row['fraction']:g}" if given else f"c = {row['c']:g}")
    bounded = has_bounds(str(row["redistribution"]))
    if bounded and "p1" in varied:
        words.append(f"p1 = {row['p1']:g}")
    if bounded and "mode" in varied and row["mode"] != "replace":
        words.append("added")
    text = ", ".join(words)
    if "preset" in varied and row.get("preset"):
        text = f"{row['preset']} ({text})" if text else str(row["preset"])
    if "layers" in varied:
        where = listed("layer", str(row["layers"]))
        text = f"{text} in {where}" if text else where
    return text
