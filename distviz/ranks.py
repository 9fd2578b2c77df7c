"""Exact order statistics of one sequence, of its values and of their magnitudes.

Three ways to the same answers: sorting (few values, or float64), a table of codes (16-bit types,
exact by itself), and a table of upper halves refined by the values of the few cells that decide
(float32). None sorts the sequence; the refinement reads it once more, and only rarely twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from distviz import grid, kernels

__all__ = ["Ranks", "rank_values"]

_FEW = 1 << 15
_HALF = 16


class Ranks(Protocol):
    """Order statistics of the finite values of a sequence; ranks count from 0."""

    n: int

    def expect(self, c: float, shares: tuple[float, float], ranks: Iterable[int]) -> None:
        """Announce what will be asked, so that one look at the data serves every question."""

    def value(self, rank: int) -> float:
        """Return the value of that rank in ascending order."""

    def magnitude(self, rank: int) -> float:
        """Return the magnitude of that rank in ascending order."""

    def distance(self, rank: int, center: float) -> float:
        """Return the rank-th smallest abs(magnitude - center)."""

    def count_below(self, limit: float) -> int:
        """Return how many magnitudes are smaller than the limit."""

    def count_equal(self, magnitude: float) -> int:
        """Return how many magnitudes equal that one."""


def rank_values(values: torch.Tensor, rows: NDArray[np.int64]) -> Ranks:
    """Prepare the order statistics of the given rows of (rows, channels)."""
    if rows.size * values.shape[1] <= _FEW or values.dtype == torch.float64:
        index = torch.from_numpy(rows).to(values.device)
        return _Sorted(values[index].flatten().cpu().double().numpy())
    if values.dtype == torch.float32:
        return _Refined(values, rows)
    name = grid.grid_for_dtype(str(values.dtype))
    return _Counted(kernels.count(values, rows), name)


class _Sorted:
    """By sorting: for a decoding step's few values, and for float64."""

    def __init__(self, values: NDArray[np.float64]) -> None:
        self._values = np.sort(values[np.isfinite(values)])
        self._magnitudes = np.sort(np.abs(self._values))
        self.n = self._values.size

    def expect(self, c: float, shares: tuple[float, float], ranks: Iterable[int]) -> None:
        del c, shares, ranks

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


class _Counted:
    """From a table of all 65,536 codes of a 16-bit type."""

    def __init__(self, table: NDArray[np.int64], name: str) -> None:
        top = grid.first_nonfinite(name)
        self._codes = grid.ordered_values(name)
        self._signed = np.cumsum(table[grid.ordered_codes(name)])
        self._cells = grid.magnitudes(name)
        self._counts = table[:top] + table[grid.SIGN : grid.SIGN + top]
        self._running = np.cumsum(self._counts)
        self.n = int(self._running[-1])

    def expect(self, c: float, shares: tuple[float, float], ranks: Iterable[int]) -> None:
        del c, shares, ranks

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


