"""Counting what the hooks see: sketches by key and token class, documents, channels.

Memory is bounded by what is open, not by how much text goes through: a sketch a key, and a table a
document that is not finished yet.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distviz import grid, kernels
from distviz.kernels import ChannelSums, Observation
from distviz.moments import Moments
from distviz.sites import PHASES, Key, Point
from distviz.sketch import Sketch
from distviz.statistics import DEFAULT_C

if TYPE_CHECKING:
    import torch

__all__ = ["TOKEN_CLASSES", "Recorder", "Tokens"]

TOKEN_CLASSES = ("digits", "operators", "conjunctions", "other")
_PARTIAL_PHASES = ("leaving", "landing")
_DOCUMENT_COLUMNS = ["count", "mean", "std", "eps", "near_zero", "l1", "l2", "gini"]


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
    """

    valid: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    documents: NDArray[np.int64]
    index: NDArray[np.int64]
    classes: NDArray[np.int64]
    whole: frozenset[int] = frozenset()
    past: int = 0


@dataclass
class Recorder:
    """Accumulates observations.

    Parameters
    ----------
    c
        Width of the near-zero band of the document rows.
    class_layers
        Layers whose sketches are kept apart by token class; None means all.
    """

    c: float = DEFAULT_C
    class_layers: frozenset[int] | None = frozenset()
    sketches: dict[Key, dict[str, Sketch]] = field(default_factory=dict)
    _channels: dict[Key, ChannelSums] = field(default_factory=dict)
    _open: dict[int, dict[Key, tuple[NDArray[np.integer], Moments]]] = field(default_factory=dict)
    _eps: dict[tuple[int, Key], float] = field(default_factory=dict)
    _rows: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self,
        point: Point,
        phase: str,
        values: torch.Tensor,
        tokens: Tokens,
        moved: torch.Tensor | None = None,
    ) -> None:
        """Count (batch * tokens, channels) of one point; ``moved`` keeps what is marked alone."""
        key = Key(point.layer, point.stack, point.site, phase, point.module)
        names = self._class_names(point.layer)
        documents, rows = np.unique(tokens.documents, return_inverse=True)
        classes = tokens.classes if len(names) > 1 else np.zeros_like(tokens.classes)
        slots = rows[:, None] * len(names) + classes
        slots = np.where(tokens.counted, slots, -1).ravel()
        if moved is not None:
            values, slots = _only_moved(values, moved, slots)
        with_channels = phase not in _PARTIAL_PHASES
        n_slots = len(documents) * len(names)
        seen = kernels.observe(values, slots, n_slots, channels=with_channels)
        self._add_classes(key, names, seen)
        if with_channels:
            self._add_channels(key, seen)
            self._add_documents(key, seen, documents, tokens.whole)

    def _class_names(self, layer: int) -> tuple[str, ...]:
        is_apart = self.class_layers is None or layer in self.class_layers
        return TOKEN_CLASSES if is_apart else ("all",)

    def _add_classes(self, key: Key, names: Sequence[str], seen: Observation) -> None:
        by_class = self.sketches.setdefault(key, {name: Sketch() for name in names})
        for index, name in enumerate(names):
            by_class[name].absorb(seen, range(index, len(seen.tables), len(names)))

    def _add_channels(self, key: Key, seen: Observation) -> None:
        if seen.channels is None:
            return
        known = self._channels.get(key)
        self._channels[key] = seen.channels if known is None else known + seen.channels

    def _add_documents(
        self, key: Key, seen: Observation, documents: NDArray[np.int64], whole: frozenset[int]
    ) -> None:
        n_classes = len(seen.tables) // len(documents)
        for index, name in enumerate(documents.tolist()):
            part = slice(index * n_classes, (index + 1) * n_classes)
            # One class: the table itself, nothing is copied.
            table = seen.tables[part.start]
            if n_classes > 1:
                table = seen.tables[part].sum(axis=0, dtype=np.int64)
            moments = sum(seen.moments[part], Moments())
            if name in whole:
                self._rows.append(self._row(name, key, table, moments))
            else:
                kept = self._open.setdefault(name, {})
                if key in kept:
                    old_table, old_moments = kept[key]
                    table, moments = old_table.astype(np.int64) + table, old_moments + moments
                kept[key] = (table, moments)

    def _row(
        self, document: int, key: Key, table: NDArray[np.integer], moments: Moments
    ) -> dict[str, Any]:
        """Turn a document's table into its row; eps is that of its own phase ``before``.

        Where that was not seen first, eps and near_zero are NaN.
        """
        place = (document, key._replace(phase=""))
        is_before = key.phase == "before"
        given = -1.0 if is_before else self._eps.get(place, math.nan)
        sketch = next(iter(self.sketches[key].values()))
        magnitudes = grid.magnitudes(sketch.grid or "bf16")
        found = kernels.summarise(table, magnitudes, self.c, given)
        row = dict(zip(_DOCUMENT_COLUMNS, found, strict=True))
        if is_before:
            self._eps[place] = row["eps"]
        elif math.isnan(given):
            row["near_zero"] = math.nan
        if sketch.is_rounded and moments.count:
            row |= {"mean": moments.mean, "std": math.sqrt(moments.m2 / moments.count)}
        where = {"document": document, "layer": key.layer, "site": key.site, "phase": key.phase}
        return where | row | {"module": key.module, "stack": key.stack}

    def close_documents(self, documents: Iterable[int] | None = None) -> None:
        """Write the rows of documents that are finished; None means all that are open."""
        for document in sorted(self._open if documents is None else documents):
            self._rows += self._open_rows(document)
            self._open.pop(document, None)

    def _open_rows(self, document: int) -> list[dict[str, Any]]:
        kept = self._open.get(document, {})
        order = sorted(kept, key=lambda key: key.phase != "before")
        return [self._row(document, key, *kept[key]) for key in order]

    def open_documents(self) -> list[int]:
        """Return the documents that are not finished."""
        return list(self._open)

    def documents(self) -> pd.DataFrame:
        """Return one row a document, layer, site and phase, sorted."""
        unfinished = [row for document in self._open for row in self._open_rows(document)]
        if not self._rows and not unfinished:
            return pd.DataFrame()
        frame = pd.DataFrame([*self._rows, *unfinished])
        phase = frame["phase"].map({name: rank for rank, name in enumerate(PHASES)})
        order = ["document", "stack", "layer", "site", "module", "_phase"]
        frame = frame.assign(_phase=phase).sort_values(order, ignore_index=True, kind="stable")
        return frame.drop(columns="_phase")

    def channels(self) -> pd.DataFrame:
        """Return one row a layer, site, phase and channel."""
        frames = []
        for key, sums in self._channels.items():
            empty = sums.count == 0
            low = np.where(empty, np.nan, sums.low)
            high = np.where(empty, np.nan, sums.high)
            std = np.sqrt(sums.m2 / np.maximum(sums.count, 1))
            frames.append(
                pd.DataFrame(
                    {"layer": key.layer, "site": key.site, "phase": key.phase}
                    | {"channel": np.arange(sums.count.size), "count": sums.count}
                    | {"mean": np.where(empty, np.nan, sums.mean)}
                    | {"std": np.where(empty, np.nan, std), "min": low, "max": high}
                    | {"absmax": np.maximum(np.abs(low), np.abs(high))}
                    | {"module": key.module, "stack": key.stack}
                )
            )
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _only_moved(
    values: torch.Tensor, moved: torch.Tensor, slots: NDArray[np.int64]
) -> tuple[torch.Tensor, NDArray[np.int64]]:
    """Return the marked values as one column, with the slot of each."""
    marked = moved.bool()
    counts = marked.sum(dim=1).cpu().numpy()
    return values[marked][:, None], np.repeat(slots, counts)
