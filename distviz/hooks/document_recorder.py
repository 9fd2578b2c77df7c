"""Record one row per document, layer, site and phase.

Memory: one table per unfinished document and key, ten numbers per finished row.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distviz.hooks.device_documents import DeviceDocuments, DevicePart
from distviz.sites import PHASES, SiteKey
from distviz.stats import (
    Moments,
    float_grid,
    joined_moments,
    kernels,
    pack_moments,
    pack_tables,
    unpack_moments,
    unpack_tables,
)

_COLUMNS = ["document", "count", "mean", "std", "eps", "near_zero", "l1", "l2", "gini", "absmax"]
_ORDER = ["document", "stack", "layer", "site", "module", "_phase"]

K = TypeVar("K")
V = TypeVar("V")


def merged(
    mine: Mapping[K, V], theirs: Mapping[K, V], add: Callable[[V, V], V] = operator.add
) -> dict[K, V]:
    """Return both mappings as one; values of common keys are added."""
    return dict(mine) | {k: add(mine[k], v) if k in mine else v for k, v in theirs.items()}


@dataclass(frozen=True)
class _Part:
    """The values of one document at one key so far."""

    table: NDArray[np.integer]
    moments: Moments
    grid: str

    def __add__(self, other: _Part) -> _Part:
        table = self.table.astype(np.int64) + other.table
        parts = (self.moments, self.table), (other.moments, other.table)
        return _Part(table, joined_moments(parts, self.grid), self.grid)


@dataclass
class Documents:
    """Accumulates documents; two can be added if every common document is unfinished in both.

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
    on_device: DeviceDocuments = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.on_device = DeviceDocuments(self.c, self._eps)

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

        ``kind`` is the grid and whether values were rounded to it; ``is_whole`` means that the
        document is finished at this key, so that no table is stored.
        """
        self._kinds[key] = _newer_kind(self._kinds.get(key, kind), kind)
        part = _Part(table, moments, kind[0])
        if is_whole:
            self._rows.setdefault(key, []).append(self._row(document, key, part))
            return
        parts = self._open.setdefault(document, {})
        parts[key] = parts[key] + part if key in parts else part

    def add_on_device(
        self, key: SiteKey, document: int, part: DevicePart, *, is_whole: bool
    ) -> None:
        """Add counts of one document that are on a device, see `add`."""
        kind = (part.grid, part.is_rounded)
        self._kinds[key] = _newer_kind(self._kinds.get(key, kind), kind)
        self.on_device.add(key, document, part, is_whole=is_whole)

    def send(self, copies: kernels.HostCopies) -> None:
        """Start to copy finished documents from devices to the host."""
        self.on_device.describe()
        for places, tensors in self.on_device.rows:
            copies.put(tensors, partial(self._take, places))
        self.on_device.rows = []

    def flush(self) -> None:
        """Bring what is left on devices to the host, unfinished documents too."""
        copies = kernels.HostCopies()
        self.send(copies)
        parts = [
            (d, key, part) for d, own in self.on_device.parts.items() for key, part in own.items()
        ]
        self.on_device.parts = {}
        for document, key, part in parts:
            copies.put(part.tensors, partial(self._open_part, document, key, part))
        copies.flush()

    def _open_part(
        self, document: int, key: SiteKey, part: DevicePart, arrays: list[NDArray[Any]]
    ) -> None:
        table, powers, center = arrays
        moments = kernels.moments_of(table[None], part.grid, powers[:, None], float(center))[0]
        kind = (part.grid, part.is_rounded)
        self.add(key, document, table, moments, kind, is_whole=False)

    def _take(self, places: list[tuple[int, SiteKey]], arrays: list[NDArray[Any]]) -> None:
        """Store the rows of documents that were described on a device."""
        for (document, key), numbers, powers, center in zip(places, *arrays, strict=True):
            n = int(numbers[0])
            moments = Moments()
            if powers.size:
                moments = kernels.moments_of_powers(np.array([n]), powers[:, None], center)[0]
            found = (n, *numbers[1:].tolist())
            self._rows.setdefault(key, []).append(self._row_of(document, key, found, moments))
            place = (document, key._replace(phase=""))
            if place not in self.on_device.bands:  # forgotten meanwhile
                self._eps.pop(place, None)

    def _row(self, document: int, key: SiteKey, part: _Part) -> tuple[Any, ...]:
        """Return the row of a document's table; eps is that of its phase ``before``.

        Without an earlier phase ``before``, eps and near_zero are NaN.
        """
        given = -1.0 if key.phase == "before" else self.band(document, key)
        name, _ = self._kinds[key]
        found = kernels.summarise(part.table, float_grid.magnitudes(name), self.c, given)
        return self._row_of(document, key, found, part.moments)

    def _row_of(
        self, document: int, key: SiteKey, found: tuple[Any, ...], moments: Moments
    ) -> tuple[Any, ...]:
        """Return the row by the statistics of the table and the moments of the values."""
        count, mean, std, eps, near_zero, l1, l2, gini, absmax = found
        if key.phase == "before":
            self._eps[document, key._replace(phase="")] = eps
        elif math.isnan(eps):
            near_zero = math.nan
        _, is_rounded = self._kinds[key]
        if is_rounded and moments.count:
            mean, std = moments.mean, math.sqrt(moments.m2 / moments.count)
        if is_rounded and moments.l1 is not None:
            l1, l2 = moments.l1, moments.l2
        return (document, count, mean, std, eps, near_zero, l1, l2, gini, absmax)

    def _rows_of(self, document: int) -> list[tuple[SiteKey, tuple[Any, ...]]]:
        parts = self._open.get(document, {})
        order = sorted(parts, key=lambda key: key.phase != "before")
        return [(key, self._row(document, key, parts[key])) for key in order]

    def close(self, documents: Iterable[int] | None = None) -> None:
        """Finish documents and store their rows; None means all unfinished ones."""
        everywhere = {**self._open, **self.on_device.parts}
        for document in sorted(everywhere if documents is None else documents):
            if document in self._open and document in self.on_device.parts:
                self.flush()  # a checkpoint was saved meanwhile
            self.on_device.close(document)
            for key, row in self._rows_of(document):
                self._rows.setdefault(key, []).append(row)
            self._open.pop(document, None)
        self.on_device.describe()

    def band(self, document: int, key: SiteKey) -> float:
        """Return eps of a document whose phase ``before`` is finished, until `forget`; else NaN."""
        return self._eps.get((document, key._replace(phase="")), math.nan)

    def forget(self, documents: Iterable[int]) -> None:
        """Drop the eps of documents that have no further phase."""
        gone = set(documents)
        self.on_device.forget(gone)
        for place in [place for place in self._eps if place[0] in gone]:
            del self._eps[place]  # in place: `on_device` reads it

    def open_documents(self) -> list[int]:
        """Return the unfinished documents."""
        return [*dict.fromkeys((*self._open, *self.on_device.parts))]

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
        unfinished = merged(self._open, other._open, merged)
        kinds = merged(self._kinds, other._kinds, _newer_kind)
        eps, rows = self._eps | other._eps, merged(self._rows, other._rows)
        return Documents(self.c, unfinished, kinds, eps, rows)

    def state(self) -> dict[str, Any]:
        """Return a tree for `distviz.stats.encode`, without the eps of finished documents."""
        parts = [(d, key, part) for d, by_key in self._open.items() for key, part in by_key.items()]
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
        """Return the documents of a `state`."""
        found = cls(state["c"])
        found._kinds = {SiteKey(*key): (name, rounded) for key, name, rounded in state["kinds"]}
        found._rows = {SiteKey(*key): [*map(_row_of, rows)] for key, rows in state["rows"]}
        unfinished = state["open"]
        moments = unpack_moments(unfinished["moments"])
        keys = [SiteKey(*key) for key in unfinished["keys"]]
        grids = (found._kinds[key][0] for key in keys)
        parts = map(_Part, unpack_tables(unfinished["tables"]), moments, grids)
        for document, key, part in zip(unfinished["documents"], keys, parts, strict=True):
            found._open.setdefault(document, {})[key] = part
        return found


def _newer_kind(known: tuple[str, bool], new: tuple[str, bool]) -> tuple[str, bool]:
    return new[0], known[1] or new[1]


def _row_of(numbers: NDArray[np.float64]) -> tuple[Any, ...]:
    return (int(numbers[0]), int(numbers[1]), *numbers[2:].tolist())


def _frame_of(key: SiteKey, rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=_COLUMNS)
    for place, name in enumerate(("layer", "site", "phase"), start=1):
        frame.insert(place, name, getattr(key, name))
    return frame.assign(module=key.module, stack=key.stack, _phase=list(PHASES).index(key.phase))
