"""A training as snapshots: its timeline by NumPy, its folder, what is refused."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support.equality import same
from support.synthetic_runs import place
from support.synthetic_trainings import STEPS, TrainedValues, training

from distviz.errors import RequestError
from distviz.results import Training, load

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def trained() -> TrainedValues:
    return training()


def test_the_timeline_has_the_statistics_of_numpy(trained: TrainedValues) -> None:
    for layer in range(4):
        key = place(layer, "before")
        for step in STEPS:
            x = trained.raw[step][layer].astype(np.float64)
            expected = {
                "count": x.size,
                "mean": x.mean(),
                "std": x.std(),
                "absmax": np.abs(x).max(),
                "zero_share": (x == 0).mean(),
                "dead_channels": (x == 0).all(axis=(0, 1)).sum(),
                "nonfinite": 0,
                "l1": np.abs(x).sum(),
            }
            for name, value in expected.items():
                found = trained.training.curve(name, key)[step]
                assert found == pytest.approx(value, rel=1e-4), (layer, step, name)


def test_every_column_of_the_statistics_is_a_curve(trained: TrainedValues) -> None:
    stats = trained.training.at(20).stats()
    for name in set(stats) - {"layer", "site", "phase", "module", "stack"}:
        curve = trained.training.curve(name, place(1, "before"))
        assert curve.index.tolist() == list(STEPS)
        np.testing.assert_equal(curve[20], stats[name][1])


def test_a_saved_training_is_loaded_equal(trained: TrainedValues, tmp_path: Path) -> None:
    again = load(trained.training.save(tmp_path / "train"))
    assert isinstance(again, Training)
    assert (again.steps, again.file_warnings) == (list(STEPS), ())
    assert again.timeline.equals(trained.training.timeline)
    for step in STEPS:
        same(again.at(step), trained.training.at(step))
    assert repr(again) == repr(trained.training)
    assert repr(again).startswith("Training: synthetic · silu · 4 layers · 4 snapshots, steps 0 to")


def test_a_part_has_its_layers_in_every_snapshot(trained: TrainedValues, tmp_path: Path) -> None:
    saved = Training.load(trained.training.save(tmp_path / "train"))
    for whole in (trained.training, saved):
        part = whole.select([1, 3])
        assert {key.layer for key in part.keys} == {1, 3}
        assert {key.layer for step in STEPS for key in part.at(step).keys} == {1, 3}
        assert whole.n_layers == 4


def test_what_is_not_there_is_refused(trained: TrainedValues, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no snapshot of step 5\nit has steps 0, 10, 20, 30"):
        trained.training.at(5)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match=r"it has no training\.json"):
        Training.load(tmp_path / "empty")


def test_a_snapshot_that_was_removed_keeps_its_rows(trained: TrainedValues, tmp_path: Path) -> None:
    folder = trained.training.save(tmp_path / "train")
    shutil.rmtree(folder / "step-10")
    found = Training.load(folder)
    assert found.steps == [0, 20, 30]
    assert found.timeline.equals(trained.training.timeline)


def test_a_changed_timeline_is_named(trained: TrainedValues, tmp_path: Path) -> None:
    folder = trained.training.save(tmp_path / "train")
    text = (folder / "timeline.csv").read_text()
    (folder / "timeline.csv").write_text(text.replace(",count,3840.0", ",count,3841.0", 1))
    assert "timeline.csv changed after distviz wrote" in Training.load(folder).file_warnings[0]


def test_snapshots_before_a_restart_are_named(trained: TrainedValues, tmp_path: Path) -> None:
    folder = trained.training.save(tmp_path / "train")
    content = json.loads((folder / "training.json").read_text())
    content["steps"][1]["session"] = 1
    (folder / "training.json").write_text(json.dumps(content))
    (changed, mixed) = Training.load(folder).file_warnings
    assert "training.json changed" in changed
    assert mixed.startswith("steps 20, 30 came before the training was started again")
