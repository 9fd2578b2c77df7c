"""Snapshots written one after the other: the same as all at once, whatever was killed meanwhile."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING, Any

import pytest
from support.equality import same
from support.synthetic_trainings import STEPS, TrainedValues, training

from distviz.errors import RequestError
from distviz.results import Training, TrainingWriter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SETTINGS = {"every": 10, "sites": "act", "layers": "all"}


@pytest.fixture(scope="module")
def trained() -> TrainedValues:
    return training()


def written(trained: TrainedValues, out: Path, steps: tuple[int, ...] = STEPS) -> TrainingWriter:
    writer = TrainingWriter(out, SETTINGS)
    for step in steps:
        writer.add(step, trained.training.at(step), tokens=240, passes=1)
    return writer


def test_added_snapshots_are_the_training(trained: TrainedValues, tmp_path: Path) -> None:
    written(trained, tmp_path / "train")
    found = Training.load(tmp_path / "train")
    assert (found.steps, found.file_warnings) == (list(STEPS), ())
    assert found.timeline.equals(trained.training.timeline)
    same(found.at(20), trained.training.at(20))
    assert [note["tokens"] for note in found.manifest["steps"]] == [240] * 4


def test_a_step_is_replaced(trained: TrainedValues, tmp_path: Path) -> None:
    writer = written(trained, tmp_path / "train")
    writer.add(10, trained.training.at(30), tokens=7)
    writer.add(40, trained.training.at(0))
    found = Training.load(tmp_path / "train")
    assert (found.steps, found.file_warnings) == ([0, 10, 20, 30, 40], ())
    same(found.at(10), trained.training.at(30))
    rows, other = (found.timeline[found.timeline["step"] == step] for step in (10, 30))
    assert rows["value"].tolist() == pytest.approx(other["value"].tolist(), nan_ok=True)


def test_a_resumed_training_adds_up(trained: TrainedValues, tmp_path: Path) -> None:
    written(trained, tmp_path / "train", STEPS[:3])
    writer = TrainingWriter(tmp_path / "train", SETTINGS, resume=True)
    for step in STEPS[2:]:
        writer.add(step, trained.training.at(step))
    found = Training.load(tmp_path / "train")
    assert found.timeline.equals(trained.training.timeline)
    assert [note["session"] for note in found.manifest["steps"]] == [0, 0, 1, 1]
    assert found.file_warnings == ()


def test_an_earlier_step_of_a_resumed_training_names_the_later(
    trained: TrainedValues, tmp_path: Path
) -> None:
    written(trained, tmp_path / "train")
    writer = TrainingWriter(tmp_path / "train", SETTINGS, resume=True)
    writer.add(10, trained.training.at(10))
    (warning,) = Training.load(tmp_path / "train").file_warnings
    assert warning.startswith("steps 20, 30 came before")


def test_other_settings_and_other_folders_are_refused(
    trained: TrainedValues, tmp_path: Path
) -> None:
    written(trained, tmp_path / "train", (0,))
    with pytest.raises(RequestError, match="have sites act, not gate"):
        TrainingWriter(tmp_path / "train", SETTINGS | {"sites": "gate"}, resume=True)
    with pytest.raises(RequestError, match="exists"):
        TrainingWriter(tmp_path / "train", SETTINGS)
    TrainingWriter(tmp_path / "train", SETTINGS, force=True)
    assert Training.load(tmp_path / "train").steps == []
    (tmp_path / "train" / "mine.txt").touch()
    with pytest.raises(RequestError, match="was not written by distviz"):
        TrainingWriter(tmp_path / "train", SETTINGS, force=True)


def test_warnings_and_the_first_nonfinite_value_are_kept(
    trained: TrainedValues, tmp_path: Path
) -> None:
    writer = written(trained, tmp_path / "train", (0,))
    for step in (10, 20):
        bad = {"step": step, "layer": 2, "stack": "decoder", "site": "act", "kind": "nan"}
        writer.add(step, trained.training.at(step), first_nonfinite=bad, warnings=["slow"])
    writer.note(warnings=["slow", "the disk was full"])
    found = Training.load(tmp_path / "train").manifest
    assert (found["first_nonfinite"]["step"], found["warnings"]) == (
        10,
        ["slow", "the disk was full"],
    )


def test_lists_of_settings_are_joined(tmp_path: Path) -> None:
    listed = SETTINGS | {"sites": ["act", "gradient:act"]}
    TrainingWriter(tmp_path / "train", listed)
    TrainingWriter(tmp_path / "train", listed, resume=True)
    found = Training.load(tmp_path / "train").manifest
    assert found["settings"]["sites"] == "act,gradient:act"


# Kills --------------------------------------------------------------------------------------


_CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")


class _States:
    """Copies of a folder as a process killed at any change of its files would leave it."""

    def __init__(self, folder: Path, out: Path) -> None:
        self.folder, self.out = folder, out
        self.copies: list[Path] = []
        self.is_on = False
        sys.addaudithook(self.see)

    def see(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.is_on or event not in (
            "open",
            "os.rename",
            "os.remove",
            "os.mkdir",
            "os.rmdir",
        ):
            return
        if str(self.folder) not in str(args[0]):
            return
        self.is_on = False
        self.copies.append(self.out / str(len(self.copies)))
        shutil.copytree(self.folder, self.copies[-1])
        self.is_on = True


@pytest.fixture
def states(tmp_path: Path) -> Iterator[_States]:
    found = _States(tmp_path / "train", tmp_path / "killed")
    yield found
    found.is_on = False


@pytest.mark.parametrize("step", [20, 10], ids=["new", "replaced"])
def test_a_kill_at_any_moment_leaves_all_complete_snapshots(
    trained: TrainedValues, tmp_path: Path, states: _States, step: int
) -> None:
    part = trained.training.select([1])
    writer = TrainingWriter(tmp_path / "train", SETTINGS)
    for one in (0, 10):
        writer.add(one, part.at(one))
    before = Training.load(tmp_path / "train").timeline
    states.is_on = True
    writer.add(step, part.at(20))
    states.is_on = False
    after = Training.load(tmp_path / "train").timeline
    seen = set()
    assert len(states.copies) > 20
    for copy in states.copies:
        found = Training.load(copy)
        assert found.file_warnings == (), copy
        is_new = found.timeline.equals(after)
        assert is_new or found.timeline.equals(before), copy
        assert found.steps == sorted({0, 10, step} if is_new else {0, 10})
        values = part.at(20 if is_new and step in found.steps else found.steps[-1])
        same(found.at(step if is_new else found.steps[-1]), values)
        seen.add(is_new)
    assert seen == {False, True}


@pytest.mark.parametrize("left", [1, 100, 5000])
def test_half_a_row_is_left_out(trained: TrainedValues, tmp_path: Path, left: int) -> None:
    """A process killed while it appends to the timeline, before it writes the manifest."""
    part = trained.training.select([1])
    writer = TrainingWriter(tmp_path / "train", SETTINGS)
    for step in (0, 10):
        writer.add(step, part.at(step))
    manifest = (tmp_path / "train" / "training.json").read_bytes()
    size = (tmp_path / "train" / "timeline.csv").stat().st_size
    writer.add(20, part.at(20))
    whole = Training.load(tmp_path / "train").timeline
    (tmp_path / "train" / "training.json").write_bytes(manifest)
    data = (tmp_path / "train" / "timeline.csv").read_bytes()
    (tmp_path / "train" / "timeline.csv").write_bytes(data[: size + left])
    found = Training.load(tmp_path / "train")
    assert (found.steps, found.file_warnings) == ([0, 10, 20], ())
    assert found.timeline.equals(whole)
    writer = TrainingWriter(tmp_path / "train", SETTINGS, resume=True)
    writer.add(30, part.at(30))
    found = Training.load(tmp_path / "train")
    assert found.timeline.equals(part.timeline)
    assert [note["session"] for note in found.manifest["steps"]] == [0, 0, 0, 1]
