"""Arithmetic with two float64 a number, against fractions."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from distviz.stats.double_double import DoubleDouble

OPERATIONS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "sum": lambda a, b, c: a + b + c,
    "product": lambda a, b, c: a * b * c,
    "difference that cancels": lambda a, b, c: (a + b) * c - a * c,
    "factor": lambda a, b, c: 3 * a * b - b,
}


def numbers(seed: int) -> DoubleDouble:
    luck = np.random.default_rng(seed)
    high = np.ldexp(luck.standard_normal(200), luck.integers(-20, 20, 200))
    return DoubleDouble(high, high * 2.0**-54 * luck.uniform(-1, 1, 200))


def fractions(given: DoubleDouble) -> list[Fraction]:
    pairs = zip(given.high.tolist(), given.low.tolist(), strict=True)
    return [Fraction(high) + Fraction(low) for high, low in pairs]


@pytest.mark.parametrize("name", OPERATIONS)
def test_thirty_digits(name: str) -> None:
    operation, given = OPERATIONS[name], [numbers(seed) for seed in range(3)]
    found = fractions(operation(*given))
    for result, a, b, c in zip(found, *map(fractions, given), strict=True):
        size = max(abs(term) for term in (a, b, c, a * c, b * c, a * b, a * b * c))
        assert abs(result - operation(a, b, c)) <= size * Fraction(2) ** -98


def test_division_by_float64() -> None:
    given, divisor = numbers(4), numbers(5).high
    for result, a, b in zip(fractions(given / divisor), fractions(given), divisor, strict=True):
        assert abs(result - a / Fraction(float(b))) <= abs(result) * Fraction(2) ** -98


def test_the_high_part_is_the_number_rounded() -> None:
    total = numbers(6) * numbers(7)
    np.testing.assert_array_equal(total.high, total.high + total.low)
