"""Record the values of each expert of a layer: one small table per expert.

Guarantee: counts, zeros, NaN, infinities, minimum, maximum, mean and standard deviation are exact,
whatever the order of adding. The near-zero fraction is estimated: its threshold is known only at
the end, so magnitudes are counted in coarse cells, eight per factor of two. Cells below the
threshold count fully; the threshold's own cell is split by the exact table of all experts together.
So the experts' near-zero counts add up to the exact count of the layer, and the exact fraction of
each expert lies between ``near_zero_low`` and ``near_zero_high``, the fractions without that cell
and with all of it.

Cost: 4.3 KiB per expert, site and phase (256 experts in 58 layers: 64 MiB); a full table would take
512 KiB (7.25 GiB).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distviz.stats import Moments, Sketch, float_grid, kernels, pack_moments, unpack_moments

if TYPE_CHECKING:
    import torch

_CELLS = 512
_PER_OCTAVE = 8
_LOWEST_EXPONENT = -40
_AT_A_TIME = 32
_COUNTS = ("tokens", "nan", "inf", "zeros")


def coarse_cells(magnitudes: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the cell of each magnitude: eight equal steps inside each factor of two.

    Cell 0 holds everything below 2^-40 (1 + 1/8), the last everything from 2^24 (1 - 1/16) on.
    """
    fraction, exponent = np.frexp(magnitudes)  # in [1/2, 1)
    inside = np.floor((2 * fraction - 1) * _PER_OCTAVE).astype(np.int64)
    cells = (exponent.astype(np.int64) - 1 - _LOWEST_EXPONENT) * _PER_OCTAVE + inside
    return np.clip(np.where(magnitudes > 0, cells, 0), 0, _CELLS - 1)


@cache
def _starts(name: str) -> NDArray[np.int64]:
    """Return the first magnitude code of each cell that a grid has, and these cells."""
    cells = coarse_cells(float_grid.magnitudes(name))
    return np.stack([np.flatnonzero(np.diff(cells, prepend=-1)), np.unique(cells)])


@dataclass
class ExpertTable:
    """The values of one layer's experts at one site in one phase; two tables can be added.

    Attributes
    ----------
    tables
        int64 (experts, 512): finite values by coarse magnitude.
    counts
        int64 (4, experts): routed tokens, NaN, infinities, exact zeros.
    low, high
        float64 (experts,): exact extremes (+inf and -inf without finite values).
    moments
        Of the finite values, before any rounding.
    """

    tables: NDArray[np.int64]
    counts: NDArray[np.int64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    moments: list[Moments]

    @classmethod
    def empty(cls, n_experts: int) -> ExpertTable:
        """Return the table of experts without tokens."""
        return cls(
            np.zeros((n_experts, _CELLS), np.int64),
            np.zeros((len(_COUNTS), n_experts), np.int64),
            np.full(n_experts, np.inf),
            np.full(n_experts, -np.inf),
            [Moments() for _ in range(n_experts)],
        )

    def add(self, values: torch.Tensor, experts: NDArray[np.int64]) -> None:
        """Count (rows, channels); ``experts`` int64 (rows,) is the expert of each row, -1 for none.

        Experts are processed in groups, so that full tables take at most 8 MiB.
        """
        n_tokens = np.bincount(experts[experts >= 0], minlength=len(self.moments))
        self.counts[0] += n_tokens
        hit = np.flatnonzero(n_tokens)
        for start in range(0, hit.size, _AT_A_TIME):
            part = hit[start : start + _AT_A_TIME]
            slots = np.full(len(self.moments) + 1, -1)  # the last one for rows of no expert
            slots[part] = np.arange(part.size)
            found = kernels.observe(values, slots[experts], part.size, channels=False)
            self._absorb(part, found)

    def _absorb(self, part: NDArray[np.int64], found: Any) -> None:
        top = float_grid.first_nonfinite(found.grid)
        halves = found.tables[:, : float_grid.SIGN], found.tables[:, float_grid.SIGN :]
        both = halves[0].astype(np.int64) + halves[1]
        first, cells = _starts(found.grid)
        self.tables[np.ix_(part, cells)] += np.add.reduceat(both[:, :top], first, axis=1)
        self.counts[1, part] += both[:, top + 1 :].sum(axis=1)
        self.counts[2, part] += both[:, top]
        self.counts[3, part] += found.zeros
        self.low[part] = np.minimum(self.low[part], found.low)
        self.high[part] = np.maximum(self.high[part], found.high)
        for index, moments in zip(part.tolist(), found.moments, strict=True):
            self.moments[index] += replace(moments, higher=None)

    def __add__(self, other: ExpertTable) -> ExpertTable:
        """Return both together; neither side changes."""
        pairs = zip(self.moments, other.moments, strict=True)
        return ExpertTable(
            self.tables + other.tables,
            self.counts + other.counts,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            [mine + theirs for mine, theirs in pairs],
        )

    def rows(self, eps: float, together: Sketch) -> list[dict[str, Any]]:
        """Return one row per expert.

        Parameters
        ----------
        eps
            Width of the near-zero band.
        together
            The values of all experts.
        """
        index = int(coarse_cells(np.array([eps]))[0]) if eps > 0 else 0
        below = self.tables[:, :index].sum(axis=1)
        cell = self.tables[:, index]
        near = below + cell * _fraction_below(together, eps, index)
        n_experts = range(len(self.moments))
        return [self._row(index, below[index], near[index], cell[index]) for index in n_experts]

    def _row(self, index: int, below: int, near: float, cell: int) -> dict[str, Any]:
        moments = self.moments[index]
        count = moments.count
        given = dict(zip(_COUNTS, self.counts[:, index].tolist(), strict=True))
        row = {"expert": index, "tokens": given.pop("tokens"), "count": count} | given
        if not count:
            names = ("min", "max", "mean", "std", "near_zero", "near_zero_low", "near_zero_high")
            return row | dict.fromkeys(names, math.nan)
        return row | {
            "min": float(self.low[index]),
            "max": float(self.high[index]),
            "mean": moments.mean,
            "std": math.sqrt(moments.m2 / count),
            "near_zero": float(near) / count,
            "near_zero_low": int(below) / count,
            "near_zero_high": int(below + cell) / count,
        }

    def state(self) -> dict[str, Any]:
        """Return everything as a tree for `distviz.stats.encode`."""
        names = ("tables", "counts", "low", "high")
        arrays = {name: getattr(self, name) for name in names}
        return arrays | {"moments": pack_moments(self.moments)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> ExpertTable:
        """Return the table of a `state`."""
        return cls(**(state | {"moments": unpack_moments(state["moments"])}))


def _fraction_below(together: Sketch, eps: float, cell: int) -> float:
    """Return the fraction of a coarse cell's values below eps, for all experts together."""
    magnitudes, counts = together.magnitude_pairs()
    inside = coarse_cells(magnitudes) == cell
    total = int(counts[inside].sum())
    return int(counts[inside & (magnitudes < eps)].sum()) / total if total else 0.0
