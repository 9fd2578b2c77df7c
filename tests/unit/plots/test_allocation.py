"""The figure of an allocation: what it draws of each side."""

from __future__ import annotations

import numpy as np
import pytest
from support.synthetic_allocations import allocation_of

from distviz.plots import allocated


@pytest.mark.parametrize("width", [None, "single", "double"])
def test_both_sides_by_layer_and_by_mean(width: str | None) -> None:
    found = allocation_of()
    *sites, curve = allocated(found, "tiny", width=width).axes
    assert len(sites) == 2
    for ax, site in zip(sites, found.sites, strict=True):
        lines = {line.get_label(): line for line in ax.get_lines()}
        for name, table in (("allocated", found.table), ("uniform", found.even)):
            rows = table[table["site"] == site]
            np.testing.assert_array_equal(lines[name].get_xdata(), rows["layer"])
            np.testing.assert_array_equal(lines[name].get_ydata(), rows["zeros"])
    lines = {line.get_label(): line for line in curve.get_lines()}
    own = found.curve[found.curve["kind"] == "allocated"]
    np.testing.assert_array_equal(lines["allocated"].get_ydata(), own["kl"])
    assert lines["chosen"].get_xydata().tolist() == [list(own.iloc[-1][["mean", "kl"]])]
    assert "budget 0.05" in lines


def test_formats_are_named_at_their_bits() -> None:
    found = allocation_of(formats=True)
    first, curve = allocated(found, "tiny").axes
    assert [label.get_text() for label in first.get_yticklabels()] == ["nvfp4", "fp8-token"]
    assert curve.xaxis_inverted()
