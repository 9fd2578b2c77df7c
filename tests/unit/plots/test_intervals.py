"""Estimates with intervals: filled where significant, dotted or absent where uncertain."""

from __future__ import annotations

from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from support.artists import artists, texts_of
from support.synthetic_comparisons import make

from distviz import plots
from distviz.plots import style
from distviz.plots.intervals import draw_changes
from distviz.results.comparison import Comparison
from distviz.studies import comparison as comparing


def test_filled_marks_are_significant(comparison: Comparison) -> None:
    figure = plots.comparison_overview(comparison)
    faces = {
        line.get_gid(): mpl.colors.to_hex(line.get_markerfacecolor())
        for axes in figure.axes[2:]
        for line in axes.get_lines()
        if str(line.get_gid()).endswith(("significant", "rest"))
    }
    assert faces["log_variance_ratio-significant"] == style.INK
    assert all(face == "#ffffff" for gid, face in faces.items() if gid.endswith("rest"))


def test_intervals_are_drawn_and_the_approximate_marked(comparison: Comparison) -> None:
    rows = comparison.inference
    approximate = replace(comparison, inference=rows.assign(approximate=rows["layer_a"] == 1))
    figure = plots.comparison_overview(approximate)
    part = rows[rows["quantity"] == "log_variance_ratio"].set_index("layer_a")
    for gid, layers in (("interval", [0, 2]), ("approximate", [1])):
        (bars,) = artists(figure.axes[2], gid)
        drawn = {seg[0][0]: (seg[0][1], seg[1][1]) for seg in bars.get_segments()}
        assert list(drawn) == layers
        for layer, ends in drawn.items():
            assert ends == pytest.approx(tuple(part.loc[layer, ["ci_low", "ci_high"]]))
    assert "95 % interval, approximate" in texts_of(figure)


def test_few_documents_withhold_intervals() -> None:
    runs = [make(seed, documents=4).run for seed in (1, 2)]
    figure = plots.comparison_overview(comparing.compare_runs(*runs))
    assert not any(artists(axes, "interval") for axes in figure.axes)
    assert "interval withheld: too few documents" in texts_of(figure)


def test_changes_are_filled_where_significant() -> None:
    ax = Figure().add_subplot()
    estimate = np.array([0.5, -1.0, 2.0])
    ends = np.stack([estimate - 0.25, estimate + 0.25], axis=1)
    draw_changes(ax, np.arange(3.0), ends, estimate, np.array([0.01, 0.5, 0.04]))
    significant, rest = ax.get_lines()[-2:]
    assert (list(significant.get_xdata()), list(significant.get_ydata())) == ([0, 2], [0.5, 2])
    assert (list(rest.get_xdata()), list(rest.get_ydata())) == ([1], [-1])
    assert significant.get_markerfacecolor() == style.LINE["after"]
    assert rest.get_markerfacecolor() == "white"
    drawn = [(low[1], high[1]) for low, high in ax.collections[0].get_segments()]
    assert drawn == [tuple(pair) for pair in ends]
