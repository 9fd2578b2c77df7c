"""Sums without rounding: results are equal to the bit in any order of adding.

A float64 is a multiple of 2^-1074 and its square of 2^-2148, so Python's integers hold every sum
exactly; a result is rounded once, when it is read. Cost: about a microsecond per term, so terms are
sums of batches, never single activations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
    """Count, sum and sum of squares of finite values, merged without rounding; two of them add.

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
    """

    count: int = 0
    first: int = 0
    second: int = 0
    overflows: bool = False

    @classmethod
    def of(cls, count: int, mean: float, m2: float) -> Moments:
        """Return the moments of values with a mean and a sum of squared deviations from it."""
        if not count:
            return cls()
        if not (math.isfinite(mean) and math.isfinite(m2)):
            return cls(count, overflows=True)
        center = _units(mean)
        return cls(count, count * center, (_units(m2) << _SHIFT) + count * center * center)

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.count + other.count,
            self.first + other.first,
            self.second + other.second,
            self.overflows or other.overflows,
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
