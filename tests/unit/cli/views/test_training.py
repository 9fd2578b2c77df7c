"""A training on the terminal: the numbers of both ends, what is marked, narrow and ASCII."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from support.synthetic_trainings import activations, snapshot, training
from support.terminal import printed

from distviz.cli.views import training as views
from distviz.results import Training, number

_printed = partial(printed, views.summary)


@pytest.fixture(scope="module")
def trained() -> Training:
    return training().training


def test_every_layer_has_both_ends(trained: Training) -> None:
    text = _printed(trained, width=120)
    assert "act, step 0 → step 30" in text
    for layer in range(4):
        (line,) = [one for one in text.splitlines() if one.startswith(f" {layer}  ")]
        words = line.split()
        x, y = (activations(step, layer).astype(np.float64) for step in (0, 30))
        assert words[1:3] == [number(x.std()), number(y.std())]
        assert words[6:8] == [number(x.max()), number(y.max())]
        assert words[8:10] == ["0", "6" if layer == 2 else "0"]
        assert ("*" in line) == (layer > 0)
    assert "not shown: " not in text


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_narrow_terminal_leaves_columns_out(trained: Training, width: int, encoding: str) -> None:
    text = _printed(trained, width=width, encoding=encoding)
    assert max(map(len, text.splitlines())) <= width
    assert "not shown: " in text
    assert "timeline.csv" in " ".join(text.split())


def test_counts_of_what_should_not_be_there_are_shown_where_they_are() -> None:
    values = {layer: activations(0, layer) for layer in range(2)}
    bad = {layer: array.copy() for layer, array in values.items()}
    bad[1][0, 0, 0] = np.nan
    clean = _printed(Training.of({0: snapshot(values), 5: snapshot(values)}))
    found = _printed(Training.of({0: snapshot(values), 5: snapshot(bad)}))
    assert ("NaN, inf" in clean, "NaN, inf" in found) == (False, True)
    assert "first NaN: step 5, layer 1, act" in found
    assert "dead" not in clean.replace("dead: channels", "")


def test_one_snapshot_is_shown() -> None:
    text = _printed(Training.of({3: snapshot({0: activations(3, 0)})}))
    assert "nothing to compare: one snapshot" in text
    assert "act, step 3" in text


def test_a_training_that_has_just_begun_is_shown() -> None:
    assert "0 snapshots" in _printed(Training.of({}))


def test_every_site_has_a_table() -> None:
    runs = {}
    for step in (0, 9):
        a, b = (snapshot({0: activations(step, 0)}, site) for site in ("act", "gradient:act"))
        runs[step] = type(a)(a.manifest, a.sketches | b.sketches)
    text = _printed(Training.of(runs))
    assert text.index("act, step 0") < text.index("gradient:act, step 0")
