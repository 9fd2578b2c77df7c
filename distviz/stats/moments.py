"""Sums without rounding: results are equal to the bit in any order of adding.

A float64 is a multiple of 2^-1074 and its square of 2^-2148, so Python's integers hold every sum
exactly; a result is rounded once, when it is read. Cost: about a microsecond per term, so terms are
sums of batches, never single activations.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distviz.stats import float_grid

_SHIFT = 1074


def _units(number: float) -> int:
    """Return a finite float64 as a multiple of 2^-1074."""
    numerator, denominator = number.as_integer_ratio()
    return numerator << (_SHIFT - denominator.bit_length() + 1)


def _divide(numerator: int, denominator: int) -> float:
    try:
        return numerator / denominator
    except OverflowError:
        return math.inf if numerator > 0 else -math.inf


@dataclass(frozen=True, slots=True)
class ExactSum:
    """A sum of float64 numbers; two of them add.

    Attributes
    ----------
    units
        The sum of the finite terms, as a multiple of 2^-1074.
    rest
        The sum of the other terms, 0.0 if there are none.
    """

    units: int = 0
    rest: float = 0.0

    def plus(self, number: float) -> ExactSum:
        """Return the sum with one more term."""
        if not math.isfinite(number):
            return ExactSum(self.units, self.rest + number)
        return ExactSum(self.units + _units(number), self.rest)

    def __add__(self, other: ExactSum) -> ExactSum:
        return ExactSum(self.units + other.units, self.rest + other.rest)

    def __float__(self) -> float:
        return self.rest or _divide(self.units, 1 << _SHIFT)


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums of powers of finite values, merged without rounding; two of them add.

    Attributes
    ----------
    count
        Number of values.
    first
        Their sum, as a multiple of 2^-1074.
    second
        The sum of their squares, as a multiple of 2^-2148.
    overflows
        Whether a part exceeded float64; then ``mean`` is NaN and ``m2`` infinite.
    higher
        The sums of third powers, of fourth powers and of abs(x), as multiples of 2^-3222, 2^-4296
        and 2^-1074; None if a part lacks them or exceeded float64.
    """

    count: int = 0
    first: int = 0
    second: int = 0
    overflows: bool = False
    higher: tuple[int, int, int] | None = (0, 0, 0)

    @classmethod
    def of(
        cls, count: int, mean: float, m2: float, higher: Sequence[float] | None = None
    ) -> Moments:
        """Return the moments of values by sums of powers of their deviations from the mean.

        ``m2`` is that of squares; ``higher`` of third and fourth powers, then the sum of abs(x).
        """
        if not count:
            return cls()
        if not (math.isfinite(mean) and math.isfinite(m2)):
            return cls(count, overflows=True, higher=None)
        center, spread = _units(mean), _units(m2) << _SHIFT
        square = center * center
        first, second = count * center, spread + count * square
        if higher is None or not all(map(math.isfinite, higher)):
            return cls(count, first, second, higher=None)
        m3, m4 = _units(higher[0]) << 2 * _SHIFT, _units(higher[1]) << 3 * _SHIFT
        third = m3 + 3 * center * spread + count * center * square
        fourth = m4 + 4 * center * m3 + 6 * square * spread + count * square * square
        return cls(count, first, second, higher=(third, fourth, _units(higher[2])))

    @classmethod
    def of_table(cls, table: NDArray[np.integer], grid: str) -> Moments:
        """Return the moments of the finite values that a table of 65,536 codes counts."""
        counts = table[float_grid.ordered_codes(grid)]
        values, counts = float_grid.ordered_values(grid)[counts > 0], counts[counts > 0]
        total = int(counts.sum())
        mean = math.fsum(values * counts) / max(total, 1)
        m2, *higher = (math.fsum((values - mean) ** power * counts) for power in (2, 3, 4))
        return cls.of(total, mean, m2, (*higher, math.fsum(np.abs(values) * counts)))

    def __add__(self, other: Moments) -> Moments:
        higher = None
        if self.higher is not None and other.higher is not None:
            (a, b, c), (d, e, f) = self.higher, other.higher
            higher = (a + d, b + e, c + f)
        return Moments(
            self.count + other.count,
            self.first + other.first,
            self.second + other.second,
            self.overflows or other.overflows,
            higher,
        )

    @property
    def mean(self) -> float:
        """The mean, rounded once; 0 without values."""
        if self.overflows:
            return math.nan
        return _divide(self.first, max(self.count, 1) << _SHIFT)

    @property
    def m2(self) -> float:
        """The sum of squared deviations from the exact mean, rounded once."""
        if self.overflows:
            return math.inf
        count = max(self.count, 1)
        return _divide(self.second * count - self.first * self.first, count << 2 * _SHIFT)

    @property
    def l1(self) -> float | None:
        """The sum of abs(x), rounded once; None if ``higher`` is."""
        return None if self.higher is None else _divide(self.higher[2], 1 << _SHIFT)

    @property
    def l2(self) -> float:
        """The root of the sum of squares."""
        return math.sqrt(self.m2 + self.count * self.mean**2)

    @property
    def m3_m4(self) -> tuple[float, float] | None:
        """The sums of third and fourth powers of the deviations, rounded once; None as `l1`."""
        if self.higher is None:
            return None
        third, fourth, _ = self.higher
        n, first = max(self.count, 1), self.first
        square = first * first
        m3 = n * n * third - 3 * n * first * self.second + 2 * square * first
        m4 = n**3 * fourth - 4 * n * n * first * third
        m4 += 6 * n * square * self.second - 3 * square * square
        return _divide(m3, n * n << 3 * _SHIFT), _divide(m4, n**3 << 4 * _SHIFT)


def joined_moments(parts: Iterable[tuple[Moments, NDArray[np.integer]]], grid: str) -> Moments:
    """Return the sum of the moments of data with their tables of counts.

    Data on the grid have no `Moments.higher`, as their counts are exact; among wider data, those
    of their counts.
    """
    filled = [part for part in parts if part[0].count]
    is_mixed = len({moments.higher is None for moments, _ in filled}) > 1
    sums = (
        Moments.of_table(table, grid) if is_mixed and moments.higher is None else moments
        for moments, table in filled
    )
    return sum(sums, Moments())
