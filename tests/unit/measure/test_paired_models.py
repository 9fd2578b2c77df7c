"""Two models that read the same batches: whole, layer by layer, and the inputs of layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.texts import STREAMED_TEXTS
from torch import nn

from distviz.data import Document, make_batches, tokenize
from distviz.hooks import PairRecorder
from distviz.measure import LayerInputs, Measurement, PairedModels
from distviz.measure.tensor_files import SpillBuffer
from distviz.models import LayersOnDisk, open_model
from distviz.progress import Progress
from distviz.settings import RunSettings
from distviz.sites import HookPoint
from distviz.stats import Differences, encode


class _Layer(nn.Module):
    def forward(self, hidden_states: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return hidden_states * scale


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_Layer(), _Layer()])


@pytest.mark.parametrize("by_name", [False, True])
def test_layers_read_what_those_of_the_other_model_read(by_name: bool) -> None:
    paths = ["layers.0", "layers.1"]
    a, b, inputs = _Model(), _Model(), LayerInputs(paths, paths)

    def call(model: _Model, value: float, scale: float) -> list[float]:
        outputs = []
        for layer in model.layers:
            hidden = torch.full((1, 2, 3), value)
            given: Any = {"hidden_states": hidden} if by_name else {}
            outputs.append(
                layer(*[] if by_name else [hidden], scale=scale, **given)[0, 0, 0].item()
            )
            value += 1
        return outputs

    with inputs.noting(a, 0, None):
        call(a, 1.0, 1.0)
    with inputs.feeding(b, 0, None):
        assert call(b, 50.0, 2.0) == [2.0, 4.0]
    with inputs.feeding(b, 0, "layers.1"):
        assert call(b, 50.0, 2.0) == [100.0, 4.0]
    assert call(b, 50.0, 2.0) == [100.0, 102.0]
    inputs.release([0])
    with inputs.feeding(b, 0, None), pytest.raises(KeyError):
        call(b, 50.0, 2.0)


@pytest.mark.parametrize("memory", [0, 10_000])
@pytest.mark.parametrize("streams", [(True, True), (True, False), (False, True)])
def test_streamed_sums_are_those_of_whole_models(
    demo_folder: Path, streams: tuple[bool, bool], memory: int
) -> None:
    """To the bit, whichever side is streamed, with the values of A in memory or on disk."""
    plain = _errors(demo_folder, (False, False), memory)
    streamed = _errors(demo_folder, streams, memory)
    assert list(plain) == list(streamed)
    for place, one in plain.items():
        assert encode(streamed[place].state()) == encode(one.state()), place
    assert {point.site for point, _ in plain} == {"residual", "act", "module:model.*norm"}
    assert any(found.total.error > 0 for found in plain.values())
    own = {point.layer for (point, is_own), one in plain.items() if is_own and one.total.error}
    assert own == {1}


def test_weights_are_read_once(demo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each layer of A before the same layer of B, for all batches and all passes."""
    read, log = LayersOnDisk._read, list[tuple[int, str]]()

    def noted(on_disk: LayersOnDisk, path: str) -> Any:
        log.append((id(on_disk), path))
        return read(on_disk, path)

    monkeypatch.setattr(LayersOnDisk, "_read", noted)
    _errors(demo_folder, (True, True), 0)
    layers = [path for _, path in log if path]
    assert layers == [f"model.layers.{index}" for index in range(6) for _ in "ab"]
    assert len({owner for owner, path in log[-12:] if path}) == 2


def test_what_is_held_stays_within_the_limit(
    demo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, most = SpillBuffer.store, [0]

    def noted(spill: SpillBuffer, tensor: torch.Tensor) -> Any:
        handle = store(spill, tensor)
        most[0] = max(most[0], spill.memory_bytes)
        return handle

    monkeypatch.setattr(SpillBuffer, "store", noted)
    _errors(demo_folder, (True, True), 0)
    assert most[0] == 0
    _errors(demo_folder, (True, True), 10_000)
    assert most[0] > 0


def _errors(
    folder: Path, streams: tuple[bool, bool], memory: int
) -> dict[tuple[HookPoint, bool], Differences]:
    """Compare the demo with ARM in layer 1 of B; by point, and whether the error is the own."""
    sites, sides = "residual,act,module:model.*norm", []
    for layers, stream in zip(("none", "1"), streams, strict=True):
        opened = open_model(str(folder), dtype="float32", device="cpu", stream=stream)
        settings = RunSettings(arm_layers=layers, sites=sites, stream_memory=memory)
        sides.append(Measurement.prepare(opened, settings))
    a, b = sides
    documents = [Document(str(n), text) for n, text in enumerate(STREAMED_TEXTS)]
    corpus = tokenize(documents, a.opened.tokenizer, max_length=16)
    recorder = PairRecorder(dict(zip(b.watched, a.watched, strict=True)))
    inputs = LayerInputs(*[[f"model.layers.{n}" for n in range(6)]] * 2)
    batches = dict(enumerate(make_batches(corpus, 1)))
    assert list(PairedModels(a, b, recorder, Progress(), inputs).run(batches)) == list(batches)
    assert not recorder.left_out
    found = {(point, False): one for point, one in recorder.places.items()}
    return found | {(point, True): one for point, one in recorder.own.items()}
