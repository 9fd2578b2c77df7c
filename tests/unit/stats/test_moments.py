"""Sums that do not depend on the order of adding, against fractions."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from distviz.stats.moments import ExactSum, Moments
from distviz.stats.sketch import Sketch

bounded = settings(max_examples=60, deadline=None, derandomize=True, database=None)
numbers = some.floats(allow_nan=False, allow_infinity=False)
parts = some.tuples(some.integers(1, 10**9), some.floats(-1e38, 1e38), some.floats(0, 1e76))


def _rounded(value: Fraction) -> float:
    try:
        return value.numerator / value.denominator
    except OverflowError:
        return math.inf if value > 0 else -math.inf


@bounded
@given(some.lists(numbers, max_size=20), some.randoms())
def test_a_sum_is_rounded_once_whatever_the_order(terms: list[float], order: random.Random) -> None:
    exact = _rounded(sum(map(Fraction, terms), Fraction(0)))
    order.shuffle(terms)
    total, half = ExactSum(), ExactSum()
    for term in terms[: len(terms) // 2]:
        total = total.plus(term)
    for term in terms[len(terms) // 2 :]:
        half = half.plus(term)
    assert float(total + half) == exact
    assert total + half == half + total


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ([math.inf, 1.0], math.inf),
        ([1.0, -math.inf, 5e-324], -math.inf),
        ([math.inf, -math.inf], math.nan),
        ([math.nan, 1.0], math.nan),
        ([1.7e308, 1.7e308], math.inf),
        ([], 0.0),
    ],
)
def test_what_is_not_finite_stays_so(terms: list[float], expected: float) -> None:
    total = ExactSum()
    for term in terms:
        total = total.plus(term)
    assert float(total) == expected or (math.isnan(expected) and math.isnan(float(total)))


@bounded
@given(some.lists(parts, min_size=1, max_size=8), some.randoms())
def test_moments_are_those_of_exact_arithmetic(
    given_parts: list[tuple[int, float, float]], order: random.Random
) -> None:
    count = sum(n for n, _, _ in given_parts)
    first = sum((n * Fraction(mean) for n, mean, _ in given_parts), Fraction(0))
    mean = first / count
    m2 = sum((Fraction(s) + n * (Fraction(m) - mean) ** 2 for n, m, s in given_parts), Fraction(0))
    found = [Moments.of(*part) for part in given_parts]
    order.shuffle(found)
    place = order.randrange(len(found))
    total = sum(found[place:], Moments()) + sum(found[:place], Moments())
    assert (total.count, total.mean, total.m2) == (count, _rounded(mean), _rounded(m2))


@given(parts)
def test_what_was_rounded_once_is_read_back(part: tuple[int, float, float]) -> None:
    found = Moments.of(*part)
    assert (found.count, found.mean, found.m2) == part


def test_no_values_no_moments() -> None:
    assert Moments.of(0, math.nan, math.nan) == Moments()
    assert (Moments().mean, Moments().m2) == (0.0, 0.0)


def test_what_float64_cannot_hold_is_said_and_stays() -> None:
    total = Moments.of(2, 1.0, 0.0) + Moments.of(1, math.inf, math.nan)
    assert total.count == 3
    assert math.isnan(total.mean)
    assert total.m2 == math.inf


def test_sketches_of_wide_data_are_equal_to_the_bit_in_any_order() -> None:
    values = torch.from_numpy(np.random.default_rng(4).lognormal(3, 4, (40, 33)))
    rows = [values[start : start + 5].float() for start in range(0, 40, 5)]
    forward, backward = Sketch(), Sketch()
    for part in rows:
        forward = forward + Sketch().add(part)
    for part in reversed(rows):
        backward.add(part)
    for name in ("mean", "std"):
        assert getattr(forward, name)() == getattr(backward, name)()
    assert forward.moments == backward.moments


def test_the_sign_of_a_zero_extreme_does_not_tell_the_order() -> None:
    one, other = Sketch().add(np.array([-0.0, 1.0])), Sketch().add(np.array([0.0, 1.0]))
    assert [math.copysign(1, (one + other).min), math.copysign(1, (other + one).min)] == [1, 1]
