"""Two models compared by several processes, and after an interruption: the same to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.texts import STREAMED_TEXTS

from distviz.data import Document, make_batches, tokenize
from distviz.hooks import PairRecorder
from distviz.measure import LayerInputs, Measurement, PairedModels, paired_batches
from distviz.measure.paired_batches import compare_batches
from distviz.measure.resume import CheckpointFolder
from distviz.measure.world import World
from distviz.models import LoadedModel, open_model
from distviz.progress import Progress
from distviz.settings import RunSettings

ASKED = {"text": "the same"}


@dataclass
class _OneOfMany(World):
    """One of several processes, which run one after the other; what they send is collected."""

    sent: list[bytes] = field(default_factory=list)

    def broadcast(self, data: bytes) -> Iterator[bytes]:
        self.sent.append(data)
        yield from self.sent


@pytest.fixture(scope="module")
def models(demo_folder: Path) -> list[LoadedModel]:
    return [open_model(str(demo_folder), dtype="float32", device="cpu") for _ in "ab"]


def _pair(models: list[LoadedModel]) -> tuple[PairedModels, list[Any]]:
    a, b = (
        Measurement.prepare(opened, RunSettings(arm_layers=layers, sites="residual,act"))
        for opened, layers in zip(models, ("none", "1"), strict=True)
    )
    documents = [Document(str(n), text) for n, text in enumerate(STREAMED_TEXTS)]
    corpus = tokenize(documents, a.opened.tokenizer, max_length=16)
    recorder = PairRecorder(dict(zip(b.watched, a.watched, strict=True)))
    inputs = LayerInputs(*[[f"model.layers.{n}" for n in range(6)]] * 2)
    return PairedModels(a, b, recorder, Progress(), inputs), make_batches(corpus, 2)


def _assert_same(one: PairRecorder, other: PairRecorder) -> None:
    """Compare all sums, and where the largest are, of all points."""
    assert list(one.places) == list(other.places)
    for mine, others in ((one.places, other.places), (one.own, other.own)):
        for point, found in mine.items():
            expected = others[point]
            assert found.documents == expected.documents
            assert list(found.worst_channels()) == list(expected.worst_channels())
            assert list(found.worst_tokens()) == list(expected.worst_tokens())
            names = ("tokens", "mean_cosine", "most", "most_token", "most_channel", "left_out")
            for name in names:
                assert getattr(found, name) == getattr(expected, name), (point, name)


@pytest.fixture(scope="module")
def alone(models: list[LoadedModel]) -> PairRecorder:
    pair, batches = _pair(models)
    assert len(batches) > 4
    compare_batches(pair, batches, ASKED, Progress())
    return pair.recorder


@pytest.mark.parametrize("size", [2, 3, 50])
def test_processes_find_what_one_finds(
    models: list[LoadedModel], alone: PairRecorder, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []
    for rank in range(size):
        world = _OneOfMany(rank, size, sent=sent)
        monkeypatch.setattr(paired_batches, "current", lambda world=world: world)
        pair, batches = _pair(models)
        compare_batches(pair, batches, ASKED, Progress())
    _assert_same(pair.recorder, alone)


def test_an_interrupted_comparison_is_resumed(
    models: list[LoadedModel], alone: PairRecorder, tmp_path: Path
) -> None:
    class _Stops(Progress):
        def advance(self, tokens: int) -> None:
            self.left = getattr(self, "left", of_two_batches) - tokens
            if self.left < 0:
                raise KeyboardInterrupt

    def states(*, resumes: bool) -> CheckpointFolder:
        return CheckpointFolder(tmp_path / "out.partial", 0, resumes).part("values")

    pair, batches = _pair(models)
    of_two_batches = pair.n_passes * sum(batch.tokens for batch in batches[:2])
    pair.progress = _Stops()
    with pytest.raises(KeyboardInterrupt):
        compare_batches(pair, batches, ASKED, Progress(), states(resumes=False))
    done = states(resumes=True).begin(ASKED, Progress())[1]
    assert done == {0, 1}
    for _ in range(2):  # the second time nothing is left
        pair, batches = _pair(models)
        compare_batches(pair, batches, ASKED, Progress(), states(resumes=True))
        _assert_same(pair.recorder, alone)
