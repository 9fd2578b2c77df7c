"""Models without weights, the text in their tokens, and what is refused before weights are read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.texts import TEXTS
from support.tiny_models import save_tiny_llama
from transformers import LlamaForCausalLM

from distviz.errors import RequestError
from distviz.measure.opening import (
    EmptyModel,
    check,
    filler_of,
    open_empty,
    open_from,
    random_input,
)
from distviz.models.open import open_model
from distviz.progress import Progress
from distviz.settings import LayerSettings, RunSettings, build_settings


@pytest.fixture(scope="module")
def opened(demo_folder: Path) -> Any:
    return open_model(str(demo_folder), device="cpu")


def test_fillers() -> None:
    assert filler_of(RunSettings()) is None
    found = filler_of(RunSettings(filler="/", filler_count=4, filler_position="end", seed=3))
    assert found is not None
    assert (found.string, found.count, found.position, found.seed) == ("/", 4, "end", 3)
    with pytest.raises(RequestError, match="--filler is empty"):
        RunSettings(filler="")


def test_random_input_has_the_shape_of_the_layer(opened: Any) -> None:
    layer = LayerSettings(input="hidden", documents=3, tokens=7)
    corpus = random_input(layer, 2, opened.model.config)
    assert [window.ids.size for window in corpus.windows] == [7, 7, 7]
    again = random_input(layer, 2, opened.model.config)
    for first, second in zip(corpus.windows, again.windows, strict=True):
        np.testing.assert_array_equal(first.ids, second.ids)
    tokens = random_input(LayerSettings(input="tokens"), 2, opened.model.config)
    assert max(window.ids.max() for window in tokens.windows) < opened.model.config.vocab_size


def test_streaming_is_refused_where_the_whole_model_is_needed() -> None:
    with pytest.raises(RequestError, match="this command needs the whole model"):
        open_from(RunSettings(stream=True), Progress())


@pytest.mark.parametrize("options", [{}, {"dtype": "float32"}, {"stream": True}])
def test_a_checked_model_is_opened_with_the_weights_of_any_other(
    demo_folder: Path, options: dict[str, Any]
) -> None:
    settings = RunSettings(model=str(demo_folder), device="cpu", **options)
    checked = check(settings, TEXTS)
    assert all(value.is_meta for value in checked.empty.opened.model.parameters())
    plain = open_from(settings, Progress(), is_for_measure=True)
    for _ in range(2):  # as often as needed
        again = checked.open(settings, Progress())
        assert again.details == plain.details
        both = (one.model.state_dict() for one in (again, plain))
        for (name, own), (_, other) in zip(*(one.items() for one in both), strict=True):
            assert own.dtype == other.dtype
            assert own.is_meta == other.is_meta
            assert own.is_meta or torch.equal(own, other), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "9"}, "layer 9 does not exist"),
        ({"arm_layers": "8"}, "layer 8 does not exist"),
        ({"sites": "fc1"}, "fc1"),
    ],
)
def test_what_needs_no_weights_is_refused_without_them(
    demo_folder: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr("distviz.models.open._open_checkpoint", None)
    with pytest.raises(RequestError, match=message):
        check(RunSettings(model=str(demo_folder), **options), TEXTS)


def dtype_of(model: EmptyModel) -> str:
    parameters = {parameter.dtype for parameter in model.opened.model.parameters()}
    assert [str(dtype) for dtype in parameters] == [f"torch.{model.opened.details['dtype']}"]
    return model.opened.details["dtype"]


def test_types_are_those_that_would_be_loaded(tiny_llama: Path, demo_folder: Path) -> None:
    settings = build_settings({}, None, str(tiny_llama))
    assert dtype_of(open_empty(settings)) == "float32"
    asked = open_empty(build_settings({"dtype": "bf16"}, None, str(tiny_llama)))
    assert dtype_of(asked) == "bfloat16"
    assert asked.weight_bytes() == pytest.approx(open_empty(settings).weight_bytes() / 2, rel=0.01)
    shutil.rmtree(tiny_llama)
    half = save_tiny_llama(tiny_llama, demo_folder, dtype="float16")
    LlamaForCausalLM.from_pretrained(half).half().save_pretrained(half)
    assert dtype_of(open_empty(build_settings({}, None, str(half)))) == "float16"
