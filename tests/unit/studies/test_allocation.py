"""Levels, the greedy path, and what is uniform: on numbers that can be checked by eye."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from distviz.errors import RequestError
from distviz.stats import Sketch
from distviz.studies.allocation import (
    Level,
    Place,
    Zeros,
    find_path,
    mean_of,
    parse_allocation,
    place_of_formats,
    place_of_zeros,
    saved_by,
    uniform,
)


@pytest.mark.parametrize("text", ["0.5", "50%", " 50 %"])
def test_a_share_of_zeros(text: str) -> None:
    asked = parse_allocation(text)
    assert (asked.target, asked.formats, asked.column) == (Fraction(1, 2), (), "threshold")
    assert asked.shares == [Fraction(n, 10) for n in range(1, 10)]
    assert parse_allocation("95%").shares[-3:] == [Fraction(n, 40) for n in (36, 38, 39)]


def test_formats() -> None:
    asked = parse_allocation("nvfp4,none,fp8-token")
    assert (asked.target, asked.column) == (None, "format")
    assert asked.formats == ("nvfp4", "none", "fp8-token")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0", "between 0 and 1"), ("1", "between 0 and 1"), ("-0.5", "between 0 and 1"),
        ("150%", "between 0 and 1"), ("50", "50% or"), ("0.5x", "is not a number"),
        ("nvfp4", "one format leaves nothing"), ("int9,nvfp4", "format is 'int9'"),
        ("int8-token,fp8-token", "have 8 bits, none saves any"), ("nvfp4,", "empty item"),
        ("", "empty item"),
    ],
)  # fmt: skip
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        parse_allocation(text)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_zeros_are_those_of_the_values(dtype: torch.dtype) -> None:
    values = torch.randn(3000, generator=torch.Generator().manual_seed(1)).to(dtype)
    values[:300] = 0
    zeros = Zeros.of([Sketch().add(values[:1000]), Sketch().add(values[1000:])])
    assert zeros.values == 3000
    assert zeros.least == Level(0.0, 0.1, 300)
    sizes = values.abs().double()
    for wanted in (300, 301, 1234, 2999, 3000):
        high, low = zeros.reaching(wanted), zeros.within(wanted)
        for level in (high, low):
            assert level.saved == int((sizes <= level.value).sum()) == level.amount * 3000
            assert zeros.level(level.value) == level
        assert low.saved <= wanted <= high.saved
        between = sizes[(sizes > low.value) & (sizes <= high.value)]
        assert between.bfloat16().unique().numel() <= 1 if dtype == torch.float32 else True
    place = place_of_zeros(2, "act", [Sketch().add(values)], parse_allocation("50%"))
    assert [level.amount for level in place.levels] == pytest.approx(
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], abs=4e-3
    )


def _place(layer: int, costs: list[float], values: int = 100) -> Place:
    levels = [Level(f"f{n}", 10 - n, 10.0 * n, cost) for n, cost in enumerate([0.0, *costs])]
    return Place(layer, "act", values, tuple(levels))


def test_the_cheapest_per_saving_comes_first() -> None:
    places = [_place(0, [1.0, 5.0]), _place(1, [2.0, 2.5]), _place(2, [9.0, 3.0])]
    path = find_path(places)
    taken = [(step.place, step.level.value) for step in path.steps]
    # Both levels of the second place cost 2.5 for 20; the first level of the third costs too much.
    assert taken == [(0, "f1"), (1, "f2"), (2, "f2"), (0, "f2")]
    assert path.after(0) == path.start
    assert [saved_by(path.after(n)) for n in range(5)] == [0, 10, 30, 50, 60]
    assert mean_of(places, path.after(4)) == 8.0


def test_the_path_is_the_cheapest_of_all_for_what_it_saves() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        places = [_place(n, sorted(rng.random(2).cumsum() ** 2)) for n in range(4)]
        every = [
            (sum(one.saved for one in chosen), sum(one.cost for one in chosen))
            for chosen in itertools.product(*(place.levels for place in places))
        ]
        path = find_path(places)
        for n in range(len(path.steps) + 1):
            own = path.after(n)
            saved, cost = saved_by(own), sum(level.cost for level in own)
            assert cost <= min(c for s, c in every if s >= saved) + 1e-12


def test_what_cannot_be_measured_is_never_taken() -> None:
    path = find_path([_place(0, [math.inf, math.inf]), _place(1, [1.0, math.inf])])
    assert [(step.place, step.level.value) for step in path.steps] == [(1, "f1")]


def test_the_last_step_takes_what_is_missing() -> None:
    asked = parse_allocation("45%")
    rng = np.random.default_rng(0)
    places = []
    for layer in range(3):
        sketch = Sketch().add(torch.from_numpy(rng.standard_normal(50000)).float())
        place = place_of_zeros(layer, "act", [sketch], asked)
        places.append(place.with_costs([(layer + 1) * level.amount**2 for level in place.levels]))
    wanted = math.ceil(0.45 * 150000)
    path = find_path(places, wanted)
    own = path.after(len(path.steps))
    assert wanted <= saved_by(own) < wanted + 300
    # Where costs grow with squares, equal prices mean shares in proportion to 1, 1/2, 1/3.
    assert [level.amount for level in own] == pytest.approx([0.736, 0.368, 0.245], abs=0.06)
    even = uniform(places, own)
    assert wanted - 600 < saved_by(even) <= saved_by(own)
    assert [level.amount for level in even] == pytest.approx([0.45] * 3, abs=4e-3)


def test_formats_are_spread_evenly_at_each_site() -> None:
    asked = parse_allocation("none,nvfp4")
    places = [
        place_of_formats(layer, site, values, asked, 16)
        for site, values in (("mlp_in", 10), ("product", 30))
        for layer in range(6)
    ]
    assert [level.amount for level in places[0].levels] == [16, 4.5]
    assert [level.saved for level in places[-1].levels] == [0, 30 * 11.5]
    own = tuple(
        place.levels[1 if place.site == "product" and place.layer < 3 else 0] for place in places
    )
    even = uniform(places, own)
    assert [level.value for level in even[:6]] == ["none"] * 6
    assert [level.value for level in even[6:]] == ["none", "nvfp4"] * 3
    assert saved_by(even) == saved_by(own)
    assert mean_of(places, even) == (6 * 10 * 16 + 3 * 30 * (16 + 4.5)) / 240
