"""Shares of both sides of a pair on shared bins."""

from __future__ import annotations

import numpy as np
import pytest

from distviz import plots
from distviz.results.comparison import Comparison


def test_every_value_is_in_a_bin(comparison: Comparison) -> None:
    data = plots.compared_bins(comparison, comparison.pairs[2])
    for side in (data.a, data.b):
        assert side.shares.sum() == pytest.approx(1, abs=1e-12)
        inside = data.inside(side.shares).sum()
        assert sum(data.beyond(side)) == pytest.approx(1 - inside, abs=1e-12)
    assert data.moved == pytest.approx(np.maximum(data.difference, 0).sum(), abs=1e-12)


def test_the_same_run_moves_nothing_in_any_layer(same: Comparison) -> None:
    for pair in same.pairs:
        data = plots.compared_bins(same, pair)
        np.testing.assert_array_equal(data.a.shares, data.b.shares)
        assert data.moved == 0
