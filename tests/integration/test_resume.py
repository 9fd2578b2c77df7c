"""An interrupted measurement is resumed and gives the same bytes."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.interrupted import killed_and_resumed, running, wait_for_a_state
from support.texts import TEXTS
from support.tiny_models import save_tiny

from distviz.measure import measurement as collect
from distviz.measure.resume import CheckpointFolder
from distviz.progress import Progress
from distviz.settings import RunSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.commands import Done

    from distviz.results.run import Run

SMALL = ["--no-figures", "--quiet", "--tokens", "--threads", "1", "--batch-size", "1"]
SMALL += ["--max-tokens", "5000", "--formats", "nvfp4,int8-channel", "--rotate", "none,hadamard"]
FILES = (
    *("counts.parquet", "documents.parquet", "channels.parquet", "tokens.parquet"),
    *("plans.csv", "stats.csv", "extremes.csv", "formats.csv"),
)


class Stops(Progress):
    """Raises at the n-th step."""

    def __init__(self, steps: int) -> None:
        self.left = steps
        self.begun = 0

    def start(self, tokens: int, done: int = 0) -> None:
        self.begun = done

    def advance(self, tokens: int) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


def _settings(**more: Any) -> RunSettings:
    settings = {"arm_layers": "0,2", "max_length": 32, "batch_size": 2, "tokens": True}
    settings |= {"sites": "act,down", "formats": ["nvfp4", "int8-channel", "int8-asym"]}
    return RunSettings(device="cpu", **settings | more)


def _measure(folder: Path, steps: int, *, resumes: bool, **more: Any) -> tuple[Run, int]:
    progress = Stops(steps)
    states = CheckpointFolder(folder, 0.0, resumes=resumes)
    settings = _settings(texts=tuple(TEXTS), **more)
    run = collect.run(settings, progress=progress, states=states)
    return run, progress.begun


def _bytes(run: Run, folder: Path) -> dict[str, bytes]:
    run.save(folder)
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.mark.parametrize(
    ("steps", "more"),
    [(3, {}), (1, {"ripple": False}), (1, {"arm_layers": "none", "classes": "all"})],
)
def test_stopped_again_and_again(tmp_path: Path, steps: int, more: dict[str, Any]) -> None:
    """A step is a pass: it is stopped between the passes of a batch and between batches."""
    whole, _ = _measure(tmp_path / "none", 10**6, resumes=False, **more)
    begun, states = [], tmp_path / "states"
    for _ in range(50):
        try:
            run, first = _measure(states, steps, resumes=True, **more)
            break
        except KeyboardInterrupt:
            begun.append((states / "rank-0.state").stat().st_size)
    assert len(begun) >= 2
    assert first > 0
    assert _bytes(run, tmp_path / "resumed") == _bytes(whole, tmp_path / "whole")
    effects = [one.manifest["effect"] for one in (run, whole)]
    assert effects[0] == effects[1]


def test_experts_stopped_again_and_again(tmp_path: Path, demo_folder: Path) -> None:
    model = str(save_tiny("mixtral", tmp_path / "model", demo_folder))
    whole, _ = _measure(tmp_path / "none", 10**6, resumes=False, model=model)
    for _stops in range(50):
        try:
            run, begun = _measure(tmp_path / "states", 3, resumes=True, model=model)
            break
        except KeyboardInterrupt:
            continue
    assert begun > 0
    assert _bytes(run, tmp_path / "resumed") == _bytes(whole, tmp_path / "whole")
    tables = [(tmp_path / name / "experts.csv").read_bytes() for name in ("resumed", "whole")]
    assert tables[0] == tables[1]
    assert tables[0].count(b"\n") > 4 * 4


# Whole processes, killed ---------------------------------------------------------------------


@pytest.mark.extended
@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_killed_at_any_moment(tmp_path: Path, call: Callable[..., Done], kills: int) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert call("run", *SMALL, "--out", whole).code == 0
    killed_and_resumed(out, kills, "run", *SMALL)
    for name in FILES:
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.slow
def test_a_real_model_killed(tmp_path: Path, smollm2: Path, call: Callable[..., Done]) -> None:
    args = [str(smollm2), "--max-length", "128", "--max-tokens", "600"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert call("run", *SMALL, *args, "--out", whole).code == 0
    killed_and_resumed(out, 3, "run", *SMALL, *args)
    for name in FILES:
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.extended
def test_interrupted_from_the_keyboard(tmp_path: Path, call: Callable[..., Done]) -> None:
    out = tmp_path / "out"
    with running("run", *SMALL, "--save-every", "0", "--out", out) as process:
        wait_for_a_state(process, tmp_path / "out.partial")
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=600)
    assert process.returncode == 130
    message, hint = error.splitlines()[-2:]
    saved = rf"distviz: interrupted; \d+ % is saved in {tmp_path / 'out.partial'}"
    assert re.fullmatch(saved, message), message
    given = " ".join(["run", *SMALL, "--save-every", "0", "--out", str(out)])
    assert hint == f"  resume with: distviz {given} --resume"
    assert not out.exists()

    refused = call("run", *SMALL, "--out", out)
    assert refused.code == 2
    assert refused.complaint() == [
        f"distviz: {tmp_path / 'out.partial'} holds a checkpoint of an interrupted run",
        "  add --resume to continue, --force to start from the beginning, or give another --out",
    ]
    other = call("run", *SMALL, "--out", out, "--resume", "--c", "0.2")
    assert other.code == 2
    assert any("another measurement: --c 0.13, now 0.2" in line for line in other.complaint())

    done = call("run", *SMALL, "--out", out, "--resume")
    assert (done.code, done.out.strip()) == (0, str(out))
    assert not (tmp_path / "out.partial").exists()
    again = call("run", *SMALL, "--out", out, "--resume")
    assert (again.code, again.out.strip()) == (0, str(out))
    assert f"distviz: {out} is complete, nothing is left to measure" in again.err
    other = call("run", *SMALL, "--out", out, "--resume", "--c", "0.2")
    assert (other.code, other.complaint()[0]) == (2, f"distviz: {out} exists")


def test_a_damaged_state_is_reported_and_measured_again(tmp_path: Path) -> None:
    whole, _ = _measure(tmp_path / "none", 10**6, resumes=False)
    with pytest.raises(KeyboardInterrupt):
        _measure(tmp_path / "states", 4, resumes=False)
    state = tmp_path / "states" / "rank-0.state"
    data = bytearray(state.read_bytes())
    data[len(data) // 2] ^= 1
    state.write_bytes(data)
    run, begun = _measure(tmp_path / "states", 10**6, resumes=True)
    assert begun == 0
    assert _bytes(run, tmp_path / "resumed") == _bytes(whole, tmp_path / "whole")


def test_resume_needs_out(call: Callable[..., Done]) -> None:
    done = call("run", "--resume")
    assert done.code == 2
    assert done.complaint() == [
        "distviz: --resume needs --out",
        "  give the folder of the interrupted run",
    ]
