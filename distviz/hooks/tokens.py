"""The tokens of one forward call: which rows count, and what they belong to."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from distviz.arm import SequenceRows
from distviz.hooks.extremes import CountedRows
from distviz.hooks.moe_layouts import Routed
from distviz.stats import kernels

if TYPE_CHECKING:
    import torch

TOKEN_CLASSES = ("digits", "operators", "conjunctions", "other")
T = TypeVar("T")


@dataclass(frozen=True)
class Tokens:
    """The tokens of one forward call.

    Attributes
    ----------
    valid
        bool (batch, tokens): not padding; ARM acts on these.
    counted
        bool (batch, tokens): included in the statistics.
    documents
        int64 (batch,): the document of each row.
    index
        int64 (batch, tokens): the token's key for random numbers.
    classes
        int64 (batch, tokens): index into `TOKEN_CLASSES`.
    whole
        Documents that begin and end in this call, and so need no table.
    past
        Tokens in the cache before this call.
    routed
        For rows of routed experts, the token and expert of each row. None: one row per token.
    lengths
        If one row of the batch holds several sequences (the patches of images), their numbers of
        tokens, without padding. Empty: a row is a sequence.
    ids
        int64 (batch, tokens), or None where the model did not read token ids.
    roles
        int64 (batch, tokens): index into `ROLES`; None where no token has one.
    are_read
        False where the call has no text: one position stands for each row of the batch.
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
    ids: NDArray[np.int64] | None = None
    roles: NDArray[np.int64] | None = None
    are_read: bool = True
    _kept: dict[Hashable, Any] = field(default_factory=dict, init=False, compare=False, repr=False)

    @cached_property
    def counted_rows(self) -> CountedRows:
        """The counted rows, the same for every layer of a call."""
        return CountedRows.of(self)

    def rows_that_count(self) -> NDArray[np.bool_]:
        """Return which rows are included in the statistics; with experts, a row per choice."""
        rows = self.counted.ravel()
        return rows if self.routed is None else self.routed.spread(rows.astype(np.int64)) > 0

    def slots(self, n_classes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the documents, and each row's slot: one per document and class, -1 for none."""

        def found() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
            documents, rows = np.unique(self.documents, return_inverse=True)
            classes = self.classes if n_classes > 1 else np.zeros_like(self.classes)
            slots = np.where(self.counted, rows[:, None] * n_classes + classes, -1).ravel()
            return documents, slots if self.routed is None else self.routed.spread(slots)

        return self.once(("slots", n_classes), found)

    def rows_on(self, device: torch.device, n_classes: int) -> kernels.DeviceRows:
        """Return the counted rows and their `slots` on a device."""

        def copied() -> kernels.DeviceRows:
            documents, slots = self.slots(n_classes)
            rows = self.counted_rows.rows
            return kernels.DeviceRows.of(rows, slots, len(documents) * n_classes, device)

        return self.once((device, n_classes), copied)

    def once(self, name: Hashable, make: Callable[[], T]) -> T:
        """Return what was made under a name: what all layers of a call have in common."""
        if name not in self._kept:
            self._kept[name] = make()
        found: T = self._kept[name]
        return found

    def sequences(self) -> list[SequenceRows]:
        """Return the rows of each sequence without padding, as ARM takes them.

        Rows of experts are in the order of (token, slot).
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
