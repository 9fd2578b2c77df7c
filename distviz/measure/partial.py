"""What some batches of a text gave: the piece that is saved, sent to another process, and added.

Whatever the batches are shared into and in whatever order the portions are added, everything comes
out the same to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from distviz.data import Batch
from distviz.hooks import Recorder
from distviz.measure.output_effect import Effect
from distviz.measure.world import World
from distviz.stats import decode, encode

__all__ = ["PartialResult", "batches_of_documents", "gather", "partition_batches"]

_PLAN_ORDER = ["stack", "layer", "module", "document", "window", "pass"]


def batches_of_documents(batches: Sequence[Batch]) -> dict[int, frozenset[int]]:
    """Return, for every document, the numbers of the batches that hold a window of it."""
    found: dict[int, set[int]] = {}
    for number, batch in enumerate(batches):
        for document in batch.documents.tolist():
            found.setdefault(document, set()).add(number)
    return {document: frozenset(numbers) for document, numbers in found.items()}


def partition_batches(costs: Mapping[int, int], n_shares: int) -> list[list[int]]:
    """Cut batches, by number, into runs of about equal cost; some may be empty."""
    order, total = sorted(costs), sum(costs.values())
    shares: list[list[int]] = [[] for _ in range(n_shares)]
    before = 0
    for number in order:
        # By the middle of the batch, so that the first shares are not always the larger ones.
        middle = before + costs[number] / 2
        shares[min(int(middle * n_shares / total), n_shares - 1)].append(number)
        before += costs[number]
    return shares


def gather(world: World, portion: PartialResult) -> PartialResult:
    """Return the portions of all processes together, in every process; added by rank."""
    if world.size == 1:
        return portion
    total: PartialResult | None = None
    for rank, data in enumerate(world.broadcast(encode(portion.state()))):
        one = portion if rank == world.rank else PartialResult.from_state(decode(data))
        total = one if total is None else total + one
    return portion if total is None else total


@dataclass
class PartialResult:
    """What was measured of a set of batches; portions of different batches add.

    Attributes
    ----------
    recorder, effect, plans
        What was counted, what ARM did to the output, one dict a row of ``plans.csv``.
    batches
        Numbers of the batches that are finished.
    attention
        Layer -> share of its attention that each prompt kept, see `distviz.measure.attention`.
    """

    recorder: Recorder
    effect: Effect = field(default_factory=Effect)
    plans: list[dict[str, Any]] = field(default_factory=list)
    batches: set[int] = field(default_factory=set)
    attention: dict[int, list[float]] = field(default_factory=dict)

    def finish(self, number: int, batch: Batch, spans: Mapping[int, frozenset[int]]) -> None:
        """Note that a batch is finished, and close the documents of which nothing will follow.

        ``spans`` is what `batches_of_documents` returns. A document that another portion holds a
        part of stays open until the portions are added.
        """
        self.batches.add(number)
        here = [d for d in dict.fromkeys(batch.documents.tolist()) if spans[d] <= self.batches]
        self.recorder.documents.close(here)
        self.recorder.documents.forget(here)

    def plan_table(self) -> pd.DataFrame:
        """Return ``plans.csv``, in one order whatever the order of measuring."""
        plans = pd.DataFrame(self.plans)
        return plans.sort_values(_PLAN_ORDER, ignore_index=True) if len(plans) else plans

    def __add__(self, other: PartialResult) -> PartialResult:
        """Return both together; neither side may be used afterwards."""
        if shared := self.batches & other.batches:
            raise ValueError(f"batch {min(shared)} would be counted twice")
        layers = {**self.attention, **other.attention}
        return PartialResult(
            self.recorder + other.recorder,
            self.effect + other.effect,
            self.plans + other.plans,
            self.batches | other.batches,
            {one: self.attention.get(one, []) + other.attention.get(one, []) for one in layers},
        )

    def state(self) -> dict[str, Any]:
        """Return everything as a tree for `packing.encode`."""
        columns = pd.DataFrame(self.plans).to_dict("list")
        return {
            "recorder": self.recorder.state(),
            "effect": self.effect.state(),
            "plans": {str(name): _column(values) for name, values in columns.items()},
            "batches": sorted(self.batches),
            "attention": [[layer, shares] for layer, shares in self.attention.items()],
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], kind: type[Recorder] = Recorder) -> PartialResult:
        """Return what `state` was taken of; ``kind`` is what its recorder was."""
        columns = {
            name: values.tolist() if isinstance(values, np.ndarray) else values
            for name, values in state["plans"].items()
        }
        rows = zip(*columns.values(), strict=True)
        return cls(
            kind.from_state(state["recorder"]),
            Effect.from_state(state["effect"]),
            [dict(zip(columns, row, strict=True)) for row in rows],
            set(state["batches"]),
            {layer: list(shares) for layer, shares in state["attention"]},
        )


def _column(values: list[Any]) -> Any:
    """An array where all are numbers of one kind, which JSON would only make longer."""
    kinds = {type(value) for value in values}
    return np.array(values) if kinds in ({int}, {float}) else values
