"""Scales of panels: logarithmic only where the values span a factor; signs of differences."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from distviz.plots import scales, style


@pytest.mark.parametrize(
    ("values", "is_log"),
    [([1.0, 31.0], True), ([1.0, 29.0], False), ([0.0, np.nan], False), ([], False)],
)
def test_log_scale_only_where_values_span_a_factor(values: list[float], is_log: bool) -> None:
    ax = Figure().add_subplot()
    assert scales.log_if_wide(ax, np.array(values)) == is_log
    assert ax.get_yscale() == ("log" if is_log else "linear")


@pytest.mark.parametrize("width", [None, "single"])
@pytest.mark.parametrize("limits", [(0.5, 3e4), (1.0, 9.0), (1e-3, 1e5)])
def test_minor_ticks_look_as_those_of_matplotlib(
    limits: tuple[float, float], width: str | None
) -> None:
    with style.styled(width):
        figures = Figure(), Figure()
        ours, theirs = (figure.add_subplot() for figure in figures)
        scales.log_y_scale(ours, *limits, "clip")
        theirs.set_yscale("log", nonpositive="clip")
        theirs.set_ylim(*limits)
        theirs.yaxis.set_minor_formatter(NullFormatter())
        drawn, expected = (np.asarray(image_of(figure)) for figure in figures)
        theirs.yaxis.set_minor_locator(NullLocator())
        without = np.asarray(image_of(figures[1]))
    assert np.array_equal(drawn, expected)
    assert not np.array_equal(drawn, without)


def image_of(figure: Figure) -> memoryview:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.buffer_rgba()


def test_differences_have_a_sign() -> None:
    assert [scales.signed(value) for value in (0.5, -0.5, 0)] == ["+0.5", "\N{MINUS SIGN}0.5", "0"]


@pytest.mark.parametrize(
    ("values", "limits"),
    [
        ([1.0, 4.0, np.nan], (0, 4.48)),
        ([0.0, 0.0], (-1, 1)),
        ([], (-1, 1)),
        ([9.0, 10.0], (8.5, 10.5)),
        ([6.0, 10.0], (5.5, 10.5)),
        ([-1.0, 1.0], (-1.24, 1.24)),
        ([2.0], (1.9, 2.1)),
    ],
)
def test_a_y_axis_fits_its_values(values: list[float], limits: tuple[float, float]) -> None:
    ax = Figure().add_subplot()
    scales.fit_y(ax, np.array(values))
    assert ax.get_ylim() == pytest.approx(limits)


@pytest.mark.parametrize(
    ("ends", "ticks"),
    [
        ((0.003, 20.0), [0.01, 0.1, 1, 10]),
        ((0.011, 0.06), [0.02, 0.05]),
        ((1e-8, 1.0), [1e-8, 1e-6, 1e-4, 1e-2, 1]),
        ((0.0042, 0.0085), [0.005, 0.006, 0.007, 0.008]),
        ((2.1e-3, 2.2e-3), [0.0021]),
    ],
)
def test_ticks_of_a_logarithmic_axis(ends: tuple[float, float], ticks: list[float]) -> None:
    assert scales.log_ticks(*ends) == ticks
