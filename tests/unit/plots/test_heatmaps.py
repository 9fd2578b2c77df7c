"""Heatmaps: cells, their numbers, and colours."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from support.artists import artists

from distviz.plots import style
from distviz.plots.heatmaps import diverging_scale, draw_heatmap, outline, sequential_scale


def _drawn(values: np.ndarray, columns: list[int], formats: list[str]) -> Figure:
    with style.styled():
        figure = Figure(figsize=(4, 2))
        ax = figure.add_subplot()
        names = [f"row {index}" for index in range(len(values))]
        writers = [("{:" + one + "}").format for one in formats]
        draw_heatmap(ax, values, names, np.array(columns), Normalize(0, 9), "YlOrBr", writers)
        outline(ax, 0, 0)
    return figure


def test_cells_stand_at_their_layers_and_bear_their_numbers() -> None:
    figure = _drawn(np.array([[0.0, 1.25, np.nan], [4.0, 9.0, np.inf]]), [0, 1, 3], [".2f"])
    (ax,) = figure.axes
    assert ax.get_xlim() == (-0.5, 3.5)
    texts = {text.get_position(): text.get_text() for text in artists(ax, "cell")}
    assert texts == {(0, 0): "0.00", (1, 0): "1.25", (0, 1): "4.00", (1, 1): "9.00", (3, 1): "inf"}
    assert [label.get_text() for label in ax.get_yticklabels()] == ["row 0", "row 1"]
    colors = {text.get_text(): text.get_color() for text in artists(ax, "cell")}
    assert (colors["0.00"], colors["9.00"]) == (style.INK, "white")


def test_the_first_format_that_fits_is_used_else_a_colour_scale() -> None:
    values = np.full((1, 20), 1.25)
    (short,) = _drawn(values, list(range(20)), [".4f", ".0f"]).axes
    assert {text.get_text() for text in artists(short, "cell")} == {"1"}
    ax, bar = _drawn(values, list(range(20)), [".4f"]).axes
    assert not artists(ax, "cell")
    assert bar.get_label() == "<colorbar>"


def test_scales_of_colour() -> None:
    values = np.array([np.nan, -3.0, 2.0, np.inf])
    both = diverging_scale(values, 1.0)
    assert (both.vmin, both.vmax) == (-3, 3)
    assert diverging_scale(values / 10, 1.0).vmax == 1.0
    assert (sequential_scale(values).vmin, sequential_scale(values).vmax) == (-3, 2)
    assert sequential_scale(np.array([2.0])).vmax > 2
    assert sequential_scale(np.array([np.nan])).vmax == pytest.approx(1)
