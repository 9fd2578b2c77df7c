"""The effect on the output by document, beside the sums of `Effect`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

COLUMNS = ("positions", "loss_before", "loss_after", "kl", "same")
"""Sums over the positions of a document."""


@dataclass
class DocumentEffects:
    """Sums of `COLUMNS` by document.

    Attributes
    ----------
    sums
        Document -> float64 (5,).
    owners
        int64 (rows,): the document of each row of the batch that is compared.
    """

    sums: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    owners: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def add(self, rows: torch.Tensor, values: Sequence[torch.Tensor]) -> None:
        """Add positions: their rows in the batch, and the last four of `COLUMNS` for each."""
        of_row = rows.cpu().numpy()
        size = len(self.owners)
        parts = [np.bincount(of_row, minlength=size).astype(float)]
        for one in values:
            weights = one.detach().double().cpu().numpy()
            parts.append(np.bincount(of_row, weights, minlength=size))
        for document, sums in zip(self.owners.tolist(), np.stack(parts, axis=1), strict=True):
            self.sums[document] = self.sums.get(document, np.zeros(len(COLUMNS))) + sums

    def table(self, documents: Sequence[int]) -> NDArray[np.float64]:
        """Return the sums of some documents, float64 (documents, 5)."""
        rows = [self.sums.get(document, np.zeros(len(COLUMNS))) for document in documents]
        return np.array(rows).reshape(-1, len(COLUMNS))

    def state(self) -> list[list[float]]:
        """Return plain data."""
        return [[float(document), *sums.tolist()] for document, sums in self.sums.items()]

    @classmethod
    def from_state(cls, state: list[list[float]]) -> DocumentEffects:
        """Return what `state` describes."""
        return cls({int(row[0]): np.array(row[1:]) for row in state})
