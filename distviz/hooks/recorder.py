"""Counting what the hooks see: sketches by key and token class, documents, channels.

Memory is bounded by what is open, not by how much text goes through: a sketch a key, and a table a
document that is not finished yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distviz.arm import SequenceRows
from distviz.hooks.document_recorder import Documents
from distviz.hooks.expert_recorder import ExpertTable
from distviz.hooks.moe_layouts import Routed
from distviz.results import Run
from distviz.sites import HookPoint, SiteKey, key_order
from distviz.stats import (
    DEFAULT_C,
    ChannelTotals,
    Moments,
    Sketch,
    kernels,
    pack_sketches,
    unpack_sketches,
)
from distviz.stats.kernels import Observation

if TYPE_CHECKING:
    import torch

__all__ = ["TOKEN_CLASSES", "Recorder", "Tokens"]

TOKEN_CLASSES = ("digits", "operators", "conjunctions", "other")
_PARTIAL_PHASES = ("moved_before", "moved_after")


@dataclass(frozen=True)
class Tokens:
    """What is known of the tokens in one forward call.

    Attributes
    ----------
    valid
        bool (batch, tokens): no padding; these make ARM's set.
    counted
        bool (batch, tokens): enters the statistics.
    documents
        int64 (batch,): which document a row belongs to.
    index
        int64 (batch, tokens): the token's key for random numbers.
    classes
        int64 (batch, tokens): index into `TOKEN_CLASSES`.
    whole
        Documents that begin and end in this call: their rows need no table kept.
    past
        Tokens in the cache before this call.
    routed
        Where the rows are those of routed experts: whose each row is. None: a row a token.
    lengths
        Where one row of the batch holds several sequences behind each other (the patches of
        pictures), their numbers of tokens; nothing is padded then. Empty: a row is a sequence.
    """

    valid: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    documents: NDArray[np.int64]
    index: NDArray[np.int64]
    classes: NDArray[np.int64]
    whole: frozenset[int] = frozenset()
    past: int = 0
    routed: Routed | None = None
    lengths: tuple[int, ...] = ()

    def sequences(self) -> list[SequenceRows]:
        """Return the sets of ARM: the rows of each row of the batch, padding left out.

        Rows of experts stand in the order of (token, slot), however they came.
        """
        owners, index = self.documents, self.index.ravel()
        starts = np.arange(len(owners)) * self.valid.shape[1]
        if self.lengths:
            starts = np.cumsum((0, *self.lengths[:-1]))
            owners = np.arange(len(starts))
            index = np.arange(self.valid.size) - np.repeat(starts, self.lengths)
        tokens, slots = np.flatnonzero(self.valid), np.zeros(1, np.int64)
        rows = tokens
        if self.routed is not None:
            takes_part = self.routed.spread(self.valid.ravel().astype(np.int64)) > 0
            rows = np.lexsort((self.routed.slots, self.routed.tokens))
            rows = rows[takes_part[rows]]
            tokens, slots = self.routed.tokens[rows], self.routed.slots[rows]
        slots = np.broadcast_to(slots, tokens.shape)
        ends = np.searchsorted(tokens, starts[1:])
        keys = (rows, index[tokens], slots)
        parts = zip(owners.tolist(), *(np.split(key, ends) for key in keys), strict=True)
        return [SequenceRows(part, document, token, slot) for document, part, token, slot in parts]


@dataclass
class Recorder:
    """Accumulates observations; two recorders of the same kind add.

    Parameters
    ----------
    c
        Width of the near-zero band of the document rows.
    class_layers
        Layers whose sketches are kept apart by token class; None means all.
    """

    c: float = DEFAULT_C
    class_layers: frozenset[int] | None = frozenset()
    sketches: dict[SiteKey, dict[str, Sketch]] = field(default_factory=dict)
    documents: Documents = field(init=False)
    experts: dict[SiteKey, ExpertTable] = field(default_factory=dict)
    _channels: dict[SiteKey, ChannelTotals] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.documents = Documents(self.c)

    def add(
        self,
        point: HookPoint,
        phase: str,
        values: torch.Tensor,
        tokens: Tokens,
        moved: torch.Tensor | None = None,
    ) -> None:
        """Count (rows, channels) of one point; ``moved`` keeps what is marked alone."""
        key = SiteKey(point.layer, point.stack, point.site, phase, point.module)
        names = self._class_names(point.layer)
        documents, rows = np.unique(tokens.documents, return_inverse=True)
        classes = tokens.classes if len(names) > 1 else np.zeros_like(tokens.classes)
        slots = rows[:, None] * len(names) + classes
        slots = np.where(tokens.counted, slots, -1).ravel()
        if tokens.routed is not None:
            slots = tokens.routed.spread(slots)
        if moved is not None:
            values, slots = _only_moved(values, moved, slots)
        with_channels = phase not in _PARTIAL_PHASES
        n_slots = len(documents) * len(names)
        seen = kernels.observe(values, slots, n_slots, channels=with_channels)
        self._add_classes(key, names, seen)
        if with_channels:
            self._add_channels(key, seen)
            self._add_documents(key, seen, documents, tokens.whole)
            if tokens.routed is not None:
                if key not in self.experts:
                    self.experts[key] = ExpertTable.empty(tokens.routed.n_experts)
                owners = np.where(slots < 0, -1, tokens.routed.experts)
                self.experts[key].add(values, owners)

    def _class_names(self, layer: int) -> tuple[str, ...]:
        is_apart = self.class_layers is None or layer in self.class_layers
        return TOKEN_CLASSES if is_apart else ("all",)

    def _add_classes(self, key: SiteKey, names: Sequence[str], seen: Observation) -> None:
        by_class = self.sketches.setdefault(key, {name: Sketch() for name in names})
        for index, name in enumerate(names):
            by_class[name].absorb(seen, range(index, len(seen.tables), len(names)))

    def _add_channels(self, key: SiteKey, seen: Observation) -> None:
        if seen.channels is None:
            return
        if key not in self._channels:
            self._channels[key] = ChannelTotals.empty(seen.channels.count.size)
        self._channels[key].add(seen.channels)

    def _add_documents(
        self, key: SiteKey, seen: Observation, documents: NDArray[np.int64], whole: frozenset[int]
    ) -> None:
        n_classes = len(seen.tables) // len(documents)
        kind = (seen.grid, seen.is_rounded)
        for index, name in enumerate(documents.tolist()):
            part = slice(index * n_classes, (index + 1) * n_classes)
            # One class: the table itself, nothing is copied.
            table = seen.tables[part.start]
            if n_classes > 1:
                table = seen.tables[part].sum(axis=0, dtype=np.int64)
            moments = sum(seen.moments[part], Moments())
            self.documents.add(key, name, table, moments, kind, is_whole=name in whole)

    def __add__(self, other: Self) -> Self:
        """Return what both have seen; neither side may be used afterwards."""
        total = replace(self, sketches=dict(self.sketches))
        for key, by_class in other.sketches.items():
            known = total.sketches.get(key)
            total.sketches[key] = by_class
            if known is not None:
                total.sketches[key] = {name: known[name] + by_class[name] for name in known}
        total.documents = self.documents + other.documents
        total.experts = dict(self.experts)
        for key, table in other.experts.items():
            total.experts[key] = total.experts[key] + table if key in total.experts else table
        total._channels = dict(self._channels)
        for key, sums in other._channels.items():
            total._channels[key] = total._channels[key] + sums if key in total._channels else sums
        return total

    def state(self) -> dict[str, Any]:
        """Return everything as a tree for `packing.encode`."""
        names = [[list(key), list(by_class)] for key, by_class in self.sketches.items()]
        sketches = [sketch for by_class in self.sketches.values() for sketch in by_class.values()]
        return {
            "c": self.c,
            "class_layers": None if self.class_layers is None else sorted(self.class_layers),
            "names": names,
            "sketches": pack_sketches(sketches),
            "channels": [[list(key), totals.state()] for key, totals in self._channels.items()],
            "experts": [[list(key), table.state()] for key, table in self.experts.items()],
            "documents": self.documents.state(),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Return what `state` was taken of."""
        apart = state["class_layers"]
        found = cls(state["c"], None if apart is None else frozenset(apart))
        sketches = iter(unpack_sketches(state["sketches"]))
        for key, names in state["names"]:
            found.sketches[SiteKey(*key)] = {name: next(sketches) for name in names}
        found._channels = {
            SiteKey(*key): ChannelTotals.from_state(totals) for key, totals in state["channels"]
        }
        found.experts = {
            SiteKey(*key): ExpertTable.from_state(table) for key, table in state["experts"]
        }
        found.documents = Documents.from_state(state["documents"])
        return found

    def channels(self) -> pd.DataFrame:
        """Return one row a layer, site, phase and channel."""
        frames = []
        for key in sorted(self._channels, key=key_order):
            sums = self._channels[key]
            empty = sums.count == 0
            low = np.where(empty, np.nan, sums.low)
            high = np.where(empty, np.nan, sums.high)
            mean, m2 = sums.moments()
            std = np.sqrt(m2 / np.maximum(sums.count, 1))
            frames.append(
                pd.DataFrame(
                    {"layer": key.layer, "site": key.site, "phase": key.phase}
                    | {"channel": np.arange(sums.count.size), "count": sums.count}
                    | {"mean": np.where(empty, np.nan, mean)}
                    | {"std": np.where(empty, np.nan, std), "min": low, "max": high}
                    | {"absmax": np.maximum(np.abs(low), np.abs(high))}
                    | {"module": key.module, "stack": key.stack}
                )
            )
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()

    def with_experts(self, run: Run) -> Run:
        """Return the run with its table of experts, which needs the run's own near-zero bands."""
        rows = [
            {"layer": key.layer, "site": key.site, "phase": key.phase}
            | row
            | {"module": key.module, "stack": key.stack}
            for key in run.keys
            if key in self.experts
            for row in self.experts[key].rows(run.bands[key], run.merged[key])
        ]
        return replace(run, experts=pd.DataFrame(rows)) if rows else run


def _only_moved(
    values: torch.Tensor, moved: torch.Tensor, slots: NDArray[np.int64]
) -> tuple[torch.Tensor, NDArray[np.int64]]:
    """Return the marked values as one column, with the slot of each."""
    marked = moved.bool()
    counts = marked.sum(dim=1).cpu().numpy()
    return values[marked][:, None], np.repeat(slots, counts)
