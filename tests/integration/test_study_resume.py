"""Interrupted comparisons and filler studies are resumed and give the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.interrupted import killed_and_resumed, running, wait_for_a_state
from support.texts import TEXTS

from distviz.data.documents import read_documents
from distviz.measure import measurement as collect
from distviz.measure import open_from
from distviz.measure.forward import measure_batch
from distviz.measure.resume import CheckpointFolder
from distviz.progress import Progress
from distviz.settings import RunSettings
from distviz.studies import comparison as comparing
from distviz.studies import filler as fillers

pytestmark = pytest.mark.extended

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.commands import Done

    from distviz.results.comparison import Comparison
    from distviz.results.filler_study import FillerStudy

QUIET = ["--no-figures", "--quiet", "--threads", "1", "--batch-size", "1"]
PROMPTS = [{"system": "Add.", "question": f"What is {n} + {n + 3}?"} for n in range(6)]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS))
    return path


def content(folder: Path) -> dict[str, bytes]:
    """Every file, by its path, but for the times that are noted in manifests."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "run.json"
    }


def _without_times(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest without the checksums of manifests, which note times."""
    del manifest["checksum"]
    sums = manifest["checksums"]
    manifest["checksums"] = {name: one for name, one in sums.items() if name[-5:] != ".json"}
    return manifest


def assert_same(one: Path, other: Path) -> None:
    found, expected = content(one), content(other)
    assert found.keys() == expected.keys()
    for name in ("comparison.json", "filler.json"):
        if name in found:
            plain = [_without_times(json.loads(files.pop(name))) for files in (found, expected)]
            assert plain[0] == plain[1]
    for name, data in expected.items():
        assert found[name] == data, name


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the batches that were measured, stopped before each third one."""
    measured: list[int] = []

    def measure(stage: Any, batch: Any, *more: Any) -> None:
        if len(measured) % 3 == 2 and measured[-1] != -1:
            measured.append(-1)
            raise KeyboardInterrupt
        measure_batch(stage, batch, *more)
        measured.append(int(batch.documents[0]))

    monkeypatch.setattr(collect, "measure_batch", measure)
    return measured


def _to_the_end(measure: Callable[[CheckpointFolder], Any], states: Path) -> tuple[Any, int]:
    for stops in range(50):
        try:
            return measure(CheckpointFolder(states, 0.0, resumes=True)), stops
        except KeyboardInterrupt:
            continue
    raise AssertionError("it never ends")


def test_a_comparison_stopped_again_and_again(
    tmp_path: Path, text: Path, demo_folder: Path, tiny_saved: Path, stopping: list[int]
) -> None:
    def compare(states: CheckpointFolder | None) -> Comparison:
        settings = RunSettings(text=[str(text)], max_length=16, batch_size=1, device="cpu")
        a, b = str(demo_folder), str(tiny_saved)
        return comparing.compare(a, b, phase_a="after", settings=settings, states=states)

    stopping.append(-1)
    found, stops = _to_the_end(compare, tmp_path / "states")
    assert stops > 3
    assert sorted(p.name for p in (tmp_path / "states").iterdir()) == ["a", "b"]
    done = [number for number in stopping if number != -1]
    stopping[:] = [-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collect, "measure_batch", measure_batch)
        whole = compare(None)
    # No batch of either side was measured twice.
    assert len(done) == 2 * whole.a.manifest["text"]["windows"]
    assert_same(found.save(tmp_path / "found"), whole.save(tmp_path / "whole"))


def test_a_filler_study_stopped_again_and_again(tmp_path: Path, stopping: list[int]) -> None:
    settings = RunSettings(layers="0,2", batch_size=1, attn_implementation="sdpa", threads=1)
    opened = open_from(settings, Progress())
    documents = read_documents(PROMPTS)

    def study(states: CheckpointFolder | None) -> FillerStudy:
        return fillers.study_filler(opened, documents, settings, [2, 5], Progress(), states)

    stopping.append(-1)
    found, stops = _to_the_end(study, tmp_path / "states")
    assert stops > 3
    names = ["count_000", "count_002", "count_005"]
    assert sorted(p.name for p in (tmp_path / "states").iterdir()) == names
    assert sorted(number for number in stopping if number != -1) == sorted([*range(6)] * 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collect, "measure_batch", measure_batch)
        whole = study(None)
    assert len(whole.attention) == 3 * 2
    assert_same(found.save(tmp_path / "found"), whole.save(tmp_path / "whole"))


# Whole processes, killed ---------------------------------------------------------------------


@pytest.mark.parametrize("kills", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_a_comparison_killed_at_any_moment(
    tmp_path: Path, tiny_saved: Path, demo_folder: Path, kills: int, call: Callable[..., Done]
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    args = ["compare", tiny_saved, demo_folder, *QUIET, "--max-tokens", "1500"]
    assert call(*args, "--out", whole).code == 0
    seen = killed_and_resumed(out, kills, *args, longest=2.0 / kills)
    assert seen[0] in ("a/rank-0.state", "b/rank-0.state")  # a fast machine is at B by then
    assert_same(out, whole)

    again = call(*args, "--out", out, "--resume")
    assert (again.code, again.out.strip()) == (0, str(out))
    assert f"distviz: {out} is complete, nothing is left to measure" in again.err
    for other in (["--phase-b", "after"], ["--max-length", "64"], ["--layers", "0"]):
        refused = call(*args, "--out", out, "--resume", *other)
        assert (refused.code, refused.complaint()[0]) == (2, f"distviz: {out} exists")


@pytest.mark.parametrize("kills", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_a_filler_study_killed_at_any_moment(
    tmp_path: Path, prompts: Path, kills: int, call: Callable[..., Done]
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    args = ["filler", "demo", *QUIET, "--counts", "3,10", "--layers", "0,2", "--text", prompts]
    assert call(*args, "--out", whole).code == 0
    seen = killed_and_resumed(out, kills, *args, longest=2.0 / kills)
    assert seen[0] in {f"count_{count:03}/rank-0.state" for count in (0, 3, 10)}
    assert_same(out, whole)

    again = call(*args, "--out", out, "--resume")
    assert (again.code, again.out.strip()) == (0, str(out))
    assert f"distviz: {out} is complete, nothing is left to measure" in again.err
    # Killed between the result and the removal of what was kept.
    (tmp_path / "out.partial" / "count_000").mkdir(parents=True)
    (tmp_path / "out.partial" / "count_003").mkdir()
    (tmp_path / "out.partial" / "count_000" / "rank-0.state").touch()
    assert call(*args, "--out", out, "--resume").code == 0
    assert not (tmp_path / "out.partial").exists()
    refused = call(*args, "--out", out, "--resume", "--counts", "3")
    assert (refused.code, refused.complaint()[0]) == (2, f"distviz: {out} exists")


def test_a_saved_part_is_not_removed_without_force(
    tmp_path: Path, prompts: Path, call: Callable[..., Done]
) -> None:
    out = tmp_path / "out"
    args = ["filler", "demo", *QUIET, "--counts", "3", "--layers", "0", "--text", prompts]
    args += ["--out", out]
    with running(*args, "--save-every", "0") as process:
        wait_for_a_state(process, tmp_path / "out.partial")
        process.kill()
        process.wait()
    for dry in ([], ["--dry-run"]):
        refused = call(*args, *dry)
        assert refused.code == 2
        assert refused.complaint()[0] == (
            f"distviz: {tmp_path / 'out.partial'} holds a checkpoint of an interrupted run"
        )
    other = call(*args, "--resume", "--max-length", "128")
    assert other.code == 2
    assert "another measurement: --max-length 512, now 128" in other.complaint()[0]
    assert call(*args, "--force").code == 0
    assert not (tmp_path / "out.partial").exists()
