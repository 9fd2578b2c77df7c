"""One optimizer step: which passes count, the numbers of documents, errors that are kept."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import torch
from support.brute_force import hook_count
from support.padded_models import padded
from support.tiny_experts import tiny_experts
from support.trained_models import loss_of, trainable

import distviz
from distviz.errors import MeasurementError
from distviz.hooks.observation import choose_points
from distviz.hooks.recorder import Recorder
from distviz.hooks.step_recorder import StepRecorder
from distviz.stats import kernels


def recorder_of(model: torch.nn.Module, rank: int = 0, size: int = 1) -> StepRecorder:
    return StepRecorder(model, choose_points(model, ["act"], "all"), Recorder(), rank, size)


def test_documents_of_several_processes_have_different_numbers() -> None:
    model = trainable()
    found = []
    for rank in (0, 1):
        seen = recorder_of(model, rank, 2)
        with seen.attached():
            for seed in (0, 1):
                loss_of(model, padded("right", seed))
        seen.finish()
        assert (seen.passes, seen.tokens, seen.documents) == (2, 38, 6)
        numbers = seen.recorder.documents.frame()["document"]
        found.append(np.unique(numbers).tolist())
    assert found == [[0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9, 11]]


def test_an_error_is_kept_and_the_pass_goes_on() -> None:
    model = trainable()
    before = hook_count(model)
    seen = recorder_of(model)
    with seen.attached():
        model.model.layers[0].mlp.act_fn(torch.ones(2, 48))  # outside a call of the model
        loss_of(model, padded("right")).backward()
    assert isinstance(seen.failure, MeasurementError)
    assert "outside a call" in str(seen.failure)
    assert hook_count(model) == before


def test_a_call_without_tokens_is_kept_as_an_error() -> None:
    model = trainable()
    seen = recorder_of(model)
    with pytest.raises(ValueError, match="input_ids"), seen.attached():
        model(attention_mask=torch.tensor(1))  # the model's own error
    assert "without input_ids" in str(seen.failure)


def test_a_point_that_never_fires_is_an_error_at_the_end() -> None:
    model = trainable()
    seen = recorder_of(model)
    model.model.layers[0].mlp.forward = lambda x: x
    with pytest.raises(MeasurementError, match="never reached"), seen.attached():
        loss_of(model, padded("right"))


def test_values_on_a_device() -> None:
    """Counted there, and taken at the end of the step; equal to the CPU's."""
    found = []
    for on_device in (False, True):
        model = trainable()
        points = choose_points(model, ["act", "q"], "all")
        seen = StepRecorder(model, points, Recorder(), scale=lambda: 1.0)
        with kernels.force_torch() if on_device else nullcontext(), seen.attached():
            for seed in (0, 1):
                loss_of(model, padded("left", seed)).backward()
            seen.finish()
        assert seen.failure is None
        found.append(seen)
    assert found[0].recorder.sketches == found[1].recorder.sketches
    documents = [one.recorder.documents.frame() for one in found]
    pd.testing.assert_frame_equal(*documents, rtol=1e-9)


def test_why_nothing() -> None:
    model = trainable()
    seen = recorder_of(model)
    with seen.attached():
        assert seen.why_nothing() == "the model was not called"
        model.eval()
        loss_of(model, padded("right"))
        loss_of(model, padded("right"))
        assert seen.why_nothing() == "2 passes ran in evaluation mode (model.eval())"
        model.train()
        loss_of(model, padded("right"))
        assert not seen.why_nothing()


def test_routed_experts() -> None:
    """Rows of experts are counted as `watch` counts them."""
    model = tiny_experts("mixtral").train()
    ids, mask = padded("right")
    with distviz.watch(model) as watched:
        model(input_ids=ids, attention_mask=mask)
    seen = recorder_of(model)
    with seen.attached():
        model(input_ids=ids, attention_mask=mask)
    seen.finish()
    assert seen.failure is None
    assert seen.recorder.sketches == watched.recorder.sketches
