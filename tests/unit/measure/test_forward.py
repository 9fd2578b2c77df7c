"""The setup of a measurement: points, inputs of a batch, and the rows of plans."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from distviz.data.corpus import make_batches, tokenize
from distviz.data.documents import read_documents
from distviz.errors import MeasurementError, RequestError
from distviz.measure.forward import (
    Measurement,
    choose_points,
    inputs_of,
    naming_failures,
    needed_points,
    tokens_of,
)
from distviz.models.open import open_model
from distviz.settings import RunSettings


@pytest.fixture(scope="module")
def opened(demo_folder: Any) -> Any:
    return open_model(str(demo_folder), device="cpu")


def test_layers_and_sites_are_chosen(opened: Any) -> None:
    settings = RunSettings(layers="0,2", sites="act,down", arm_layers="1")
    watched, moved = choose_points(settings, opened.model, opened.mlps)
    assert sorted({(point.layer, point.site) for point in watched}) == [
        *((0, "act"), (0, "down"), (2, "act"), (2, "down"))
    ]
    assert [(point.layer, point.site) for point in moved] == [(1, "act")]
    with pytest.raises(RequestError, match="leaves nothing to observe"):
        choose_points(RunSettings(layers="none"), opened.model, opened.mlps)


def test_without_ripple_the_output_is_not_needed(opened: Any) -> None:
    assert needed_points(RunSettings(), opened.model, opened.mlps) is None
    settings = RunSettings(layers="0", sites="act", arm_layers="1", ripple=False)
    points = needed_points(settings, opened.model, opened.mlps) or []
    assert [point.layer for point in points] == [0, 1]


def test_arm_is_built_once_and_makes_a_measurement_paired(opened: Any) -> None:
    paired = Measurement.prepare(opened, RunSettings(arm_layers="0"))
    assert paired.is_paired
    assert paired.arm is paired.arm
    assert not Measurement.prepare(opened, RunSettings(arm_layers="none")).is_paired
    assert not Measurement.prepare(opened, RunSettings(arm_layers="0", ripple=False)).is_paired


def test_inputs_and_tokens_of_a_batch(opened: Any) -> None:
    documents = read_documents([{"text": "one two three"}, {"text": "four"}])
    corpus = tokenize(documents, opened.tokenizer, max_length=16)
    (batch,) = make_batches(corpus, 2, skip_special=False, own_only=False)
    inputs = inputs_of(batch, opened.model)
    assert torch.equal(inputs["attention_mask"].bool(), torch.from_numpy(batch.valid))
    assert torch.equal(inputs["input_ids"], torch.from_numpy(batch.ids))
    assert inputs["use_cache"] is False
    tokens = tokens_of(batch)
    assert np.array_equal(tokens.documents, [0, 1])
    assert np.array_equal(tokens.counted, batch.counted)


@pytest.mark.parametrize(
    "error", [ValueError("You have to specify bbox"), KeyError("bbox"), AttributeError("bbox")]
)
def test_a_failing_forward_pass_names_the_model(opened: Any, error: Exception) -> None:
    kind = type(error).__name__
    match = f"the forward pass of LlamaForCausalLM fails: {kind}: .*bbox"
    with pytest.raises(MeasurementError, match=match) as caught, naming_failures(opened.model):
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [MemoryError("x"), torch.OutOfMemoryError("x"), RuntimeError("DefaultCPUAllocator")]
)
def test_too_little_memory_is_no_failure_of_the_model(opened: Any, error: Exception) -> None:
    with pytest.raises(type(error)), naming_failures(opened.model):
        raise error
