"""Exact order statistics of one sequence, of its values and of their magnitudes.

Three ways to the same answers: sorting (few values, or float64), a table of codes (16-bit types,
exact by itself), and a table of upper halves refined by the values of the few cells that decide
(float32). None sorts the sequence; the refinement reads it once more, and only rarely twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from distviz import grid, kernels

__all__ = ["Ranks", "rank_values"]

_FEW = 1 << 15
_HALF = 16
_SIGMA = 1.4826


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
    return _Counted(kernels.count(values, rows).table, name)


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
        self._tally = kernels.count(values, rows)
        table = self._tally.table
        top = grid.first_nonfinite("bf16")
        self._order = grid.ordered_codes("bf16")
        self._signed = np.cumsum(table[self._order])
        self._counts = table[:top] + table[grid.SIGN : grid.SIGN + top]
        self._running = np.cumsum(self._counts)
        self.n = int(self._running[-1])
        self._lows, self._highs = grid.magnitudes("bf16"), _cell_ends()
        self._inside: dict[int, NDArray[np.float32]] = {}

    def _fetch(self, codes: NDArray[np.int64]) -> None:
        """Read the values of these cells (codes with sign) unless they are known already."""
        wanted = np.zeros(grid.CELLS, np.uint8)
        wanted[codes] = self._tally.table[codes] > 0
        wanted[list(self._inside)] = 0
        cells = np.flatnonzero(wanted)
        if cells.size == 0:
            return
        found = kernels.gather(*self._source, wanted, self._tally)
        ends = np.cumsum(self._tally.table[cells])[:-1]
        self._inside.update(zip(cells.tolist(), np.split(found, ends), strict=True))

    def _magnitudes_in(self, cells: NDArray[np.int64]) -> NDArray[np.float32]:
        """All magnitudes of some cells (codes without sign), in no order."""
        codes = np.concatenate([cells, cells + grid.SIGN])
        self._fetch(codes)
        known = [self._inside[code] for code in codes.tolist() if code in self._inside]
        return np.abs(np.concatenate(known)) if known else np.empty(0, np.float32)

    def _cell(self, rank: int) -> int:
        return int(np.searchsorted(self._running, rank, side="right"))

    def _before(self, cell: int) -> int:
        return int(self._running[cell - 1]) if cell else 0

    def expect(self, c: float, shares: tuple[float, float], ranks: Iterable[int]) -> None:
        rank = (self.n - 1) // 2
        middle = self._cell(rank)
        span = (float(self._lows[middle]), float(self._highs[middle]))
        least, most = self._distance_bounds(rank, *span)
        # eps lies between these, so near between two counts, so the k-th magnitude in a few cells
        ends = (_SIGMA * c * least, _SIGMA * c * most)
        first = int(np.searchsorted(self._highs, ends[0], side="left"))
        last = int(np.searchsorted(self._lows, ends[1], side="left"))
        deciding = [self._cell(self._rank_of(self._before(cell), shares)) for cell in (first, last)]
        magnitudes = np.concatenate(
            [
                [middle],
                self._undecided(*span, least, most),
                np.arange(first, last),
                np.arange(deciding[0], deciding[1] + 1),
            ]
        )
        places = np.searchsorted(self._signed, np.array([*ranks]), side="right")
        codes = [magnitudes, magnitudes + grid.SIGN, self._order[places]]
        self._fetch(np.concatenate(codes).astype(np.int64))

    def _rank_of(self, near: int, shares: tuple[float, float]) -> int:
        share = min(max(near / self.n, shares[0]), shares[1])
        return max(1, round(share * self.n)) - 1

    def _distance_bounds(self, rank: int, low: float, high: float) -> tuple[float, float]:
        args = (self._lows, self._highs, self._counts, rank, low, high)
        least, most = (float(kernels.distance_of_rank(*args, end)) for end in (False, True))
        return least, most

    def _undecided(self, low: float, high: float, least: float, most: float) -> NDArray[np.int64]:
        """Cells that may hold a distance in [least, most] from a centre in [low, high]."""
        nearest = np.maximum(np.maximum(self._lows - high, low - self._highs), 0.0)
        farthest = np.maximum(self._highs - low, high - self._lows)
        return np.flatnonzero((farthest >= least) & (nearest <= most) & (self._counts > 0))

    def value(self, rank: int) -> float:
        if rank == 0 and self._tally.lowest < 0:
            return self._tally.lowest
        place = int(np.searchsorted(self._signed, rank, side="right"))
        code = int(self._order[place])
        self._fetch(np.array([code]))
        before = int(self._signed[place - 1]) if place else 0
        return float(np.partition(self._inside[code], rank - before)[rank - before])

    def magnitude(self, rank: int) -> float:
        cell = self._cell(rank)
        inner = rank - self._before(cell)
        return float(np.partition(self._magnitudes_in(np.array([cell])), inner)[inner])

    def distance(self, rank: int, center: float) -> float:
        least, most = self._distance_bounds(rank, center, center)
        cells = self._undecided(center, center, least, most)
        farthest = np.maximum(self._highs - center, center - self._lows)
        inner = rank - int(self._counts[farthest < least].sum())
        inside = self._magnitudes_in(cells)
        return float(kernels.select_distance(inside, center, inner, least, most))

    def count_below(self, limit: float) -> int:
        cell = int(np.searchsorted(self._highs, limit, side="left"))
        if cell >= self._highs.size:
            return self.n
        if self._lows[cell] >= limit or self._counts[cell] == 0:
            return self._before(cell)
        inside = self._magnitudes_in(np.array([cell]))
        return self._before(cell) + int((inside < np.float64(limit)).sum())

    def count_equal(self, magnitude: float) -> int:
        cell = int(np.searchsorted(self._highs, magnitude, side="left"))
        inside = self._magnitudes_in(np.array([cell]))
        return int((inside == np.float32(magnitude)).sum())


@cache
def _cell_ends() -> NDArray[np.float64]:
    """The largest float32 magnitude of each cell."""
    codes = np.arange(grid.first_nonfinite("bf16"), dtype=np.uint32)
    return ((codes << _HALF) | np.uint32(0xFFFF)).view(np.float32).astype(np.float64)
