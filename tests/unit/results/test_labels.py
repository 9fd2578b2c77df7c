"""Names of sides, fillers and samples; formats of numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from support.synthetic_comparisons import Made, make
from support.synthetic_fillers import study

from distviz.results import labels as wording
from distviz.results.filler_study import FillerStudy
from distviz.results.labels import alignment, arm_settings, number, percent, side_names
from distviz.results.sweep import setting_name
from distviz.sites import SiteKey
from distviz.studies import comparison as comparing

if TYPE_CHECKING:
    from distviz.results.comparison import Comparison


def _named(name: str, **manifest: Any) -> Made:
    return make(1, model={"name": name, "layers": 3} | manifest.pop("model", {}), **manifest)


@pytest.mark.parametrize(
    ("a", "b", "names"),
    [
        (_named("x"), _named("y"), ("x", "y")),
        (_named("x"), _named("x", dtype="float32"), ("x bf16", "x fp32")),
        (_named("x"), _named("x"), ("x", "x")),
        (
            _named("x", model={"source": "/one/x"}),
            _named("x", model={"source": "/two/x"}),
            ("x (in one)", "x (in two)"),
        ),
    ],
)
def test_side_names(a: Made, b: Made, names: tuple[str, str]) -> None:
    assert side_names(comparing.compare_runs(a.run, b.run)) == names


def test_phases_distinguish_the_sides(first: Made) -> None:
    after = make(1, phase="after")
    found = comparing.compare_runs(first.run, after.run, "before", "after")
    assert side_names(found) == ("synthetic without ARM", "synthetic with ARM")


def test_alignment(comparison: Comparison, same: Comparison, first: Made) -> None:
    assert alignment(same) == "layers paired by index"
    tokens = "different tokenizers (60 and 80 tokens)"
    assert alignment(comparison) == f"layers paired by index · {tokens}"
    deep = comparing.compare_runs(make(3, layers=5).run, first.run)
    assert alignment(deep) == "layers paired by relative depth (5 in A, 3 in B)"


@pytest.fixture(scope="module")
def made() -> FillerStudy:
    return study()


def test_the_filler_in_words(made: FillerStudy) -> None:
    manifest = made.manifest | {"filler_kind": "random", "filler_position": "start"}
    other = replace(made, manifest=manifest)
    assert wording.filler_name(other) == "filler random tokens × 4, 16 at the start"
    assert wording.filler_name(other, 4) == "filler random tokens × 4 at the start"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (float("nan"), "–"),
        (0.25, "0.250"),
        (-12.345, "−12.3"),
        (123456.0, "123,456"),
        (1.5e9, "1.50e9"),
        (-2.5e-7, "−2.50e−7"),
        (1.25e38, "1.25e38"),
    ],
)
def test_number(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0 %"),
        (1e-6, "< 0.01 %"),
        (0.0723, "7.23 %"),
        (0.25, "25.0 %"),
        (0.99999, "> 99.99 %"),
        (1.0, "100.0 %"),
        (float("nan"), "–"),
    ],
)
def test_percent(share: float, text: str) -> None:
    assert percent(share) == text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("arm", "c = 0.13, p1 = 99.5, added"),
        ("noise", "c = 0.13, p1 = 99.5, added"),
        ("threshold", "c = 0.13"),
        ("scale:3", "c = 0.13"),
    ],
)
def test_only_settings_that_play_a_role_are_named(name: str, shown: str) -> None:
    arm = {"redistribution": name, "c": 0.13, "p1": 99.5, "mode": "add"}
    assert arm_settings(SimpleNamespace(manifest={"arm": arm})) == shown
    row = arm | {"fraction": math.nan, "layers": "0", "preset": ""}
    assert setting_name(row, ["c", "p1", "mode"]) == shown


def test_modules_of_one_kind_have_one_name() -> None:
    def names(*paths: str) -> list[str]:
        keys = [
            SiteKey(index, "decoder", "act", "before", path) for index, path in enumerate(paths)
        ]
        return list(wording.series_names(keys).values())

    assert names("model.layers.0", "model.layers.1") == ["model.layers.*"] * 2
    assert names("e.0.layers.0.d", "e.0.layers.1.d") == ["e.0.layers.*.d"] * 2
    assert names("blocks_0.mlp", "blocks_1.mlp") == ["blocks_*.mlp"] * 2
    assert names("first", "second") == ["first", "second"]
    assert names("stage.3.block.7", "stage.4.block.0") == ["stage.3.block.7", "stage.4.block.0"]


@pytest.mark.parametrize(
    ("n_layers", "layers", "name"),
    [
        (3, [0, 1, 2], "all layers"),
        (3, [0], "layer 0"),
        (1, [0], "layer 0"),
        (3, [2, 0, 0], "layers 0, 2"),
        (3, [-1, 0, 1, 2], "all layers"),
    ],
)
def test_layers_are_all_or_named(n_layers: int, layers: list[int], name: str) -> None:
    run = make(1, layers=n_layers).run
    assert wording.chosen_layers(run, layers) == name
