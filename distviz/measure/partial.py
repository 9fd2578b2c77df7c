"""The result of some batches of a text, which is saved, sent to another process, and added.

However the batches are partitioned, and in whatever order partial results are added, the result is
the same to the bit.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from distviz.data import Batch
from distviz.hooks import Recorder
from distviz.measure.output_effect import Effect
from distviz.measure.world import World
from distviz.stats import decode, encode

_PLAN_ORDER = ["stack", "layer", "module", "site", "document", "window", "pass"]


def batches_of_documents(batches: Sequence[Batch]) -> dict[int, frozenset[int]]:
    """Return, for every document, the numbers of the batches that hold a window of it."""
    found: dict[int, set[int]] = {}
    for number, batch in enumerate(batches):
        for document in batch.documents.tolist():
            found.setdefault(document, set()).add(number)
    return {document: frozenset(numbers) for document, numbers in found.items()}


def partition_batches(costs: Mapping[int, int], n_shares: int) -> list[list[int]]:
    """Partition batches, by number, into ranges of about equal cost; some may be empty."""
    order, total = sorted(costs), sum(costs.values())
    shares: list[list[int]] = [[] for _ in range(n_shares)]
    before = 0
    for number in order:
        # By the middle of the batch; otherwise the first shares would always be larger.
        middle = before + costs[number] / 2
        shares[min(int(middle * n_shares / total), n_shares - 1)].append(number)
        before += costs[number]
    return shares


def gather(world: World, own: PartialResult) -> PartialResult:
    """Return the sum of the partial results of all processes, in every process; added by rank."""
    own.flush()
    if world.size == 1:
        return own
    states = enumerate(world.broadcast(encode(own.state())))
    parts = (
        own if rank == world.rank else PartialResult.from_state(decode(d)) for rank, d in states
    )
    return functools.reduce(operator.add, parts)


@dataclass
class PartialResult:
    """The result of a set of batches; those of different batches add.

    Attributes
    ----------
    recorder, effect, plans
        The counts, the effect of ARM on the output, and the rows of ``plans.csv``.
    batches
        Numbers of the finished batches.
    attention
        Layer -> the share of attention that each prompt keeps, see `distviz.measure.attention`.
    """

    recorder: Recorder
    effect: Effect = field(default_factory=Effect)
    plans: list[dict[str, Any]] = field(default_factory=list)
    batches: set[int] = field(default_factory=set)
    attention: dict[int, list[float]] = field(default_factory=dict)
    planned: list[Callable[[], list[dict[str, Any]]]] = field(default_factory=list, repr=False)
    """What returns further rows of plans: those of a batch are read after the next one."""
    _n_before: int = 0

    def flush(self) -> None:
        """Take what is still on devices; waits for it."""
        self.recorder.flush()
        self._take_plans(len(self.planned))

    def _take_plans(self, number: int) -> None:
        for rows in self.planned[:number]:
            self.plans.extend(rows())
        self.planned = self.planned[number:]
        self._n_before = len(self.planned)

    def finish(self, number: int, batch: Batch, spans: Mapping[int, frozenset[int]]) -> None:
        """Note that a batch is finished, and close the documents that are complete.

        ``spans`` is what `batches_of_documents` returns. A document with windows in another partial
        result stays open until both are added.
        """
        self.batches.add(number)
        documents = dict.fromkeys(batch.documents.tolist())
        complete = [document for document in documents if spans[document] <= self.batches]
        self.recorder.documents.close(complete)
        self.recorder.documents.forget(complete)
        self.recorder.send()
        self._take_plans(self._n_before)

    def plan_table(self) -> pd.DataFrame:
        """Return ``plans.csv``, in an order that does not depend on the order of measuring."""
        self.flush()
        plans = pd.DataFrame(self.plans)
        order = [name for name in _PLAN_ORDER if name in plans]
        return plans.sort_values(order, ignore_index=True) if order else plans

    def __add__(self, other: PartialResult) -> PartialResult:
        """Return the sum; neither side may be used afterwards."""
        if shared := self.batches & other.batches:
            raise ValueError(f"batch {min(shared)} would be counted twice")
        self.flush()
        other.flush()
        layers = {**self.attention, **other.attention}
        return PartialResult(
            self.recorder + other.recorder,
            self.effect + other.effect,
            self.plans + other.plans,
            self.batches | other.batches,
            {n: self.attention.get(n, []) + other.attention.get(n, []) for n in layers},
        )

    def state(self) -> dict[str, Any]:
        """Return everything as a tree for `stats.encode`."""
        self.flush()
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
        """Return the partial result whose `state` this is; ``kind`` is its recorder's class."""
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
    """Return numbers of one type as an array, which takes less space than JSON."""
    kinds = {type(value) for value in values}
    return np.array(values) if kinds in ({int}, {float}) else values
