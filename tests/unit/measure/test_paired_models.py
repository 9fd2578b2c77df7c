"""Two models that read the same batches: groups of batches, and the inputs of layers."""

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
from distviz.models import open_model
from distviz.progress import Progress
from distviz.settings import RunSettings


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


@pytest.mark.parametrize("limit", [1, 10**9])
def test_streamed_groups_give_the_same_sums(
    demo_folder: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """Batch by batch, or all further batches at once."""
    monkeypatch.setattr(PairedModels, "_limit", lambda _: limit)
    plain, streamed = (_errors(demo_folder, stream=stream) for stream in (False, True))
    assert plain == streamed
    assert any(error > 0 for error, _, _ in plain.values())


def _errors(folder: Path, *, stream: bool) -> dict[int, Any]:
    settings = RunSettings(arm_layers="none", sites="residual", batch_size=1, max_length=16)
    sides = []
    for layers in ("none", "1"):
        opened = open_model(str(folder), dtype="float32", device="cpu", stream=stream)
        own = RunSettings(arm_layers=layers, sites="residual")
        sides.append(Measurement.prepare(opened, own))
    a, b = sides
    documents = [Document(str(n), text) for n, text in enumerate(STREAMED_TEXTS)]
    corpus = tokenize(documents, a.opened.tokenizer, max_length=settings.max_length)
    recorder = PairRecorder(dict(zip(b.watched, a.watched, strict=True)))
    inputs = LayerInputs(*[[f"model.layers.{n}" for n in range(6)]] * 2)
    PairedModels(a, b, recorder, Progress(), inputs).run(make_batches(corpus, 1))
    return {
        point.layer: (found.total.error, found.most_token, recorder.own[point].total.error)
        for point, found in recorder.places.items()
    }
