"""The settings of a sweep: combinations, presets, one layer at a time, refusals."""

from __future__ import annotations

from typing import Any

import pytest

from distviz.arm.presets import PRESETS
from distviz.errors import RequestError
from distviz.settings import RunSettings
from distviz.studies.sweep_grid import SweepGrid, by_layer, combine

# The grid -----------------------------------------------------------------------------------


def test_every_combination_in_the_order_given() -> None:
    grid = SweepGrid(c="0.05,1", p1="75,90", arm_layers="0;1-2;all", redistribution="arm,noise")
    found = combine(grid, RunSettings(p_min=0.1), 3)
    named = [(s.label, s.settings.c, s.settings.p1, s.settings.redistribution) for s in found]
    expected = [
        (label, c, p1, kind)
        for label in ("0", "1-2", "all")
        for c in (0.05, 1.0)
        for p1 in (75.0, 90.0)
        for kind in ("arm", "noise")
    ]
    assert named == expected
    assert [s.layers for s in found[::8]] == [(0,), (1, 2), (0, 1, 2)]
    assert {s.settings.p_min for s in found} == {0.1}


def test_fractions_stand_in_place_of_c_or_beside_it() -> None:
    alone = combine(SweepGrid(fraction="0.1,0.2"), RunSettings(c=0.4), 2)
    assert [(s.settings.c, s.settings.fraction) for s in alone] == [(0.4, 0.1), (0.4, 0.2)]
    both = combine(SweepGrid(fraction="0.1", c="0.2"), RunSettings(fraction=0.9), 2)
    assert [(s.settings.c, s.settings.fraction) for s in both] == [(0.2, None), (0.13, 0.1)]


def test_one_setting_and_repeats() -> None:
    (only,) = combine(SweepGrid(), RunSettings(c=0.2, arm_layers="1"), 2)
    assert (only.layers, only.settings.c) == ((1,), 0.2)
    assert len(combine(SweepGrid(c="0.1,0.10,.1", arm_layers="0;0;0-0"), RunSettings(), 2)) == 1


PUBLISHED = {
    "gemma-3-4b-it:gpqa": {"fraction": 0.5, "p1": 96.5, "percentile_of": "magnitude"},
    "gemma-3-4b-it:aime25": {"fraction": 0.25, "p1": 85.0, "percentile_of": "magnitude"},
    "gemma-3-27b-it:aime24": {"fraction": 0.25, "p1": 85.0, "percentile_of": "magnitude"},
    "qwen2.5-math-7b:aime25": {"c": 0.13, "p1": 99.5},
}


def _labelled(grid: SweepGrid, base: RunSettings) -> list[tuple[Any, ...]]:
    return [
        (s.preset, s.settings.c, s.settings.fraction, s.settings.p1, s.settings.percentile_of)
        for s in combine(grid, base, 2, PUBLISHED)
    ]


def test_presets_stand_alone_or_beside_the_grid() -> None:
    gpqa, both = PUBLISHED["gemma-3-4b-it:gpqa"], "gemma-3-4b-it:aime25,gemma-3-27b-it:aime24"
    assert gpqa == PRESETS["gemma-3-4b-it:gpqa"]
    alone = [
        ("gemma-3-4b-it:gpqa", 0.13, 0.5, 96.5, "magnitude"),
        (both, 0.13, 0.25, 85.0, "magnitude"),
        ("qwen2.5-math-7b:aime25", 0.13, None, 99.5, "value"),
    ]
    assert _labelled(SweepGrid(), RunSettings()) == alone
    assert _labelled(SweepGrid(arm_mode="replace"), RunSettings(preset="auto")) == alone
    # The setting of a preset that is listed, too, gets its name and stays in its place.
    assert _labelled(SweepGrid(c="0.13,1"), RunSettings()) == [
        ("qwen2.5-math-7b:aime25", 0.13, None, 99.5, "value"),
        ("", 1.0, None, 99.5, "value"),
        *alone[:2],
    ]
    # What was said explicitly is stronger than a preset.
    said = RunSettings(percentile_of="value", explicit=frozenset({"percentile_of"}))
    assert {row[4] for row in _labelled(SweepGrid(), said)} == {"value"}
    spread = combine(
        SweepGrid(arm_layers="0;1", redistribution="arm,noise"), RunSettings(), 2, PUBLISHED
    )
    assert len(spread) == 3 * 2 * 2
    layered = by_layer(combine(SweepGrid(), RunSettings(), 2, PUBLISHED), lambda _: [0, 1])
    assert [s.preset for s in layered] == [row[0] for row in alone for _ in range(3)]


def test_layer_after_layer() -> None:
    grid = combine(SweepGrid(c="0.1,0.2", arm_layers="0;1"), RunSettings(), 3)
    found = by_layer(grid, lambda _: [0, 2])
    assert [(s.label, s.layers, s.settings.c) for s in found] == [
        ("0", (0,), 0.1), ("2", (2,), 0.1), ("0,2", (0, 2), 0.1),
        ("0", (0,), 0.2), ("2", (2,), 0.2), ("0,2", (0, 2), 0.2),
    ]  # fmt: skip
    assert [s.layers for s in by_layer(grid[:1], lambda _: [1])] == [(1,)]


def test_sites_are_alternatives_and_can_act_together() -> None:
    grid = combine(SweepGrid(at="product,act+down", c="0.1,0.2"), RunSettings(), 3)
    assert [(s.settings.at, s.settings.sites, s.settings.c) for s in grid] == [
        ("product", "product", 0.1), ("act,down", "act,down", 0.1),
        ("product", "product", 0.2), ("act,down", "act,down", 0.2),
    ]  # fmt: skip
    found = by_layer(grid, lambda at: {"product": [0, 1], "act,down": [1]}.get(at, [1, 2]))
    assert [(s.settings.at, s.label, s.settings.c) for s in found] == [
        ("product", "0", 0.1), ("product", "1", 0.1), ("product", "0-1", 0.1),
        ("act,down", "1", 0.1),
        ("product", "0", 0.2), ("product", "1", 0.2), ("product", "0-1", 0.2),
        ("act,down", "1", 0.2),
        ("act,product,down", "1-2", 0.1), ("act,product,down", "1-2", 0.2),
    ]  # fmt: skip
    with pytest.raises(RequestError, match="unknown site 'acts'"):
        combine(SweepGrid(at="acts"), RunSettings(), 3)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"c": "0.1,x"}, r"--c 'x' is not a number"),
        ({"p1": "99,0.9"}, r"--p1 0\.9 may be 90% or 0\.9%"),
        ({"fraction": "20"}, r"--fraction 20 may be 20%"),
        ({"c": "0.1,,0.2"}, r"--c '0.1,,0.2' has an empty item"),
        ({"c": "0.1,-2"}, r"c is -2.0, it must be above 0"),
        ({"p1": "120"}, r"p1 is 120.0"),
        ({"arm_mode": "replace,ad"}, r"mode is 'ad'"),
        ({"arm_layers": "0;9"}, r"layer 9 does not exist"),
        ({"arm_layers": "0;none"}, r"names no layer"),
        ({"arm_layers": "0;"}, r"--arm-layers '' is not a list of layers"),
        ({"redistribution": "arm,nose"}, r"unknown redistribution 'nose'"),
    ],
)
def test_a_grid_that_cannot_be(grid: dict[str, str], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        combine(SweepGrid(**grid), RunSettings(), 3)
