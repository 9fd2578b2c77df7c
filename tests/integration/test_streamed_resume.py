"""A streamed measurement that is killed is resumed after its last layer, with the same bytes."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from support import forked
from support.texts import TEXTS

from distviz.errors import RequestError
from distviz.measure import measurement as collect
from distviz.measure.resume import CheckpointFolder
from distviz.models.lazy_layers import LayersOnDisk
from distviz.progress import Progress
from distviz.settings import RunSettings

pytestmark = pytest.mark.extended

FILES = (
    *("counts.parquet", "documents.parquet", "channels.parquet", "tokens.parquet"),
    *("plans.csv", "stats.csv", "extremes.csv", "formats.csv"),
)


class Seen(Progress):
    """Collects notes and tokens."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.total = self.passed = 0

    def start(self, tokens: int, done: int = 0) -> None:
        self.total, self.passed = tokens, done

    def advance(self, tokens: int) -> None:
        self.passed += tokens

    def note(self, text: str) -> None:
        self.notes.append(text)


def measure(
    folder: Path, *, resumes: bool = True, stream: bool = True, progress: Any = None
) -> Any:
    settings = RunSettings(
        device="cpu", arm_layers="0,2", max_length=32, batch_size=2, sites="act,down",
        stream=stream, tokens=True, formats=["nvfp4", "int8-channel", "int8-asym"],
        texts=tuple(TEXTS),
    )  # fmt: skip
    states = CheckpointFolder(folder, 0.0, resumes)
    return collect.run(settings, progress=progress or Seen(), states=states)


def files_of(run: Any, folder: Path) -> dict[str, bytes]:
    run.save(folder)
    return {name: (folder / name).read_bytes() for name in FILES}


def stopped_before(layer: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = LayersOnDisk.load

    def load(self: LayersOnDisk, path: str) -> None:
        if path.endswith(f".{layer}"):
            raise KeyboardInterrupt
        real(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(LayersOnDisk, "load", load)
        with pytest.raises(KeyboardInterrupt):
            measure(folder)


def test_stopped_after_each_layer_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measure(tmp_path / "none", resumes=False, stream=False)
    for layer in (1, 2):
        stopped_before(layer, tmp_path / "states", monkeypatch)
    progress = Seen()
    run = measure(tmp_path / "states", progress=progress)
    assert files_of(run, tmp_path / "resumed") == files_of(whole, tmp_path / "whole")
    assert run.manifest["effect"] == whole.manifest["effect"]
    assert progress.passed == progress.total > 0
    assert progress.notes == []
    CheckpointFolder(tmp_path / "states", 0.0, resumes=True).remove()
    assert not (tmp_path / "states").exists()


def test_a_damaged_file_is_reported_and_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_before(2, tmp_path / "states", monkeypatch)
    (path,) = (tmp_path / "states").glob("*.outputs")
    path.write_bytes(path.read_bytes()[:-1])
    progress = Seen()
    run = measure(tmp_path / "states", progress=progress)
    assert any(f"({path.name}: its content does not agree" in note for note in progress.notes)
    whole = measure(tmp_path / "none", resumes=False, stream=False)
    assert files_of(run, tmp_path / "resumed") == files_of(whole, tmp_path / "whole")


def test_a_state_between_layers_needs_streaming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_before(2, tmp_path / "states", monkeypatch)
    with pytest.raises(RequestError, match=r"saved after a layer of a streamed .*\nadd --stream"):
        measure(tmp_path / "states", stream=False)


def test_killed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [*forked.COMMAND, "run", "--no-figures", "--quiet", "--threads", "1"]
    command += ["--max-tokens", "3000", "--tokens", "--stream", "--save-every", "0"]
    command += ["--formats", "nvfp4,int8-channel", "--rotate", "none,hadamard"]
    state = tmp_path / "run.partial" / "rank-0.state"
    process = forked.Popen([*command, "--out", str(out)], stderr=subprocess.PIPE)
    try:
        end = time.monotonic() + 300
        while not state.exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < end
            time.sleep(0.002)
    finally:
        process.kill()
        process.communicate()
    assert not out.exists()
    forked.run([*command, "--out", str(out), "--resume"], check=True, capture_output=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    plain = ["--no-stream" if word == "--stream" else word for word in command]
    whole = tmp_path / "whole"
    forked.run([*plain, "--out", str(whole)], check=True, capture_output=True)
    for name in FILES:
        assert (out / name).read_bytes() == (whole / name).read_bytes()
