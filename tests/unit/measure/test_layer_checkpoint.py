"""A streamed measurement that is interrupted after a layer is resumed with the same numbers."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from support.texts import STREAMED_TEXTS as TEXTS

from distviz.data.corpus import make_batches, tokenize
from distviz.data.documents import read_documents
from distviz.errors import MeasurementError
from distviz.hooks.recorder import Recorder
from distviz.measure.forward import Measurement
from distviz.measure.layer_checkpoint import (
    BatchCheckpoint,
    LayerCheckpointer,
    batch_checkpoints,
    check_outputs,
)
from distviz.measure.layerwise_batches import stream_batches
from distviz.measure.partial import PartialResult, batches_of_documents
from distviz.measure.tensor_files import SpillBuffer
from distviz.models.lazy_layers import LayersOnDisk
from distviz.models.open import open_model
from distviz.progress import Progress
from distviz.settings import RunSettings
from distviz.sites import key_order
from distviz.stats.serialize import decode, encode


class Interrupted(BaseException):
    """What a kill is to a process."""


class Work:
    """One process: the model, its batches, and a folder with the state."""

    def __init__(self, folder: Path, place: Path, **options: Any) -> None:
        chosen = {"max_length": 16, "batch_size": 2, "arm_layers": "0,2"} | options
        self.settings = RunSettings(model=str(folder), **chosen)
        self.place, self.notes, self.saved = place, [], 0
        opened = open_model(str(folder), device="cpu", stream=True)
        corpus = tokenize(read_documents(TEXTS), opened.tokenizer, max_length=16)
        self.batches = make_batches(corpus, 2, skip_special=False, own_only=False)
        self.numbers = list(range(len(self.batches)))
        self.measurement = Measurement.prepare(opened, self.settings)

    def save(self, state: dict[str, Any]) -> bool:
        self.saved += 1
        tree = {"streamed": state, "partial": self.measurement.partial.state()}
        (self.place / "state.tmp").write_bytes(encode(tree))
        (self.place / "state.tmp").replace(self.place / "state")
        return True

    def resume(self) -> dict[int, BatchCheckpoint]:
        tree = decode((self.place / "state").read_bytes())
        self.measurement.partial += PartialResult.from_state(tree["partial"])
        state = tree["streamed"]
        check_outputs(state, self.place)
        return batch_checkpoints(state, self.place, torch.device("cpu"))

    def run(self, *, is_due: Any = lambda: True, resumes: bool = False) -> PartialResult:
        states = self.resume() if resumes else {}
        checkpointer = LayerCheckpointer(
            self.place, "rank-0", is_due, self.save, self.notes.append, states
        )
        batches = {number: self.batches[number] for number in self.numbers}
        spans = batches_of_documents(self.batches)
        on_disk = self.measurement.opened.on_disk
        assert on_disk is not None
        with closing(SpillBuffer(0)) as spill:
            stream_batches(
                self.measurement, on_disk, batches, spans, Progress(), spill, checkpointer
            )
        return self.measurement.partial


def interrupted(
    work: Work, layer: int | str, monkeypatch: pytest.MonkeyPatch, *, resumes: bool = False
) -> Work:
    """End the work as a kill would, before a layer is read."""
    real = LayersOnDisk.load

    def load(self: LayersOnDisk, path: str) -> None:
        if f".{path}".endswith(f".{layer}"):
            raise Interrupted
        real(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(LayersOnDisk, "load", load)
        with pytest.raises(Interrupted):
            work.run(resumes=resumes)
    return work


def in_order(partial: PartialResult) -> PartialResult:
    """Sort what depends on which batches come first at a point."""
    recorder = partial.recorder
    for kept in (
        recorder.sketches,
        recorder._channels,
        recorder.documents._rows,
        recorder.changes.totals,
    ):
        for key in sorted(kept, key=key_order):
            kept[key] = kept.pop(key)
    return partial


def equal(a: PartialResult, b: PartialResult) -> None:
    facts = [in_order(one).recorder.state() | {"documents": None} for one in (a, b)]
    assert encode(facts[0]) == encode(facts[1])
    assert a.batches == b.batches
    assert a.effect.result(is_paired=True) == b.effect.result(is_paired=True)
    assert a.recorder.documents.frame().equals(b.recorder.documents.frame())
    assert a.plan_table().equals(b.plan_table())


def sites_of(kind: str) -> str:
    if kind == "gpt2":
        return "act,module:*wte,module:*ln_f"
    return "act,residual,module:*embed_tokens,module:model.norm"


@pytest.fixture(scope="module")
def uninterrupted(
    folders: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], PartialResult]:
    """The numbers of a model by its kind."""

    @cache
    def run(kind: str) -> PartialResult:
        work = Work(folders(kind), tmp_path_factory.mktemp("whole"), sites=sites_of(kind))
        return work.run(is_due=lambda: False)

    return run


@pytest.mark.parametrize("layer", [1, 2, 3])
@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2", "mixtral"])
def test_the_numbers_are_those_of_an_uninterrupted_run(
    kind: str,
    layer: int,
    folders: Any,
    uninterrupted: Callable[[str], PartialResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, sites = uninterrupted(kind), sites_of(kind)
    first = interrupted(Work(folders(kind), tmp_path, sites=sites), layer, monkeypatch)
    assert first.saved == layer
    # One file of outputs, the one that the state names.
    names = sorted(path.suffix for path in tmp_path.iterdir())
    assert names == ["", ".outputs"]
    second = Work(folders(kind), tmp_path, sites=sites)
    read: list[str] = []
    real = LayersOnDisk._read
    monkeypatch.setattr(
        LayersOnDisk, "_read", lambda self, path: (read.append(path), real(self, path))[1]
    )
    equal(second.run(resumes=True), whole)
    assert [int(path.rpartition(".")[2]) for path in read] == list(range(layer, 4))
    assert second.notes == []


def _reading(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    read: list[str] = []
    real = LayersOnDisk._read
    monkeypatch.setattr(
        LayersOnDisk, "_read", lambda self, path: (read.append(path), real(self, path))[1]
    )
    return read


def test_an_encoder_and_its_decoder_interrupted_in_turn(
    folders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> Work:
        return Work(folders("t5"), tmp_path, sites="act,residual,module:*final_layer_norm")

    whole = work().run(is_due=lambda: False)
    resumes = False
    for layer in ("encoder.block.1", "decoder.block.0", "decoder.block.1", "decoder.block.2"):
        interrupted(work(), layer, monkeypatch, resumes=resumes)
        resumes = True
    # What the encoder returned is still there, beside what the decoder's second layer did.
    assert len(list(tmp_path.glob("*.outputs"))) == 2
    last, read = work(), _reading(monkeypatch)
    equal(last.run(resumes=True), whole)
    assert read == ["decoder.block.2"]
    assert last.notes == []


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_one_process_resumes_several_at_different_layers(
    kind: str, folders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One at an early layer, one at a later, one not begun; each layer is read once."""
    places = [tmp_path / name for name in ("behind", "ahead", "here")]
    stops = ["encoder.block.1", "decoder.block.1"] if kind == "t5" else ["layers.1", "layers.2"]
    shares = [[1], [2, 3]]
    for place, numbers, stop in zip(places, shares, stops, strict=False):
        place.mkdir()
        other = Work(folders(kind), place)
        assert len(other.batches) > 4
        other.numbers = numbers
        interrupted(other, stop, monkeypatch)
    places[2].mkdir()
    work = Work(folders(kind), places[2])
    whole = Work(folders(kind), tmp_path).run(is_due=lambda: False)
    partial, states = (
        PartialResult(Recorder(work.measurement.partial.recorder.c, frozenset([0, 2]))),
        {},
    )
    for place in places[:2]:
        one = Work(folders(kind), place)
        states |= one.resume()
        partial += one.measurement.partial
        for path in place.glob("*.outputs"):
            (places[2] / path.name).write_bytes(path.read_bytes())
    work.measurement.partial = partial
    monkeypatch.setattr(work, "resume", lambda: states)
    read = _reading(monkeypatch)
    equal(work.run(resumes=True), whole)
    assert sorted(read) == sorted(work.measurement.opened.on_disk.layers)
    if work.saved:  # what was saved on the way is as good to go on from
        again = Work(folders(kind), places[2])
        equal(again.run(resumes=True), whole)


