"""Every check of figures finds the fault that a figure was made to have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from support import figure_checks
from support.legibility import texts_shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes


@pytest.fixture
def ax() -> Axes:
    """A panel without faults, with text apart from its points."""
    with mpl.rc_context({"font.size": 8.0}):
        figure = Figure(figsize=(4, 3), dpi=150)
        panel = figure.add_axes((0.2, 0.2, 0.7, 0.6))
        panel.plot([0, 1, 2, 3], [0, 1, 2, 3], "o-")
        panel.text(0.1, 2.4, "apart")
    assert figure_checks.problems(figure) == []
    return panel


def _over_segment(ax: Axes) -> None:
    ax.text(1.3, 1.5, "over the line")


def _over_steps(ax: Axes) -> None:
    ax.step([0, 1, 2], [2.9, 0.5, 0.5], where="post")
    ax.text(0.95, 2.2, "over")


def _over_marker(ax: Axes) -> None:
    ax.plot([2.5], [0.5], linestyle="none", marker="s", markersize=12)
    ax.text(2.56, 0.45, "over")


def _over_scatter(ax: Axes) -> None:
    ax.scatter([2.0], [0.5], s=200)
    ax.text(2.05, 0.5, "over")


def _over_bar(ax: Axes) -> None:
    ax.bar([2.5], [1.0], 0.4)
    ax.text(2.45, 0.5, "over")


def _over_budget_line(ax: Axes) -> None:
    ax.axvline(2.5)
    ax.text(2.3, 0.5, "over the budget")


def _over_interval(ax: Axes) -> None:
    ax.vlines([2.5], [0.1], [1.0])
    ax.text(2.4, 0.5, "over")


def _over_an_outline(ax: Axes) -> None:
    ax.add_patch(mpl.patches.Rectangle((2, 0.2), 0.9, 0.9, fill=False))
    ax.text(1.9, 0.5, "over")


@pytest.mark.parametrize(
    "draw",
    [
        _over_segment, _over_steps, _over_marker, _over_scatter, _over_bar, _over_budget_line,
        _over_interval, _over_an_outline,
    ],
)  # fmt: skip
def test_text_over_data_is_found(ax: Axes, draw: Callable[[Axes], None]) -> None:
    draw(ax)
    (found,) = figure_checks.texts_over_data(ax.figure, texts_shown(ax.figure))
    assert "over" in found
    assert "lies over data" in found


def test_text_over_a_background_or_a_line_beyond_the_panel_is_no_fault(ax: Axes) -> None:
    ax.axvspan(0, 1, zorder=0.3)
    ax.plot([1, 1], [-50, -20])
    ax.set_ylim(0, 3)
    assert figure_checks.texts_over_data(ax.figure, texts_shown(ax.figure)) == []


def test_a_number_belongs_into_its_own_cell() -> None:
    for draw in ("pcolormesh", "imshow"):
        figure = Figure(figsize=(4, 3), dpi=150)
        ax = figure.add_axes((0.2, 0.2, 0.7, 0.6))
        getattr(ax, draw)(np.arange(1.0, 7.0).reshape(2, 3))
        middle = 0.5 if draw == "pcolormesh" else 0.0
        ax.text(1 + middle, middle, "1", ha="center", va="center")
        assert figure_checks.texts_over_data(figure, texts_shown(figure)) == []
        ax.text(0.5 + middle, middle, "between", ha="center", va="center")
        assert figure_checks.texts_over_data(figure, texts_shown(figure)) == [
            "'between' lies over cells of a heatmap"
        ]


def test_a_text_at_the_edge_is_found(ax: Axes) -> None:
    ax.figure.text(0.999, 0.5, "late", ha="right")
    assert figure_checks.texts_at_the_edge(ax.figure, texts_shown(ax.figure)) == [
        "'late' is at the edge"
    ]
    ax.figure.texts[0].set_x(1.02)
    assert "cut" in " ".join(figure_checks.problems(ax.figure))


def test_repeated_ticks_are_found(ax: Axes) -> None:
    ax.set_yticks([0.5, 1, 2], ["0 %", "0 %", "1 %"])
    assert figure_checks.repeated_ticks(ax.figure, texts_shown(ax.figure)) == [
        "two ticks say '0 %'"
    ]


def test_touching_ticks_are_found(ax: Axes) -> None:
    ax.set_xticks([0, 0.5, 3], ["0,000,000", "1,000,000", "2"])
    assert figure_checks.touching_ticks(ax.figure, texts_shown(ax.figure)) == [
        "ticks '0,000,000' and '1,000,000' touch"
    ]


@pytest.mark.parametrize(
    ("limits", "side"),
    [((-2, 3), "left"), ((0, 5), "right"), ((-1.8, 3.1), "bottom"), ((0, 4.8), "top")],
)
def test_an_empty_side_is_found(ax: Axes, limits: tuple[float, float], side: str) -> None:
    (ax.set_xlim if side in ("left", "right") else ax.set_ylim)(*limits)
    (found,) = figure_checks.empty_sides(ax.figure)
    assert f"empty at the {side}" in found


def test_data_in_the_middle_and_lines_of_reference_fill_a_panel(ax: Axes) -> None:
    ax.set_ylim(-5, 8)
    assert figure_checks.empty_sides(ax.figure) == []
    ax.set_ylim(-3.2, 3.2)
    assert figure_checks.empty_sides(ax.figure)
    ax.axhline(-3)
    assert figure_checks.empty_sides(ax.figure) == []


@pytest.mark.parametrize("blank", [0.0, np.nan])
@pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
def test_a_blank_part_of_a_heatmap_is_found(blank: float, side: str) -> None:
    values = np.arange(1.0, 37.0).reshape(6, 6)
    part = {"left": (slice(None), slice(2)), "right": (slice(None), slice(-2, None))}
    part |= {"top": (slice(2), slice(None)), "bottom": (slice(-2, None), slice(None))}
    figure = Figure()
    image = figure.add_subplot().imshow(values)
    assert figure_checks.empty_sides(figure) == []
    values[part[side]] = blank
    image.set_data(values)
    (found,) = figure_checks.empty_sides(figure)
    assert f"2 of 6 rows or columns blank at the {side}" in found
