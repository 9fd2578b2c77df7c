"""One row a document, layer, site and phase: tables of documents that are open, then their rows.

Two sets of documents add; a document that both hold must still be open in both. Memory is bounded
by what is open, and nine numbers a finished row.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distviz.sites import PHASES, SiteKey
from distviz.stats import (
    Moments,
    float_grid,
    kernels,
    pack_moments,
    pack_tables,
    unpack_moments,
    unpack_tables,
)

__all__ = ["Documents"]

_COLUMNS = ["document", "count", "mean", "std", "eps", "near_zero", "l1", "l2", "gini"]
_ORDER = ["document", "stack", "layer", "site", "module", "_phase"]


@dataclass(frozen=True)
class _Part:
    """What was seen of one document at one key so far."""

    table: NDArray[np.integer]
    moments: Moments

    def __add__(self, other: _Part) -> _Part:
        table = self.table.astype(np.int64) + other.table
        return _Part(table, self.moments + other.moments)


@dataclass
class Documents:
    """Accumulates documents.

    Parameters
    ----------
    c
        Width of the near-zero band.
    """

    c: float
    _open: dict[int, dict[SiteKey, _Part]] = field(default_factory=dict)
    _kinds: dict[SiteKey, tuple[str, bool]] = field(default_factory=dict)
    _eps: dict[tuple[int, SiteKey], float] = field(default_factory=dict)
    _rows: dict[SiteKey, list[tuple[Any, ...]]] = field(default_factory=dict)

    def add(
        self,
        key: SiteKey,
        document: int,
        table: NDArray[np.integer],
        moments: Moments,
        kind: tuple[str, bool],
        *,
        is_whole: bool,
    ) -> None:
        """Add a table of one document.

        ``kind`` is the grid and whether values were rounded to it; ``is_whole`` says that nothing
        of this document follows at this key, so that no table is kept.
        """
        known = self._kinds.get(key)
        self._kinds[key] = (kind[0], kind[1] or (known is not None and known[1]))
        part = _Part(table, moments)
        if is_whole:
            self._rows.setdefault(key, []).append(self._row(document, key, part))
            return
        kept = self._open.setdefault(document, {})
        kept[key] = kept[key] + part if key in kept else part

    def _row(self, document: int, key: SiteKey, part: _Part) -> tuple[Any, ...]:
        """Turn a document's table into its row; eps is that of its own phase ``before``.

        Where that was not seen first, eps and near_zero are NaN.
        """
        place = (document, key._replace(phase=""))
        is_before = key.phase == "before"
        given = -1.0 if is_before else self._eps.get(place, math.nan)
        name, is_rounded = self._kinds[key]
        found = kernels.summarise(part.table, float_grid.magnitudes(name), self.c, given)
        count, mean, std, eps, near_zero, l1, l2, gini = found
        if is_before:
            self._eps[place] = eps
        elif math.isnan(given):
            near_zero = math.nan
        moments = part.moments
        if is_rounded and moments.count:
            mean, std = moments.mean, math.sqrt(moments.m2 / moments.count)
        return (document, count, mean, std, eps, near_zero, l1, l2, gini)

    def _rows_of(self, document: int) -> list[tuple[SiteKey, tuple[Any, ...]]]:
        kept = self._open.get(document, {})
        order = sorted(kept, key=lambda key: key.phase != "before")
        return [(key, self._row(document, key, kept[key])) for key in order]

    def close(self, documents: Iterable[int] | None = None) -> None:
        """Write the rows of documents that are finished; None means all that are open."""
        for document in sorted(self._open if documents is None else documents):
            for key, row in self._rows_of(document):
                self._rows.setdefault(key, []).append(row)
            self._open.pop(document, None)

    def band(self, document: int, key: SiteKey) -> float:
        """Return eps of a document whose phase ``before`` was seen whole, until it is forgotten."""
        return self._eps.get((document, key._replace(phase="")), math.nan)

    def forget(self, documents: Iterable[int]) -> None:
        """Drop the eps of documents of which no phase will follow."""
        gone = set(documents)
        self._eps = {place: eps for place, eps in self._eps.items() if place[0] not in gone}

    def open_documents(self) -> list[int]:
        """Return the documents that are not finished."""
        return list(self._open)

    def frame(self) -> pd.DataFrame:
        """Return the rows, unfinished documents included, sorted."""
        rows = {key: list(known) for key, known in self._rows.items()}
        for document in self._open:
            for key, row in self._rows_of(document):
                rows.setdefault(key, []).append(row)
        if not rows:
            return pd.DataFrame()
        frames = [_frame_of(key, known) for key, known in rows.items()]
        frame = pd.concat(frames, ignore_index=True)
        return frame.sort_values(_ORDER, ignore_index=True, kind="stable").drop(columns="_phase")

    def __add__(self, other: Documents) -> Documents:
        """Return both together; neither side may be used afterwards."""
        total = Documents(self.c, self._open, self._kinds, self._eps | other._eps, self._rows)
        for document, parts in other._open.items():
            kept = total._open.setdefault(document, {})
            for key, part in parts.items():
                kept[key] = kept[key] + part if key in kept else part
        for key, (name, is_rounded) in other._kinds.items():
            known = total._kinds.get(key)
            total._kinds[key] = (name, is_rounded or (known is not None and known[1]))
        for key, rows in other._rows.items():
            total._rows.setdefault(key, []).extend(rows)
        return total

    def state(self) -> dict[str, Any]:
        """Return a tree for `packing.encode`; the eps of finished documents is not in it."""
        parts = [(d, key, part) for d, kept in self._open.items() for key, part in kept.items()]
        return {
            "c": self.c,
            "kinds": [[list(key), *kind] for key, kind in self._kinds.items()],
            "rows": [[list(key), np.array(rows, float)] for key, rows in self._rows.items()],
            "open": {
                "documents": [document for document, _, _ in parts],
                "keys": [list(key) for _, key, _ in parts],
                "moments": pack_moments(part.moments for _, _, part in parts),
                "tables": pack_tables([part.table for _, _, part in parts]),
            },
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Documents:
        """Return what `state` was taken of."""
        found = cls(state["c"])
        found._kinds = {SiteKey(*key): (name, rounded) for key, name, rounded in state["kinds"]}
        found._rows = {SiteKey(*key): [*map(_row_of, rows)] for key, rows in state["rows"]}
        kept = state["open"]
        moments, tables = unpack_moments(kept["moments"]), unpack_tables(kept["tables"])
        parts = map(_Part, tables, moments)
        for document, key, part in zip(kept["documents"], kept["keys"], parts, strict=True):
            found._open.setdefault(document, {})[SiteKey(*key)] = part
        return found


def _row_of(numbers: NDArray[np.float64]) -> tuple[Any, ...]:
    return (int(numbers[0]), int(numbers[1]), *numbers[2:].tolist())


def _frame_of(key: SiteKey, rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=_COLUMNS)
    for place, name in enumerate(("layer", "site", "phase"), start=1):
        frame.insert(place, name, getattr(key, name))
    return frame.assign(module=key.module, stack=key.stack, _phase=list(PHASES).index(key.phase))
