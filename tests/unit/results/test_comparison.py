"""Comparisons on disk: pairing of layers, saved and loaded, damage is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.synthetic_comparisons import Made, make
from support.synthetic_runs import place, run_of

from distviz.errors import RequestError
from distviz.results.comparison import Comparison, pair_keys
from distviz.results.loading import load
from distviz.results.run import Run
from distviz.studies import comparison as comparing


@pytest.fixture(scope="module")
def first() -> Made:
    return make(1)


@pytest.fixture(scope="module")
def second() -> Made:
    return make(2, scale=1.3)


@pytest.fixture(scope="module")
def comparison(first: Made, second: Made) -> Comparison:
    return comparing.compare_runs(first.run, second.run)


@pytest.fixture
def folder(comparison: Comparison, tmp_path: Path) -> Path:
    return comparison.save(tmp_path / "compared")


# Pairing ------------------------------------------------------------------------------------


def _layers(a: Run, b: Run, **chosen: Any) -> list[tuple[int, int]]:
    pairs = pair_keys(a, b, "before", "before", **chosen)
    return [(pair.a.layer, pair.b.layer) for pair in pairs]


def _bare(layers: int, **keys: Any) -> Run:
    values = {place(layer, "before", **keys): np.ones(4, np.float32) for layer in range(layers)}
    return run_of(values, model={"name": "m", "layers": layers})


def test_equal_depth_pairs_by_index() -> None:
    assert _layers(_bare(4), _bare(4)) == [(0, 0), (1, 1), (2, 2), (3, 3)]


def test_other_depth_pairs_by_relative_depth() -> None:
    assert _layers(_bare(7), _bare(3)) == [(0, 0), (1, 0), (2, 1), (3, 1), (4, 1), (5, 2), (6, 2)]
    assert _layers(_bare(3), _bare(7)) == [(0, 0), (1, 3), (2, 6)]
    assert _layers(_bare(1), _bare(7)) == [(0, 0)]


def test_layers_and_sites_choose() -> None:
    assert _layers(_bare(4), _bare(4), layers=[1, 3]) == [(1, 1), (3, 3)]
    assert _layers(_bare(2), _bare(2), sites=["act"]) == [(0, 0), (1, 1)]


def test_observed_layers_of_a_deeper_model_keep_their_index() -> None:
    whole = _bare(6)
    part = Run(whole.manifest, {key: whole.sketches[key] for key in whole.keys if key.layer == 4})
    assert _layers(whole, part) == [(4, 4)]


def test_the_same_module_is_preferred() -> None:
    values = np.ones(4, np.float32)
    keys = [place(0, "before", module=f"experts.{index}") for index in range(2)]
    run = run_of(dict.fromkeys(keys, values))
    pairs = pair_keys(run, run, "before", "before")
    assert [(pair.a.module, pair.b.module) for pair in pairs] == [
        ("experts.0", "experts.0"),
        ("experts.1", "experts.1"),
    ]


@pytest.mark.parametrize(
    ("run", "phase", "sites"),
    [
        (_bare(2, site="gate"), "before", None),
        (_bare(2), "after", None),
        (_bare(2), "before", ["up"]),
    ],
)
def test_nothing_in_common_is_refused(run: Run, phase: str, sites: list[str] | None) -> None:
    with pytest.raises(RequestError, match="no site and phase in common") as caught:
        pair_keys(_bare(2), run, "before", phase, sites)
    assert "A: act/before; B: " in str(caught.value)
    assert caught.value.exit_code == 2


# Folders ------------------------------------------------------------------------------------


def test_a_saved_comparison_comes_back(comparison: Comparison, folder: Path) -> None:
    again = load(folder)
    assert isinstance(again, Comparison)
    assert again.manifest == comparison.manifest
    assert again.pairs == comparison.pairs
    assert again.a.sketches == comparison.a.sketches
    for name, table in comparison.tables().items():
        pd.testing.assert_frame_equal(
            again.tables()[name], table, check_dtype=False, rtol=0, atol=0
        )
    assert isinstance(load(folder / "a"), Run)
    assert json.dumps(again.summary(), allow_nan=False) == json.dumps(comparison.summary())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("comparison.json", None, "is not a result of distviz: it has no run.json, "),
        ("comparison.json", "{", r"comparison.json is damaged"),
        ("comparison.json", '{"schema_version": 99}', "was written with schema version 99"),
        ("comparison.json", '{"schema_version": 3}', "comparison.json is damaged: it has no"),
        ("compare.csv", None, "compare.csv is missing"),
        ("compare.csv", "layer_a\n1\n", "compare.csv is damaged: it has no column"),
        ("compare.csv", "\0\0", "compare.csv is damaged"),
        ("inference.csv", "quantity\nx\n", "inference.csv is damaged: it has no column"),
        ("a/counts.parquet", "PAR1", "counts.parquet is damaged"),
        ("b/run.json", None, "is not a run: it has no run.json"),
        ("b/channels.parquet", None, "channels.parquet is missing"),
    ],
)
def test_damage_is_named(folder: Path, name: str, content: str | None, message: str) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    with pytest.raises(RequestError, match=message) as caught:
        load(folder)
    assert caught.value.exit_code == 2
    assert len(str(caught.value).splitlines()) <= 2


def test_a_row_too_few_is_damage(folder: Path) -> None:
    lines = (folder / "compare.csv").read_text().splitlines(keepends=True)
    (folder / "compare.csv").write_text("".join(lines[:-1]))
    with pytest.raises(RequestError, match=r"compare\.csv is damaged: it has 2 rows"):
        load(folder)
