"""The share of attention that own tokens keep, against the attention weights of an eager model."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny_models import save_tokenizer
from transformers import BertConfig, BertModel

from distviz.data.corpus import tokenize
from distviz.data.documents import Document
from distviz.data.prompts import Filler
from distviz.errors import MeasurementError, RequestError
from distviz.measure.attention import AttentionKept, attention_modules
from distviz.measure.forward import Measurement
from distviz.measure.measurement import measure
from distviz.models.open import open_model
from distviz.progress import Progress
from distviz.settings import RunSettings
from distviz.studies.filler import study_filler

PROMPTS = [
    Document("p", system="Answer with a number. ", question="What is two plus three?"),
    Document("q", system="Think. ", question="A cat has four legs. How many have two cats?"),
]
SETTINGS = RunSettings(arm_layers="none", layers="0", batch_size=2)


@pytest.fixture(scope="module")
def opened(demo_folder: Any) -> Any:
    return open_model(str(demo_folder), device="cpu")


@pytest.mark.parametrize("count", [0, 5])
def test_shares_are_those_of_the_weights(opened: Any, count: int) -> None:
    filler = Filler("/", count, "between", 0) if count else None
    corpus = tokenize(PROMPTS, opened.tokenizer, max_length=64, filler=filler)
    own = {window.document: window.own for window in corpus.windows}
    modules = attention_modules(opened.mlps, "0,3", "--attention-layers")
    measurement = Measurement.prepare(opened, SETTINGS)
    kept = AttentionKept(measurement, modules, own)
    with kept.watching():
        measure(opened, corpus, SETTINGS, own_only=True, measurement=measurement)
    model: Any = opened.model
    model.set_attn_implementation("eager")
    try:
        expected: dict[int, list[float]] = {0: [], 3: []}
        for window in corpus.windows:
            ids = torch.tensor(window.ids)[None]
            with torch.inference_mode():
                weights = model(ids, output_attentions=True).attentions
            fillers = np.flatnonzero(~window.own)
            after = int(fillers[0]) if fillers.size else -1
            queries = [t for t in range(window.own.size) if window.own[t] and t > after]
            for layer, found in expected.items():
                mean = weights[layer][0].float().mean(dim=0).numpy()
                found.append(float(np.mean([mean[t][window.own].sum() for t in queries])))
    finally:
        model.set_attn_implementation("sdpa")
    for layer, shares in expected.items():
        assert kept.shares[layer] == pytest.approx(shares, abs=2e-3)
        if not count:
            assert kept.shares[layer] == pytest.approx([1, 1], abs=5e-3)
    rows = kept.rows(count)
    assert [row["layer"] for row in rows] == [0, 3]
    assert all(row["prompts"] == 2 for row in rows)
    assert kept.check(required=True) is None


def test_modules_of_the_chosen_layers(opened: Any) -> None:
    found = attention_modules(opened.mlps, "1,4", "--attention-layers")
    assert found == {index: f"model.layers.{index}.self_attn" for index in (1, 4)}
    assert attention_modules(opened.mlps, "none", "--attention-layers") == {}
    with pytest.raises(RequestError, match="--attention-layers 6: layer 6 does not exist"):
        attention_modules(opened.mlps, "6", "--attention-layers")


def test_weights_that_are_not_available_are_reported(opened: Any) -> None:
    measurement = Measurement.prepare(opened, SETTINGS)
    kept = AttentionKept(measurement, {0: "a", 2: "b"}, {})
    kept.shares[0], kept.shares[2] = [0.5, 0.7], [0.5, math.nan]
    assert [row["attention_kept"] for row in kept.rows(4)] == [pytest.approx(0.6)]
    assert (kept.check(required=False) or "").startswith(
        "attention weights are not available in layer 2"
    )
    with pytest.raises(MeasurementError, match="not available in layer 2"):
        kept.check(required=True)


def test_calls_before_the_measurement_are_not_recorded(opened: Any) -> None:
    measurement = Measurement.prepare(opened, SETTINGS)
    modules = attention_modules(opened.mlps, "0", "--attention-layers")
    kept = AttentionKept(measurement, modules, {})
    with kept.watching(), torch.inference_mode():
        opened.model(torch.tensor([[1, 5, 6]]))
    assert kept.shares == {}


def test_the_check_of_padding_leaves_no_trace_in_an_encoder(
    tmp_path: Path, demo_folder: Path
) -> None:
    torch.manual_seed(3)
    sizes: Any = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    config = BertConfig(vocab_size=2048, num_hidden_layers=2, **sizes)
    BertModel(config).save_pretrained(tmp_path)
    save_tokenizer(demo_folder, tmp_path)
    study = study_filler(
        open_model(str(tmp_path), device="cpu"),
        PROMPTS,
        replace(SETTINGS, filler="/"),
        [3],
        Progress(),
    )
    assert set(study.attention["prompts"]) == {len(PROMPTS)}
    kept = study.attention["attention_kept"]
    assert kept[0] == pytest.approx(1, abs=1e-6)  # without filler
    assert 0 < kept[1] < 1
