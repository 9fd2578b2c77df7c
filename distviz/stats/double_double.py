"""Numbers as unevaluated sums of two float64: about 31 decimal digits.

Arithmetic of Dekker (1971) and Knuth. The relative error of a sum or product is below 2^-100,
unless a part overflows (above 2^996) or underflows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SPLIT = 134217729.0  # 2^27 + 1, Veltkamp's


@dataclass(frozen=True)
class DoubleDouble:
    """An array of numbers.

    Attributes
    ----------
    high, low
        float64, of one shape: the numbers rounded, and what rounding lost.
    """

    high: NDArray[np.float64]
    low: NDArray[np.float64]

    @classmethod
    def of(cls, numbers: Any) -> DoubleDouble:
        """Return numbers without a rest."""
        if isinstance(numbers, DoubleDouble):
            return numbers
        high = np.asarray(numbers, dtype=np.float64)
        return cls(high, np.zeros_like(high))

    def __add__(self, other: Any) -> DoubleDouble:
        more = DoubleDouble.of(other)
        total, error = two_sum(self.high, more.high)
        return DoubleDouble(*two_sum(total, error + (self.low + more.low)))

    def __neg__(self) -> DoubleDouble:
        return DoubleDouble(-self.high, -self.low)

    def __sub__(self, other: Any) -> DoubleDouble:
        return self + -DoubleDouble.of(other)

    def __mul__(self, other: Any) -> DoubleDouble:
        more = DoubleDouble.of(other)
        product, error = _two_product(self.high, more.high)
        return DoubleDouble(
            *two_sum(product, error + (self.high * more.low + self.low * more.high))
        )

    __rmul__ = __mul__

    def __truediv__(self, divisor: NDArray[np.float64]) -> DoubleDouble:
        first = self.high / divisor
        rest = self - DoubleDouble.of(first) * divisor
        return DoubleDouble(*two_sum(first, rest.high / divisor))


def two_sum(
    a: NDArray[np.float64], b: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a + b and its rounding error (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _two_product(
    a: NDArray[np.float64], b: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a * b and its rounding error (Dekker)."""
    product = a * b
    (a_high, a_low), (b_high, b_low) = _halves(a), _halves(b)
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, error


def _halves(a: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    wide = _SPLIT * a
    high = wide - (wide - a)
    return high, a - high
