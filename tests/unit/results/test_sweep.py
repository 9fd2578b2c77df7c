"""The result of a sweep: the front, the recommendation, the folder."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from support.synthetic_sweeps import rows_of, sweep_from

from distviz.errors import RequestError
from distviz.results.sweep import SWEEP_INTERVALS, Sweep, join_seeds, pareto
from distviz.results.sweep_layers import RANKS

if TYPE_CHECKING:
    from pathlib import Path


# The front and the recommendation -----------------------------------------------------------

shares = some.floats(0, 1, allow_nan=False)


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(some.lists(some.tuples(shares, shares), min_size=1, max_size=12))
def test_front_is_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    table = pd.DataFrame(points, columns=["kl", "near_zero_removed"])
    beaten = {
        i
        for i, (cost, gain) in enumerate(points)
        for other_cost, other_gain in points
        if other_cost <= cost and other_gain >= gain and (other_cost, other_gain) != (cost, gain)
    }
    expected = {points[i] for i in range(len(points)) if i not in beaten}
    found = pareto(table)
    assert {points[i] for i in found} == expected
    assert len(found) == len(expected)


def test_the_largest_redistribution_within_the_budget() -> None:
    sweep = sweep_from(
        rows_of(c=[0.05, 0.1, 0.3, 1.0], near_zero_removed=[0.02, 0.09, 0.2, 0.25],
              kl=[0.001, 0.04, 0.05, 0.7], near_zero_after=[0.28, 0.21, 0.1, 0.05],
              fraction_moved=[0.03, 0.1, 0.21, 0.25])
    )  # fmt: skip
    found = sweep.recommendation
    assert found.row == 2
    assert found.reason == (
        "c = 0.3, p1 = 99.5 in layer 0: moves 21.0% of the values and takes the near-zero share "
        "from 30.0% to 10.0% for KL 0.05 nats (budget 0.05); c = 1, p1 = 99.5 in layer 0 would "
        "remove more and costs 0.7"
    )
    command = "distviz run 'some models/tiny' --arm-layers 0 --c 0.3 --p1 99.5"
    assert found.command == command
    assert sweep.summary()["command"] == command
    assert sweep.summary()["recommended"]["c"] == 0.3


def test_the_least_kl_of_nearly_equal_settings() -> None:
    seeds = rows_of(
        c=[0.1, 0.2, 0.3, 0.4, 0.5], near_zero_removed=[0.18, 0.191, 0.2, 0.195, 0.4],
        kl=[0.001, 0.002, 0.04, 0.003, 0.9],
    )  # fmt: skip
    found = sweep_from(seeds).recommendation
    assert found.row == 1  # 0.18 is less than 95 % of 0.2
    assert "the smallest KL of the 3 settings that remove about as much" in found.reason
    assert found.reason.endswith("c = 0.5, p1 = 99.5 in layer 0 would remove more and costs 0.9")


def test_words_of_a_folder_are_quoted() -> None:
    sweep = sweep_from(rows_of(kl=[0.01], layers=["0;rm x"], redistribution=["a b"]))
    sweep.manifest["flags"] = ["--text", "$(x) y"]
    assert sweep.recommendation.command == (
        "distviz run 'some models/tiny' --arm-layers '0;rm x' --redistribution 'a b' --c 0.13 "
        "--p1 99.5 --text '$(x) y'"
    )


def test_every_setting_is_ruinous() -> None:
    seeds = rows_of(
        kl=[5.0, 0.9], c=[1.0, 0.5], near_zero_removed=[0.2, 0.1], loss_after=[9.0, 2.5]
    )
    found = sweep_from(seeds).recommendation
    assert (found.row, found.command) == (None, "")
    assert found.reason == (
        "no setting fits the budget of 0.05 nats: the mildest, c = 0.5, p1 = 99.5 in layer 0, "
        "costs KL 0.9 (loss +0.5 nats)"
    )


def test_every_setting_is_harmless() -> None:
    found = sweep_from(
        rows_of(kl=[0.0, 1e-5], near_zero_removed=[0.1, 0.2], c=[0.1, 0.2])
    ).recommendation
    assert found.row == 1
    assert found.reason.endswith("no setting tried removes more")


def test_nothing_is_removed_or_known() -> None:
    assert (
        "fewer values near-zero"
        in sweep_from(rows_of(near_zero_removed=[-0.1])).recommendation.reason
    )
    assert "no effect on the output" in sweep_from(rows_of(kl=[math.nan])).recommendation.reason


def test_means_and_spread_over_seeds() -> None:
    seeds = rows_of(c=[0.1, 0.1, 0.1, 0.2], seed=[0, 1, 2, 0], kl=[0.1, 0.2, 0.6, 0.5])
    table = join_seeds(seeds)
    assert table["seeds"].tolist() == [3, 1]
    np.testing.assert_allclose(table["kl"], [0.3, 0.5])
    np.testing.assert_allclose(table["kl_spread"], [np.std([0.1, 0.2, 0.6], ddof=1), np.nan])


# The folder ---------------------------------------------------------------------------------


def test_empty_intervals_and_an_infinite_ratio_are_read(tmp_path: Path) -> None:
    sweep = sweep_from(rows_of(c=[0.1, 0.2], sqnr_db=[math.inf, 20.0]), by_layer=True)
    empty = dict.fromkeys((*SWEEP_INTERVALS, *RANKS), math.nan)
    sweep = replace(sweep, table=sweep.table.assign(**empty, documents=0))
    sweep.save(tmp_path / "new")
    found = Sweep.load(tmp_path / "new").table
    assert found["sqnr_db"].tolist() == [math.inf, 20.0]
    assert found["kl_low"].isna().all()
    old = replace(sweep, table=sweep.table.drop(columns="at"), seeds=sweep.seeds.drop(columns="at"))
    old.save(tmp_path / "old")
    assert Sweep.load(tmp_path / "old").table["at"].tolist() == ["act", "act"]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    sweep = sweep_from(rows_of(c=[0.1, 0.2], layers=["0", "0,2-3"], kl=[0.01, 0.5]))
    sweep.write(tmp_path)
    again = Sweep.load(tmp_path)
    pd.testing.assert_frame_equal(again.table, sweep.table)
    assert again.recommendation == sweep.recommendation
    (tmp_path / "sweep.csv").write_text("a,b\n1,2\n")
    with pytest.raises(RequestError, match=r"sweep.csv is damaged: it has no column "):
        Sweep.load(tmp_path)
    (tmp_path / "sweep.csv").unlink()
    with pytest.raises(RequestError, match=r"sweep.csv is missing"):
        Sweep.load(tmp_path)
    (tmp_path / "sweep.json").write_text(json.dumps(sweep.manifest | {"schema_version": 99}))
    with pytest.raises(RequestError, match="schema version 99"):
        Sweep.load(tmp_path)
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(RequestError, match=r"sweep.json is damaged"):
        Sweep.load(tmp_path)
