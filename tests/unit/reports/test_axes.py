"""Axes of the page: scales that fit, ticks of logarithmic scales."""

from __future__ import annotations

import pytest

from distviz.reports import axes


@pytest.mark.parametrize(
    ("values", "scale", "ticks"),
    [
        ([0.0001, 0.1], "log", [1e-4, 1e-3, 1e-2, 1e-1]),
        ([0.0, 0.0001, 0.1], "symlog", [0, 1e-4, 1e-3, 1e-2, 1e-1]),
        ([0.02, 0.9], "log", [0.1, 1]),
        ([0.5, 0.9], "linear", None),
        ([-1.0, 1e6], "linear", None),
        ([0.0, 0.0], "linear", None),
        ([], "linear", None),
    ],
)
def test_scales_follow_the_values(
    values: list[float], scale: str, ticks: list[float] | None
) -> None:
    found = axes.fitted(values, axes.SHARE)
    assert found["scale"]["type"] == scale
    assert found["axis"].get("values") == ticks


@pytest.mark.parametrize(
    ("values", "zero"), [([95.0, 99.0], False), ([4.0, 9.0], True), ([-9.0, -8.0], False)]
)
def test_zero_is_on_the_axis_where_it_is_near(values: list[float], zero: bool) -> None:
    assert axes.fitted(values, axes.NUMBER)["scale"]["zero"] is zero


def test_decibels_stay_linear() -> None:
    assert axes.fitted([0.3, 60.0], axes.NUMBER, scale="linear")["scale"]["type"] == "linear"


def test_both_signs_have_ticks() -> None:
    scale, ticks = axes.symlog([-20.0, 3000.0], 1.0)
    assert scale["domain"] == [-20.0, 3000.0]
    assert ticks == [-10, -1, 0, 1, 10, 100, 1000]


def test_a_short_range_has_twos_and_fives() -> None:
    assert axes.log_ticks(1.5, 8) == [2, 5]


@pytest.mark.parametrize(
    ("places", "ticks"),
    [
        ([0], [0]),
        ([1, 0], [0, 1]),
        (range(5), [0, 1, 2, 3, 4]),
        (range(3, 33), [5, 10, 15, 20, 25, 30]),
        ([0, 5, 2000], [0, 500, 1000, 1500, 2000]),
    ],
)
def test_ticks_of_layers_are_whole(places: list[int], ticks: list[int]) -> None:
    assert axes.whole_ticks(places) == ticks
