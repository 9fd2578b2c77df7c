"""Observations of several processes, as bytes and added."""

from __future__ import annotations

import pytest
import torch
from support.padded_models import padded
from support.trained_models import loss_of, trainable

from distviz.errors import MeasurementError
from distviz.hooks import Recorder, StepRecorder, choose_points
from distviz.measure.ranks import Ranks
from distviz.measure.step_result import StepResult, gather
from distviz.stats import decode, encode


def seen_by(rank: int, *, trains: bool = True) -> StepRecorder:
    model = trainable()
    seen = StepRecorder(model, choose_points(model, ["act"], "all"), Recorder(), rank, 2)
    with seen.attached():
        model.train(trains)
        loss_of(model, padded("right", rank))
    seen.finish()
    return seen


def sent(result: StepResult) -> StepResult:
    return StepResult.from_state(decode(encode(result.state())))


def test_results_of_processes_add() -> None:
    alone = StepRecorder(model := trainable(), choose_points(model, ["act"], "all"), Recorder())
    with alone.attached():
        for seed in (0, 1):
            loss_of(model, padded("right", seed))
    alone.finish()
    total = sent(StepResult.of(seen_by(0))) + sent(StepResult.of(seen_by(1)))
    assert (total.passes, total.tokens, total.documents) == (2, 38, 6)
    assert total.recorder.sketches == alone.recorder.sketches
    assert sorted(total.recorder.documents.frame()["document"].unique()) == [*range(6)]
    assert not total.reason


def test_reasons_name_the_process() -> None:
    idle = StepResult.of(seen_by(1, trains=False))
    assert idle.reason.startswith("no training pass: rank 1: 1 pass ran in evaluation mode")
    assert not (StepResult.of(seen_by(0)) + sent(idle)).reason
    seen = seen_by(1)
    seen.fail(MeasurementError("it fails", "do this"))
    seen.fail(MeasurementError("later"))
    failed = StepResult.of(seen)
    assert (StepResult.of(seen_by(0)) + sent(failed)).reason == "rank 1: it fails"
    assert not sent(failed).recorder.sketches


def test_one_process_alone_sends_nothing() -> None:
    own = StepResult.of(seen_by(0))
    assert gather(Ranks(), own) is own


def test_half_precision_without_a_scale_is_named() -> None:
    model = trainable()
    points = choose_points(model, ["act"], "all")
    for is_scaled in (False, True):
        seen = StepRecorder(model, points, Recorder(), scale=lambda: 1.0, is_scaled=is_scaled)
        with seen.attached(), torch.autocast("cpu", torch.float16):
            loss_of(model, padded("right")).backward()
        notes = StepResult.of(seen).notes
        assert any("no scaler was given" in note for note in notes) != is_scaled


def test_several_ranks_are_needed_for_a_group() -> None:
    assert not Ranks.are_several()
    assert pytest.approx(1) == Ranks().size
