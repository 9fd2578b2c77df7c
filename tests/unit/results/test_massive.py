"""Massive activations: which channels, in which layers, at which tokens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from support.synthetic_extremes import PLANTED, planted

from distviz.results.massive import is_massive, massive_at, massive_channels, massive_lines


def test_channels_layers_and_what_follows() -> None:
    run = planted(PLANTED)
    first, second = massive_channels(run)
    assert (first.channel, first.layers, first.next_layer) == (7, (1, 2), 3)
    assert first.largest["value"] == 2.5e4
    assert first.next_row is not None
    assert first.next_row["value"] == 900.0
    assert (second.channel, second.layers, second.next_layer) == (3, (1,), 3 - 1)
    assert second.next_row is None
    assert is_massive(run.extremes).tolist() == [True, True, False, True, True, False, False]


def test_the_sentence() -> None:
    (line,) = massive_lines(planted(PLANTED))
    assert line == (
        "act: channel 7 in layers 1, 2, up to 25,000 (6,000 times the median), at positions 0, 4 "
        "(tokens “\\n”, “Why”, “On”); in layer 3: 900 (800 times the median). "
        "Also channel 3 in layer 1, up to 1,500."
    )
    assert massive_lines(planted(PLANTED), "residual") == []


def test_they_stay_to_the_last_layer_or_vanish() -> None:
    rows = [(layer, 1e3, 2e3, 9, 0, "") for layer in range(2, 5)]
    (line,) = massive_lines(planted(rows))
    expected = "act: channel 9 from layer 2 to layer 4, up to 1,000 (2,000 times the median), at "
    assert line == f"{expected}position 0."
    gone = [*rows[:2], (4, 3.0, 4.0, 1, 0, "")]
    (line,) = massive_lines(planted(gone))
    assert line.endswith("at position 0; no longer in layer 4.")


def test_many_channels_and_an_infinite_ratio() -> None:
    rows = [(0, 1e3 - n, np.inf, n, n, f"t{n}") for n in range(6)]
    run = planted(rows)
    (line,) = massive_lines(run)
    assert "channel 0 in layer 0, up to 1,000 (the median is 0)" in line
    assert line.endswith("channel 3 in layer 0, up to 997; and 2 more.")
    assert massive_at(run, run.find(0)) == (
        "massive activations: channel 0: 1,000 at “t0”, position 0; channel 1: 999 at “t1”, "
        "position 1; channel 2: 998 at “t2”, position 2 and 3 more"
    )
    assert massive_at(run, run.find(1)) == ""


@pytest.mark.parametrize("lacks", ["value", "ratio", "token"])
def test_runs_without_them_say_nothing(lacks: str) -> None:
    run = planted(PLANTED)
    for one in (
        replace(run, extremes=run.extremes.drop(columns=lacks)),
        replace(run, extremes=pd.DataFrame()),
        planted(PLANTED, phase="after"),
        planted(PLANTED, ratio=1.0),
    ):
        assert massive_lines(one) == []
        assert massive_at(one, run.find(1)) == ""