class _Refined:
    """Float32: cells of equal upper 16 bits, and the values themselves where a cell decides."""

    def __init__(self, values: torch.Tensor, rows: NDArray[np.int64]) -> None:
        self._source = (values, rows)
        top = grid.first_nonfinite("bf16")
        table = kernels.count(values, rows)
        self._table = table
        self._order = grid.ordered_codes("bf16")
        self._signed = np.cumsum(table[self._order])
        self._counts = table[:top] + table[grid.SIGN : grid.SIGN + top]
        self._running = np.cumsum(self._counts)
        self.n = int(self._running[-1])
        self._lows = grid.magnitudes("bf16")
        ends = (np.arange(top, dtype=np.uint32) << _HALF) | np.uint32(0xFFFF)
        self._highs = ends.view(np.float32).astype(np.float64)
        self._known = np.zeros(grid.CELLS, np.uint8)
        self._cells: NDArray[np.uint32] = np.empty(0, np.uint32)
        self._values: NDArray[np.float64] = np.empty(0)

    def _fetch(self, codes: NDArray[np.int64]) -> None:
        """Read the values of these cells (codes with sign) unless they are known already."""
        wanted = np.zeros(grid.CELLS, np.uint8)
        wanted[codes] = 1
        wanted &= 1 - self._known
        total = int(self._table[wanted.astype(bool)].sum())
        self._known |= wanted
        if total == 0:
            return
        found = kernels.gather(*self._source, wanted, total)
        self._cells = np.concatenate([self._cells, found.view(np.uint32) >> _HALF])
        self._values = np.concatenate([self._values, found.astype(np.float64)])

    def _magnitudes_of(self, first: int, last: int) -> NDArray[np.float64]:
        """Magnitudes in the cells first..last (codes without sign)."""
        span = np.arange(first, last + 1)
        self._fetch(np.concatenate([span, span + grid.SIGN]))
        cells = self._cells & (grid.SIGN - 1)
        return np.abs(self._values[(cells >= first) & (cells <= last)])

    def _cell(self, rank: int) -> int:
        return int(np.searchsorted(self._running, rank, side="right"))

    def _before(self, cell: int) -> int:
        return int(self._running[cell - 1]) if cell else 0

    def expect(self, c: float, shares: tuple[float, float], ranks: Iterable[int]) -> None:
        rank = (self.n - 1) // 2
        middle = self._cell(rank)
        least, most = self._distance_bounds(rank, self._lows[middle], self._highs[middle])
        near = [
            self._before(int(np.searchsorted(edges, 1.4826 * c * limit, side="left")))
            for edges, limit in ((self._highs, least), (self._lows, most))
        ]
        first, last = (
            self._cell(min(max(round(float(np.clip(count / self.n, *shares)) * self.n), 1) - 1,
                           self.n - 1))
            for count in near
        )
        decisive = [
            np.array([middle]),
            self._undecided(self._lows[middle], self._highs[middle], least, most),
            np.arange(np.searchsorted(self._highs, 1.4826 * c * least),
                      np.searchsorted(self._lows, 1.4826 * c * most)),
            np.arange(first, last + 1),
        ]
        magnitudes = np.concatenate(decisive)
        places = np.searchsorted(self._signed, np.array([0, *ranks]), side="right")
        self._fetch(np.concatenate([magnitudes, magnitudes + grid.SIGN, self._order[places]]))

    def _distance_bounds(self, rank: int, low: float, high: float) -> tuple[float, float]:
        args = (self._lows, self._highs, self._counts, rank, low, high)
        least, most = (float(kernels.distance_of_rank(*args, end)) for end in (False, True))
        return least, most

    def _undecided(
        self, low: float, high: float, least: float, most: float
    ) -> NDArray[np.int64]:
        """Cells that may hold a value at a distance in [least, most] from a centre in [low, high]."""
        nearest = np.maximum(np.maximum(self._lows - high, low - self._highs), 0.0)
        farthest = np.maximum(self._highs - low, high - self._lows)
        return np.flatnonzero((farthest >= least) & (nearest <= most) & (self._counts > 0))

    def value(self, rank: int) -> float:
        place = int(np.searchsorted(self._signed, rank, side="right"))
        code = int(self._order[place])
        self._fetch(np.array([code]))
        inside = self._values[self._cells == code]
        before = int(self._signed[place - 1]) if place else 0
        return float(np.partition(inside, rank - before)[rank - before])

    def magnitude(self, rank: int) -> float:
        cell = self._cell(rank)
        inside = self._magnitudes_of(cell, cell)
        inner = rank - self._before(cell)
        return float(np.partition(inside, inner)[inner])

    def distance(self, rank: int, center: float) -> float:
        least, most = self._distance_bounds(rank, center, center)
        cells = self._undecided(center, center, least, most)
        self._fetch(np.concatenate([cells, cells + grid.SIGN]))
        farthest = np.maximum(self._highs - center, center - self._lows)
        nearer = int(self._counts[farthest < least].sum())
        is_open = np.zeros(grid.SIGN, bool)
        is_open[cells] = True
        inside = np.abs(self._values[is_open[self._cells & (grid.SIGN - 1)]])
        return float(np.partition(np.abs(inside - center), rank - nearer)[rank - nearer])

    def count_below(self, limit: float) -> int:
        cell = int(np.searchsorted(self._highs, limit, side="left"))
        if cell >= self._highs.size:
            return self.n
        if self._lows[cell] >= limit or self._counts[cell] == 0:
            return self._before(cell)
        return self._before(cell) + int((self._magnitudes_of(cell, cell) < limit).sum())

    def count_equal(self, magnitude: float) -> int:
        cell = int(np.searchsorted(self._highs, magnitude, side="left"))
        return int((self._magnitudes_of(cell, cell) == magnitude).sum())
