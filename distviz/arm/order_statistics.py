"""Exact order statistics of one sequence, of its values and of their magnitudes.

Three methods with equal results: sorting (few values, or float64); a table of codes (16-bit types);
and a table of upper halves, refined by the values of the few cells that matter (float32), which
reads the sequence a second time, rarely a third. Values on a device are sorted or counted there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distviz.stats import MAD_TO_SIGMA, float_grid, kernels

_FEW = 1 << 15
_HALF = 16


class OrderStatistics(ABC):
    """Order statistics of the finite values of a sequence; ranks start at 0."""

    n: int

    def prefetch(self, c: float, shares: tuple[float, float], ranks: Iterable[int]) -> None:
        """Announce what will be requested, so that the data are read once for all requests."""
        del c, shares, ranks

    @abstractmethod
    def value(self, rank: int) -> float:
        """Return the value of a rank in ascending order."""

    @abstractmethod
    def magnitude(self, rank: int) -> float:
        """Return the magnitude of a rank in ascending order."""

    @abstractmethod
    def distance(self, rank: int, center: float) -> float:
        """Return the rank-th smallest abs(magnitude - center)."""

    @abstractmethod
    def count_below(self, limit: float) -> int:
        """Return how many magnitudes are below the limit."""

    @abstractmethod
    def count_equal(self, magnitude: float) -> int:
        """Return how many magnitudes are equal to this one."""


def rank_values(values: torch.Tensor, rows: NDArray[np.int64]) -> OrderStatistics:
    """Return the order statistics of some rows of (rows, channels)."""
    if rows.size * values.shape[1] <= _FEW or values.dtype == torch.float64:
        index = torch.from_numpy(rows).to(values.device)
        picked = values[index].flatten()
        picked = picked[torch.isfinite(picked)]
        if kernels.sorts_there(values):
            return _SortedOnDevice(picked.double())
        return _Sorted(picked.cpu().double().numpy())
    if values.dtype == torch.float32:
        return _Refined(values, rows)
    name = float_grid.grid_for_dtype(str(values.dtype))
    return _Counted(kernels.count(values, rows).table, name)


class _Sorted(OrderStatistics):
    """By sorting: for few values, as in a decoding step, and for float64."""

    def __init__(self, values: Any) -> None:
        self._values = self._sort(values)
        self._magnitudes = self._sort(abs(self._values))
        self.n = len(self._values)

    def _sort(self, values: Any) -> Any:
        return np.sort(values)

    def value(self, rank: int) -> float:
        return float(self._values[rank])

    def magnitude(self, rank: int) -> float:
        return float(self._magnitudes[rank])

    def distance(self, rank: int, center: float) -> float:
        return float(np.partition(np.abs(self._magnitudes - center), rank)[rank])

    def count_below(self, limit: float) -> int:
        return int(np.searchsorted(self._magnitudes, limit, side="left"))

    def count_equal(self, magnitude: float) -> int:
        above = int(np.searchsorted(self._magnitudes, magnitude, side="right"))
        return above - self.count_below(magnitude)


class _SortedOnDevice(_Sorted):
    """By sorting on the device of the values; only single numbers are copied from it."""

    def _sort(self, values: Any) -> Any:
        return values.sort().values

    def distance(self, rank: int, center: float) -> float:
        return float((self._magnitudes - center).abs().kthvalue(rank + 1).values)

    def count_below(self, limit: float) -> int:
        return int((self._magnitudes < limit).sum())

    def count_equal(self, magnitude: float) -> int:
        return int((self._magnitudes == magnitude).sum())


class _Counted(OrderStatistics):
    """From a table of all 65,536 codes of a 16-bit type."""

    def __init__(self, table: NDArray[np.int64], name: str) -> None:
        top = float_grid.first_nonfinite(name)
        self._codes = float_grid.ordered_values(name)
        self._signed = np.cumsum(table[float_grid.ordered_codes(name)])
        self._cells = float_grid.magnitudes(name)
        self._counts = table[:top] + table[float_grid.SIGN : float_grid.SIGN + top]
        self._running = np.cumsum(self._counts)
        self.n = int(self._running[-1])

    def value(self, rank: int) -> float:
        return float(self._codes[np.searchsorted(self._signed, rank, side="right")])

    def magnitude(self, rank: int) -> float:
        return float(self._cells[np.searchsorted(self._running, rank, side="right")])

    def distance(self, rank: int, center: float) -> float:
        args = (self._cells, self._cells, self._counts, rank, center, center, True)
        return float(kernels.distance_of_rank(*args))

    def count_below(self, limit: float) -> int:
        cell = int(np.searchsorted(self._cells, limit, side="left"))
        return int(self._running[cell - 1]) if cell else 0

    def count_equal(self, magnitude: float) -> int:
        return int(self._counts[np.searchsorted(self._cells, magnitude, side="left")])


class _Refined(OrderStatistics):
    """Float32: cells of equal upper 16 bits, and the values themselves where a cell matters.

    Arrays contain the occupied cells only, ascending by magnitude; a *place* is an index into
    them, a *code* the upper 16 bits.
    """

    def __init__(self, values: torch.Tensor, rows: NDArray[np.int64]) -> None:
        self._source = (values, rows)
        self._tally = kernels.count(values, rows)
        top = float_grid.first_nonfinite("bf16")
        positive, negative = self._tally.table[:top], self._tally.table[float_grid.SIGN :][:top]
        both = positive + negative
        self._cells = np.flatnonzero(both)
        self._counts = both[self._cells]
        self._running = np.cumsum(self._counts)
        self.n = int(self._running[-1]) if self._cells.size else 0
        self._lows = float_grid.magnitudes("bf16")[self._cells]
        self._highs = _cell_ends()[self._cells]
        below, above = (self._cells[side[self._cells] > 0] for side in (negative, positive))
        self._codes = np.concatenate([below[::-1] + float_grid.SIGN, above])
        self._signed = np.cumsum(self._tally.table[self._codes])
        self._inside: dict[int, NDArray[np.float32]] = {}

    def _fetch(self, codes: NDArray[np.int64]) -> None:
        """Read the values of some cells (codes with sign) that are not known yet."""
        occupied = np.unique(codes[self._tally.table[codes] > 0])
        missing = [code for code in occupied.tolist() if code not in self._inside]
        if not missing:
            return
        cells = np.array(missing)
        found = kernels.gather(*self._source, cells, self._tally)
        ends = np.cumsum(self._tally.table[cells])[:-1]
        self._inside.update(zip(missing, np.split(found, ends), strict=True))

    def _magnitudes_in(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return all magnitudes in some cells, unordered."""
        codes = np.concatenate([self._cells[places], self._cells[places] + float_grid.SIGN])
        self._fetch(codes)
        known = [self._inside[code] for code in codes.tolist() if code in self._inside]
        return np.abs(np.concatenate(known)) if known else np.empty(0, np.float32)

    def _place(self, rank: int) -> int:
        return int(np.searchsorted(self._running, rank, side="right"))

    def _before(self, place: int) -> int:
        return int(self._running[place - 1]) if place else 0

    def prefetch(self, c: float, shares: tuple[float, float], ranks: Iterable[int]) -> None:
        rank = (self.n - 1) // 2
        middle = self._place(rank)
        span = (float(self._lows[middle]), float(self._highs[middle]))
        least, most = self._distance_bounds(rank, *span)
        # eps lies between these, so near between two counts, so the k-th magnitude in a few cells
        first = int(np.searchsorted(self._highs, MAD_TO_SIGMA * c * least, side="left"))
        last = int(np.searchsorted(self._lows, MAD_TO_SIGMA * c * most, side="left"))
        ends = [self._place(self._rank_of(self._before(place), shares)) for place in (first, last)]
        places = np.concatenate(
            [
                [middle],
                self._undecided(*span, least, most),
                np.arange(first, last),
                np.arange(ends[0], ends[1] + 1),
            ]
        ).astype(np.int64)
        cells = self._cells[places]
        signed = self._codes[np.searchsorted(self._signed, np.array([*ranks]), side="right")]
        self._fetch(np.concatenate([cells, cells + float_grid.SIGN, signed]))

    def _rank_of(self, near: int, shares: tuple[float, float]) -> int:
        share = min(max(near / self.n, shares[0]), shares[1])
        return max(1, round(share * self.n)) - 1

    def _distance_bounds(self, rank: int, low: float, high: float) -> tuple[float, float]:
        args = (self._lows, self._highs, self._counts, rank, low, high)
        least, most = (float(kernels.distance_of_rank(*args, end)) for end in (False, True))
        return least, most

    def _undecided(self, low: float, high: float, least: float, most: float) -> NDArray[np.int64]:
        """Return cells that may hold a distance in [least, most] from a centre in [low, high]."""
        nearest = np.maximum(np.maximum(self._lows - high, low - self._highs), 0.0)
        farthest = np.maximum(self._highs - low, high - self._lows)
        return np.flatnonzero((farthest >= least) & (nearest <= most))

    def value(self, rank: int) -> float:
        if rank == 0 and self._tally.lowest < 0:
            return self._tally.lowest
        place = int(np.searchsorted(self._signed, rank, side="right"))
        code = int(self._codes[place])
        self._fetch(np.array([code]))
        inner = rank - (int(self._signed[place - 1]) if place else 0)
        return float(np.partition(self._inside[code], inner)[inner])

    def magnitude(self, rank: int) -> float:
        place = self._place(rank)
        inner = rank - self._before(place)
        return float(np.partition(self._magnitudes_in(np.array([place])), inner)[inner])

    def distance(self, rank: int, center: float) -> float:
        least, most = self._distance_bounds(rank, center, center)
        places = self._undecided(center, center, least, most)
        farthest = np.maximum(self._highs - center, center - self._lows)
        inner = rank - int(self._counts[farthest < least].sum())
        inside = self._magnitudes_in(places)
        return float(kernels.select_distance(inside, center, inner, least, most))

    def count_below(self, limit: float) -> int:
        place = int(np.searchsorted(self._highs, limit, side="left"))
        if place == self._cells.size or self._lows[place] >= limit:
            return self._before(place)
        inside = self._magnitudes_in(np.array([place]))
        return self._before(place) + int((inside < np.float64(limit)).sum())

    def count_equal(self, magnitude: float) -> int:
        place = int(np.searchsorted(self._highs, magnitude, side="left"))
        inside = self._magnitudes_in(np.array([place]))
        return int((inside == np.float32(magnitude)).sum())


@cache
def _cell_ends() -> NDArray[np.float64]:
    """Return the largest float32 magnitude of each cell."""
    codes = np.arange(float_grid.first_nonfinite("bf16"), dtype=np.uint32)
    return ((codes << _HALF) | np.uint32(0xFFFF)).view(np.float32).astype(np.float64)
