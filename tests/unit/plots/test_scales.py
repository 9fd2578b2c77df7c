"""Scales of panels: logarithmic only where the values span a factor; signs of differences."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from distviz.plots import scales


@pytest.mark.parametrize(
    ("values", "is_log"),
    [([1.0, 31.0], True), ([1.0, 29.0], False), ([0.0, np.nan], False), ([], False)],
)
def test_log_scale_only_where_values_span_a_factor(values: list[float], is_log: bool) -> None:
    ax = Figure().add_subplot()
    assert scales.log_if_wide(ax, np.array(values)) == is_log
    assert ax.get_yscale() == ("log" if is_log else "linear")


def test_differences_have_a_sign() -> None:
    assert [scales.signed(value) for value in (0.5, -0.5, 0)] == ["+0.5", "\N{MINUS SIGN}0.5", "0"]
