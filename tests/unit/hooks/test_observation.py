"""Hooks at chosen points: their removal, the phase, and points that never fire or do not exist."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.brute_force import (
    assert_stats,
    eps_of,
    hook_count,
    keeping,
    raw,
)
from support.padded_models import ACTS, WHOLE, acts, kept_rows, padded, tiny
from torch import nn

import distviz
from distviz import hooks
from distviz.errors import MeasurementError, RequestError
from distviz.hooks.observation import choose_points, phase_of
from distviz.models.architectures import find_mlps


@pytest.mark.parametrize("layers", ["0,2", [2, 0], (0, 2), {0, 2}])
def test_layers_may_be_given_in_many_ways(layers: Any) -> None:
    model = tiny("gpt2")
    with torch.no_grad(), distviz.watch(model, layers) as watched:
        model(torch.arange(3, 9)[None])
    assert watched.stats()["layer"].tolist() == [0, 2]
    with torch.no_grad(), distviz.watch(model, 1, sites=["gate", "down"]) as watched:
        model(torch.arange(3, 9)[None])
    assert watched.stats()[["layer", "site"]].to_numpy().tolist() == [[1, "gate"], [1, "down"]]


def test_hooks_are_removed(named: tuple[str, Any]) -> None:
    _, model = named
    before = hook_count(model)
    with torch.no_grad(), distviz.watch(model, sites="act,down,residual") as watched:
        assert hook_count(model) > before
        model(input_ids=torch.arange(3, 9)[None])
    assert hook_count(model) == before
    with torch.no_grad(), distviz.redistribute(model, layers="all"):
        assert hook_count(model) > before
        model(input_ids=torch.arange(3, 9)[None])
    assert hook_count(model) == before
    count = watched.stats()["count"].sum()
    with torch.no_grad():
        model(input_ids=torch.arange(3, 9)[None])
    assert watched.stats()["count"].sum() == count


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_hooks_are_removed_after_an_error(named: tuple[str, Any], error: type) -> None:
    name, model = named
    before = hook_count(model)
    ids = torch.arange(3, 9)[None]
    with torch.no_grad():
        plain = model(input_ids=ids)[0]
    for context in (distviz.watch(model), distviz.redistribute(model)):
        with pytest.raises(error, match="torn"), context:
            raise error("torn")
        assert hook_count(model) == before

    def fail(*_: Any) -> None:
        raise error("torn inside")

    broken = model.get_submodule(ACTS[name].format(1)).register_forward_hook(fail)
    for context in (distviz.watch(model), distviz.redistribute(model)):
        with pytest.raises(error, match="torn inside"), context:
            model(input_ids=ids)
    broken.remove()
    assert hook_count(model) == before
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids)[0], plain)


def test_an_error_inside_one_call_does_not_disturb_the_next() -> None:
    model = tiny("llama")
    ids, mask = padded("left")
    with torch.no_grad(), keeping(model, acts("llama")) as kept:
        model(ids, attention_mask=mask)
    with torch.no_grad(), distviz.watch(model, 1) as watched:
        with pytest.raises(IndexError, match="out of range"):
            model(torch.tensor([[3, 999]]))
        model(ids, attention_mask=mask)
    (row,) = watched.stats().to_dict("records")
    values = raw([kept_rows(kept["1"][0], mask)])
    assert_stats(row, values, eps_of(values))


class Skipping(nn.Module):
    """Stands in for a fused kernel: computes the MLP without calling its activation module."""

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.act_fn, self.inner = mlp.act_fn, [mlp]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mlp = self.inner[0]
        gate = torch.nn.functional.silu(mlp.gate_proj(x))
        return mlp.down_proj(gate * mlp.up_proj(x))


def test_a_point_that_never_fires_is_named_in_an_error() -> None:
    model = tiny("llama")
    before = hook_count(model)
    ids = torch.arange(3, 9)[None]
    original = model.model.layers[1].mlp.forward
    skipping = Skipping(model.model.layers[1].mlp)
    model.model.layers[1].mlp.forward = skipping.forward
    with (
        torch.no_grad(),
        pytest.raises(MeasurementError, match=r"never reached.*model\.layers\.1\.mlp\.act_fn"),
        distviz.watch(model),
    ):
        model(ids)
    with (
        torch.no_grad(),
        pytest.raises(MeasurementError, match=r"never reached.*model\.layers\.1\.mlp\.act_fn"),
        distviz.redistribute(model, layers=1),
    ):
        model(ids)
    assert hook_count(model) == before
    with distviz.watch(model), distviz.redistribute(model, layers=1):
        pass  # never called, nothing to complain of
    model.model.layers[1].mlp.forward = original


@pytest.mark.parametrize("open_it", [distviz.watch, distviz.redistribute])
def test_what_does_not_exist_is_refused(open_it: Any) -> None:
    model = tiny("llama")
    before = hook_count(model)
    for layers, match in [
        ("3", "layer 3 does not exist"),
        ([0, 7], "layer 7 does not exist"),
        ("x", "not a list of layers"),
        (-1, "not a list of layers|does not exist"),
    ]:
        with pytest.raises(RequestError, match=match), open_it(model, layers=layers):
            pass
    assert hook_count(model) == before


def test_the_phase_is_after_for_a_part_of_the_model_too() -> None:
    """ARM on the whole, the watch on its base model (or the reverse): ARM writes all the same."""
    model = tiny("llama")
    ids = torch.arange(3, 9)[None]
    with torch.no_grad(), distviz.redistribute(model, WHOLE), distviz.watch(model.model) as watched:
        model(ids)
    assert set(watched.stats()["phase"]) == {"after"}


def test_the_mode_of_the_model_does_not_change() -> None:
    model = tiny("llama").train()
    with torch.no_grad(), distviz.watch(model), distviz.redistribute(model):
        model(torch.arange(3, 9)[None])
    assert model.training


def test_a_piece_of_a_call_collects_fired_points_and_checks_nothing() -> None:
    model = tiny("llama")
    points = choose_points(model, ["act"], "all")
    tracker, fired = hooks.Tracker(), set()
    ids, mask = padded("right")
    with torch.no_grad(), keeping(model, acts("llama")) as kept:
        received = []
        with hooks.observe(model, points[:1], lambda *row: received.append(row), tracker):
            model(ids, attention_mask=mask)
        tracker.tokens = received.pop()[2]  # as the caller of a piece does
        with hooks.observe(model, points, lambda *row: received.append(row), tracker, fired):
            hidden = model.model.embed_tokens(ids)
            model.model.layers[0].mlp(hidden)
    assert fired == set(points[:1])
    ((point, values, tokens),) = received
    assert (point.layer, tokens.valid.sum()) == (0, mask.sum())
    assert torch.equal(values, kept["0"][-1].reshape(values.shape))
    with pytest.raises(MeasurementError, match=r"model\.layers\.1\.mlp\.act_fn .*layers\.2\.mlp"):
        hooks.check_fired(points, fired)
    hooks.check_fired(points, points)


def test_observing_records_in_the_phase_of_the_model() -> None:
    model, recorder = tiny("gpt2"), hooks.Recorder()
    points = choose_points(model, ["act"], 0)
    ids = torch.arange(3, 9)[None]
    with torch.no_grad(), hooks.observing(model, points, recorder, hooks.Tracker()):
        model(ids)
        with distviz.redistribute(model, layers=2):
            model(ids)
    assert {key.phase for key in recorder.sketches} == {"before", "after"}
    before, after = (by_class["all"] for by_class in recorder.sketches.values())
    assert before.count == after.count == 6 * 48
    assert before.moments == after.moments  # layer 0 is before the ARM layer


def test_the_phase_is_that_of_the_innermost_of_nested_contexts() -> None:
    model = tiny("gpt2")
    assert phase_of(model) == "before"
    with distviz.redistribute(model):
        with distviz.redistribute(model, layers=1):
            assert phase_of(model) == "after"
        assert phase_of(model) == "after"
        assert phase_of(model.transformer) == "after"
    assert phase_of(model) == "before"


def test_layers_by_stack() -> None:
    model = tiny("bert")
    (only,) = choose_points(model, ["act"], {"encoder": 2})
    assert (only.stack, only.layer) == ("encoder", 2)
    assert only in next(mlp.points for mlp in find_mlps(model) if mlp.layer == 2)
    assert choose_points(model, ["act"], {"encoder": []}) == []
    with pytest.raises(RequestError, match="no stack 'decoder'\nallowed: encoder"):
        choose_points(model, ["act"], {"decoder": 0})
