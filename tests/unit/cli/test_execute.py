"""Executing a study: what is saved after an interruption, and how to resume."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from distviz.cli.commands import Study
from distviz.cli.execute import execute
from distviz.errors import InterruptedRunError, MeasurementError, RequestError
from distviz.progress import Progress
from distviz.settings import RunSettings

if TYPE_CHECKING:
    from distviz.measure import CheckpointFolder


class Notes(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def study(out: Path, error: BaseException, share: float = 0.61, **settings: Any) -> Study:
    """A study that saves a part of its work and fails."""

    def measure(progress: Progress, states: CheckpointFolder) -> Any:
        if share:
            states.begin({}, progress)
            states.save(dict, [0], share, progress)
        raise error

    return Study(
        command="run",
        manifest="run.json",
        settings=RunSettings(out=str(out), **settings),
        name="demo",
        measure=measure,
        estimate=dict,
        is_answered=lambda _: False,
    )


TYPED = ["run", "a model"]


def test_an_interruption_names_the_command_that_resumes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InterruptedRunError) as caught:
        execute(study(out, KeyboardInterrupt()), Notes(), TYPED)
    assert caught.value.message == f"interrupted; 61 % is saved in {out}.partial"
    assert caught.value.hint == f"resume with: distviz run 'a model' --out {out} --resume"
    assert (tmp_path / "out.partial" / "rank-0.state").exists()


def test_without_a_checkpoint_an_interruption_stays_one(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        execute(study(tmp_path / "out", KeyboardInterrupt(), share=0.0), Notes(), TYPED)


def test_a_failure_names_the_command_that_resumes(tmp_path: Path) -> None:
    typed = ["run", "--out=x", "--resume"]
    out, notes = tmp_path / "out", Notes()
    with pytest.raises(MeasurementError, match="NaN"):
        execute(study(out, MeasurementError("NaN"), resume=True), notes, typed)
    assert notes.notes == [
        f"no checkpoint in {out}.partial; starting from the beginning",
        f"61 % is saved in {out}.partial; resume with: distviz run --out=x --resume",
    ]


@pytest.mark.parametrize("share", [0, 0.61])
def test_a_request_that_is_refused_says_how_to_use_what_is_saved(
    tmp_path: Path, share: float
) -> None:
    notes, out = Notes(), tmp_path / "out"
    with pytest.raises(RequestError, match="layer 9"):
        execute(study(out, RequestError("layer 9"), share), notes)
    note = f"61 % is saved in {out}.partial; a command that can be carried out takes it: --resume"
    assert notes.notes == [note] * bool(share)
    assert out.with_name("out.partial").exists() == bool(share)
