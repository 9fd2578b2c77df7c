"""A measurement of documents: counts against plain hooks, presets, corpora and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.texts import TEXTS

from distviz.data.documents import read_documents
from distviz.measure.measurement import measure, with_preset
from distviz.measure.opening import corpus_of
from distviz.models.open import open_model
from distviz.progress import Progress
from distviz.settings import RunSettings
from distviz.stats.sketch import Sketch


@pytest.fixture(scope="module")
def opened(demo_folder: Any) -> Any:
    return open_model(str(demo_folder), device="cpu")


@pytest.mark.parametrize("batch_size", [1, 3])
def test_counts_are_those_of_plain_hooks(opened: Any, batch_size: int) -> None:
    settings = RunSettings(
        layers="1", sites="down", arm_layers="none", max_length=24, batch_size=batch_size
    )
    corpus = corpus_of(read_documents(TEXTS), opened, settings)
    found = measure(opened, corpus, settings)
    outputs: list[torch.Tensor] = []
    module = opened.model.get_submodule("model.layers.1.mlp.down_proj")
    handle = module.register_forward_hook(lambda _m, _a, out: outputs.append(out[0].detach()))
    with torch.inference_mode():
        for window in corpus.windows:
            opened.model(torch.tensor(window.ids)[None])
    handle.remove()
    expected = Sketch().add(torch.cat(outputs))
    (sketch,) = found.merged.values()
    assert int(sketch.table.sum()) == int(expected.table.sum())
    values = [np.repeat(*side.pairs()) for side in (sketch, expected)]
    np.testing.assert_allclose(values[0], values[1], rtol=0.02, atol=2e-3)


def test_presets(opened: Any) -> None:
    settings = RunSettings(max_length=24)
    corpus = corpus_of(read_documents(TEXTS), opened, settings)
    assert with_preset(opened, corpus, settings, Progress()) == (settings, None)
    asked = RunSettings(preset="auto", max_length=24)
    chosen, entry = with_preset(opened, corpus, asked, Progress())
    assert entry is not None
    assert entry["name"] == "proposed"
    assert entry["evidence"].startswith("layer ")
    again, _ = with_preset(opened, corpus, asked, Progress())
    assert again == chosen
