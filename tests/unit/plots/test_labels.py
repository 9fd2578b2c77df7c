"""Labels beside points: clear of curves, markers, intervals and each other."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from support import figure_checks

from distviz.plots import style
from distviz.plots.labels import label_points


def _labelled(names: list[tuple[str, list[tuple[float, float]]]], *, crowd: int = 0) -> Figure:
    with style.styled():
        figure = Figure(figsize=(4, 3))
        ax = figure.add_axes((0.2, 0.2, 0.7, 0.7))
        x = np.linspace(0, 1, 30)
        ax.plot(x, x**2, "o-")
        ax.step([0, 0.5, 1], [0.2, 0.8, 0.9], where="post")
        ax.vlines([0.3, 0.6], 0.4, 0.9)
        ax.axvline(0.8)
        for level in np.linspace(0, 1, crowd):
            ax.axhline(level)
        label_points(ax, names, style.INK)
    return figure


def test_labels_lie_on_nothing() -> None:
    places = [(0.0, 0.0), (0.5, 0.25), (0.7, 0.49), (1.0, 1.0), (0.5, 0.8), (0.8, 0.64)]
    figure = _labelled([(f"setting {i}", [place]) for i, place in enumerate(places)])
    assert len(figure.axes[0].texts) >= 4
    assert figure_checks.problems(figure) == []


def test_a_label_that_fits_nowhere_is_left_out() -> None:
    figure = _labelled([("setting", [(0.5, 0.25)])], crowd=80)
    assert not figure.axes[0].texts


def test_the_first_name_has_the_first_choice_and_a_curve_offers_many_places() -> None:
    both = [("first", [(0.5, 0.25)]), ("second", [(0.5, 0.25), (0.2, 0.04)])]
    first, second = _labelled(both).axes[0].texts
    assert (first.get_text(), second.get_text()) == ("first", "second")
    assert second.xy in [(0.5, 0.25), (0.2, 0.04)]
