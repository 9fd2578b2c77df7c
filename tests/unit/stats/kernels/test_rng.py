"""The random numbers against the same formula in Python's integers."""

from __future__ import annotations

import numpy as np
import pytest
from support.brute_force import uniforms as plain_uniforms

from distviz.stats.kernels import row_keys, uniforms


@pytest.mark.parametrize("seed", [0, 1, -3, 2**40 + 7])
def test_every_number_follows_from_its_keys(seed: int) -> None:
    tokens = (np.arange(20) << 32) + np.arange(20)[::-1]
    for slots in (2, np.arange(20) % 3):
        keys = row_keys(seed, 3, 1, slots, -5, tokens)
        assert keys.shape == (20, 2)
        found = uniforms(keys, 300)
        assert found.dtype == np.float32
        for row in range(20):
            slot = np.broadcast_to(slots, 20)[row]
            expected = plain_uniforms([seed, 3, 1, slot, -5, tokens[row]], 300)
            np.testing.assert_array_equal(found[row], expected)


def test_numbers_are_multiples_of_two_to_the_minus_24_below_one() -> None:
    found = uniforms(row_keys(5, 0, 0, 0, 0, np.arange(64)), 500).astype(np.float64)
    assert found.min() >= 0
    assert found.max() < 1
    assert (found * 2**24 == np.floor(found * 2**24)).all()
    assert abs(found.mean() - 0.5) < 0.01
