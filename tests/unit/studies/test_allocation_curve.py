"""Points of the path, and thresholds for values that arrive in a changed model."""

from __future__ import annotations

import numpy as np
import pytest

from distviz.stats import Sketch
from distviz.studies.allocation import Level, Zeros
from distviz.studies.allocation_curve import _adapt, evenly


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [(1, 1, [1]), (0, 3, [0, 1, 2, 3]), (1, 21, [1, 5, 9, 13, 17, 21]), (0, 1, [0, 1])],
)
def test_points_are_evenly_spread(first: int, last: int, expected: list[int]) -> None:
    assert evenly(first, last, 5) == expected


def test_equal_values_are_made_up_for_in_the_next_place() -> None:
    """Half of the values of the first place are equal, so it has 75 % or 25 %, never 50 %."""
    first = Zeros.of([Sketch().add(np.repeat(np.float32([1, 2, 3]), [25, 50, 25]))])
    second = Zeros.of([Sketch().add(np.arange(1, 101, dtype=np.float32))])
    promised = (Level(9.0, 0.55, 55), Level(9.0, 0.5, 50), Level(0.0, 0.0, 0))
    found = _adapt([first, second, second], promised)
    assert [level.saved for level in found] == [75, 30, 0]
    assert found[2] is promised[2]