def test_values_carried_beside_the_output_are_detected(
    folders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where later layers use keys and values of earlier ones."""
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    real = LlamaDecoderLayer.forward

    def forward(self: Any, hidden_states: Any, position_embeddings: Any = None, **more: Any) -> Any:
        position_embeddings[0].add_(0.125)
        more["position_embeddings"] = position_embeddings
        return real(self, hidden_states, **more)

    monkeypatch.setattr(LlamaDecoderLayer, "forward", forward)
    interrupted(Work(folders("llama"), tmp_path), 2, monkeypatch)
    with pytest.raises(
        MeasurementError, match=r"input of \S+layers\.2 differs from .*\n.*--resume"
    ):
        Work(folders("llama"), tmp_path).run(resumes=True)


def test_a_damaged_file_is_named(
    folders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(Work(folders("llama"), tmp_path), 2, monkeypatch)
    (path,) = tmp_path.glob("rank-0-*.outputs")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"rank-0-\w+\.outputs: its content does not agree"):
        Work(folders("llama"), tmp_path).run(resumes=True)


def test_a_full_disk_is_reported_and_ends_nothing(
    folders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    work = Work(folders("llama"), tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        work.run()
    assert work.saved == 0
    assert len(work.notes) == 1
    assert "No space left on device" in work.notes[0]
    assert list(tmp_path.iterdir()) == []
    equal(work.measurement.partial, Work(folders("llama"), tmp_path).run(is_due=lambda: False))
