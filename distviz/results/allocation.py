"""The result of an allocation: what each place gets, and what the whole costs beside uniform."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pandas as pd

from distviz.output import counted
from distviz.results.columns import Row
from distviz.results.labels import number, percent
from distviz.results.reading import Folder
from distviz.results.result import Result, model_layers
from distviz.results.schema import (
    AllocationManifest,
    Count,
    Layer,
    Manifest,
    Number,
    Positive,
    Share,
)
from distviz.results.storage import ALLOCATION
from distviz.results.tables import need, records

_Optional = Number | None


class PlaceRow(Row, kw_only=True):
    """``allocation.csv`` and ``uniform.csv``."""

    layer: Layer
    site: str
    values: Count
    threshold: Positive | None = None
    promised: Share | None = None
    zeros: Share | None = None
    format: str | None = None
    bits: Positive | None = None
    kl_alone: _Optional = None


class _Cost(Row, kw_only=True):
    """What a redistribution costs, with intervals over documents."""

    kl: _Optional
    kl_low: _Optional
    kl_high: _Optional
    loss_change: _Optional
    loss_change_low: _Optional
    loss_change_high: _Optional
    top1_agreement: Share | None
    top1_agreement_low: Share | None
    top1_agreement_high: Share | None
    documents: Count = 0


class CostRow(_Cost, kw_only=True):
    """``allocation_costs.csv``."""

    layer: Layer
    site: str
    threshold: Positive | None = None
    zeros: Share | None = None
    format: str | None = None
    bits: Positive | None = None
    step: Count | None = None


class CurveRow(_Cost, kw_only=True):
    """``allocation_curve.csv``."""

    kind: Literal["allocated", "uniform"]
    steps: Count
    mean: Positive
    is_chosen: bool
    loss_before: _Optional
    kl_saved: _Optional
    kl_saved_low: _Optional
    kl_saved_high: _Optional
    loss_saved: _Optional
    loss_saved_low: _Optional
    loss_saved_high: _Optional


@dataclass(frozen=True, repr=False)
class Allocation(Result):
    """What each place gets, and what that costs.

    Attributes
    ----------
    manifest
        Content of ``allocation.json``.
    table
        ``allocation.csv``: one row per place, which ``--redistribution threshold:FILE`` and
        ``quantize:FILE`` read.
    even
        ``uniform.csv``: the same with the same share, or the formats evenly spread.
    costs
        ``allocation_costs.csv``: every level in each place alone.
    curve
        ``allocation_curve.csv``: the whole after some steps, and uniform with the same mean.
    """

    FILE: ClassVar[str] = ALLOCATION
    NOUN: ClassVar[str] = "allocation folder"
    SCHEMA: ClassVar[type[Manifest]] = AllocationManifest
    TABLES: ClassVar[dict[str, type[Row]]] = {
        "allocation.csv": PlaceRow,
        "uniform.csv": PlaceRow,
        "allocation_costs.csv": CostRow,
        "allocation_curve.csv": CurveRow,
    }

    table: pd.DataFrame
    even: pd.DataFrame
    costs: pd.DataFrame
    curve: pd.DataFrame

    @property
    def is_of_zeros(self) -> bool:
        """Whether zeros are allocated, not formats."""
        return str(self.manifest["unit"]) == "zeros"

    @property
    def n_layers(self) -> int:
        """The number of layers that can be selected."""
        return model_layers(self.manifest) or 1

    @property
    def n_places(self) -> int:
        """The number of places, also of a selection."""
        return int(self.manifest["places"])

    @property
    def sites(self) -> list[str]:
        """The sites of the places."""
        return list(dict.fromkeys(self.table["site"]))

    def chosen(self, kind: str = "allocated") -> dict[str, Any]:
        """Return the row of the curve that was chosen, ``allocated`` or ``uniform``."""
        rows = self.curve[(self.curve["kind"] == kind) & self.curve["is_chosen"]]
        return {str(name): value for name, value in rows.iloc[0].to_dict().items()}

    def mean_name(self, mean: float) -> str:
        """Return a mean as text: a share of zeros, or bits."""
        return counted(percent(mean), "zero") if self.is_of_zeros else counted(f"{mean:.3g}", "bit")

    @property
    def verdict(self) -> str:
        """Whether the allocation costs less than uniform beyond noise, and why it ends there."""
        own, even = self.chosen(), self.chosen("uniform")
        cost = counted(number(own["kl"], 3), "nat")
        text = (
            f"{self.mean_name(own['mean'])} on average over {counted(self.n_places, 'place')}: "
            f"KL {cost} allocated, {number(even['kl'], 3)} uniform; "
            f"{_comparison(own, even)}"
        )
        return f"{text}. {self._end}" if self._end else text

    @property
    def _end(self) -> str:
        """Why the allocation ends where it does."""
        budget, own = self.manifest.get("budget_kl"), self.chosen()
        if budget is None:
            return ""
        limit = counted(f"{budget:g}", "nat")
        if own["kl"] > budget:
            return f"Nothing cheaper was found: it exceeds the budget of {limit}"
        target = self.manifest.get("target")
        if target is not None and own["mean"] < target:
            return f"It ends before {percent(target)}, at the budget of {limit}"
        return ""

    @property
    def command(self) -> str:
        """The run with the allocation; FOLDER stands for the folder."""
        source = (self.manifest.get("model") or {}).get("source")
        words = [str(source)] if source and source != "demo" else []
        kind = "threshold" if self.is_of_zeros else "quantize"
        words += ["--arm-layers", str(self.manifest["layers"]), "--at", str(self.manifest["at"])]
        words += ["--redistribution", f"{kind}:FOLDER/allocation.csv"]
        return shlex.join(["distviz", "run", *words, *self.manifest.get("flags", [])])

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return every table by its file's name."""
        return {
            "allocation": self.table,
            "uniform": self.even,
            "allocation_costs": self.costs,
            "allocation_curve": self.curve,
        }

    def summary(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return self.stated | {
            "verdict": self.verdict,
            "command": self.command,
            "places": records(self.table),
            "curve": records(self.curve),
        }

    def _places(self) -> Iterable[tuple[int, str]]:
        return zip(self.table["layer"].tolist(), self.table["site"].tolist(), strict=True)

    @classmethod
    def _from_folder(cls, folder: Folder, tables: Sequence[pd.DataFrame]) -> Allocation:
        table, even, costs, curve = tables
        if table.empty or len(table) != len(even):
            raise folder.damaged("allocation.csv", "its places are not those of uniform.csv")
        names = ("threshold", "zeros") if folder.manifest["unit"] == "zeros" else ("format", "bits")
        for one, name in ((table, "allocation"), (even, "uniform"), (costs, "allocation_costs")):
            need(one, names, f"{name}.csv")
        chosen = curve.loc[curve["is_chosen"].astype(bool), "kind"].tolist() if len(curve) else []
        if sorted(chosen) != ["allocated", "uniform"]:
            raise folder.damaged("allocation_curve.csv", "it does not say which rows are chosen")
        kinds = curve["kind"].tolist()
        if kinds.count("allocated") != kinds.count("uniform"):
            raise folder.damaged("allocation_curve.csv", "a row lacks that of the other kind")
        return cls(folder.manifest, *tables, file_warnings=folder.changes())


def _comparison(own: dict[str, Any], even: dict[str, Any]) -> str:
    saved, low, high = (own.get(f"kl_saved{end}", math.nan) for end in ("", "_low", "_high"))
    if own["kl"] == even["kl"] and saved == 0:
        return "they are the same"
    if math.isnan(low):
        return "whether that is more than chance cannot be said, there are too few documents"
    interval = f"{counted(number(saved, 3), 'nat')} [{number(low, 2)}, {number(high, 2)}]"
    if low > 0:
        return f"better than uniform beyond noise, by {interval}"
    if high < 0:
        return f"worse than uniform beyond noise: it saves {interval}"
    return f"not different from uniform beyond noise: it saves {interval}"
