"""Gradient checkpointing: values are counted once, and redistributed alike in both runs."""

from __future__ import annotations

import contextlib
import gc
import warnings
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
import torch
from support.padded_models import CAUSAL, WHOLE, padded, tiny
from support.tiny_experts import tiny_experts
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

import distviz
from distviz.arm import ARM, make_redistribution
from distviz.errors import MeasurementError
from distviz.hooks.observation import choose_points
from distviz.hooks.recorder import Recorder
from distviz.hooks.step_recorder import StepRecorder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn


def _save_products(_context: Any, op: Any, *_: Any, **__: Any) -> CheckpointPolicy:
    is_product = op in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
    return CheckpointPolicy.MUST_SAVE if is_product else CheckpointPolicy.PREFER_RECOMPUTE


def _save_all(*_: Any, **__: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE


def _saving(policy: Any) -> Any:
    return partial(create_selective_checkpoint_contexts, policy)


def _by_transformers(model: Any, **options: Any) -> None:
    with warnings.catch_warnings(action="ignore"):  # transformers 5.24 has a new name for it
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)


def _by_hand(model: Any, *, depth: int = 1, part: str = "layers", **options: Any) -> None:
    """Checkpoint each layer, or only its MLP, so many times."""
    for layer in model.get_decoder().layers:
        module = layer if part == "layers" else layer.mlp
        for _ in range(depth):
            module.forward = partial(checkpoint, module.forward, **options)


def _as_a_whole(model: Any) -> None:
    base = model.get_decoder()
    base.forward = partial(checkpoint, base.forward, use_reentrant=False)


NO_REENTRY = {"use_reentrant": False}
KINDS: dict[str, Callable[[Any], None]] = {
    "reentrant": partial(_by_transformers, use_reentrant=True),
    "non-reentrant": partial(_by_transformers, **NO_REENTRY),
    "layers": partial(_by_hand, **NO_REENTRY),
    "mlp": partial(_by_hand, part="mlp", **NO_REENTRY),
    "mlp, reentrant": partial(_by_hand, part="mlp", use_reentrant=True),
    "nested": partial(_by_hand, depth=2, **NO_REENTRY),
    "whole": _as_a_whole,
    "selective": partial(_by_hand, **NO_REENTRY, context_fn=_saving(_save_products)),
    "all saved": partial(_by_hand, **NO_REENTRY, context_fn=_saving(_save_all)),
}  # fmt: skip
CALLS = [padded("right", 0), padded("left", 1)]


def training(name: str = "llama", kind: str | None = None) -> Any:
    model = tiny(name).train()
    model.config.use_cache = False
    if kind is not None:
        KINDS[kind](model)
    return model


def loss_of(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    labels = ids.masked_fill(mask == 0, -100)
    # Reentrant checkpoints need an input with a gradient.
    embeds = model.get_input_embeddings()(ids)
    loss: torch.Tensor = model(inputs_embeds=embeds, attention_mask=mask, labels=labels).loss
    return loss


def train(model: Any, *, at_once: bool = False) -> None:
    losses = []
    for ids, mask in CALLS:
        losses.append(loss_of(model, ids, mask))
        if not at_once:
            losses.pop().backward()
    if losses:
        torch.stack(losses).sum().backward()


def tables(model: Any, **options: Any) -> list[pd.DataFrame]:
    with distviz.watch(model, sites="gate,act,product,down,residual") as seen:
        train(model, **options)
    run = seen.run()
    return [run.stats(), run.documents, run.channels]


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_values_are_counted_once(kind: str, at_once: bool) -> None:
    expected = tables(training())
    for found, table in zip(tables(training(kind=kind), at_once=at_once), expected, strict=True):
        pd.testing.assert_frame_equal(found, table)


def step_of(model: Any, **options: Any) -> StepRecorder:
    points = choose_points(model, ["act", "product", "residual"], "all")
    seen = StepRecorder(model, points, Recorder(), scale=lambda: 1.0)
    with seen.attached():
        train(model, **options)
    seen.finish()
    assert seen.failure is None
    assert seen.without_gradient == []
    return seen


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_counted_once(kind: str, at_once: bool) -> None:
    """Those of training without checkpoints are compared with `retain_grad` in test_gradients."""
    expected, found = step_of(training()), step_of(training(kind=kind), at_once=at_once)
    assert found.recorder.sketches == expected.recorder.sketches
    assert len({key.site for key in found.recorder.sketches}) == 6
    documents = [one.recorder.documents.frame() for one in (found, expected)]
    pd.testing.assert_frame_equal(*documents)


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("reentrant", [False, True])
def test_other_models(name: str, reentrant: bool) -> None:
    kind = "reentrant" if reentrant else "non-reentrant"
    for found, table in zip(tables(training(name, kind)), tables(training(name)), strict=True):
        pd.testing.assert_frame_equal(found, table)


@pytest.mark.parametrize("context", ["autocast", "no_grad"])
@pytest.mark.parametrize("kind", ["reentrant", "non-reentrant"])
def test_other_contexts(kind: str, context: str) -> None:
    def counts(model: Any) -> pd.DataFrame:
        is_autocast = context == "autocast"
        with distviz.watch(model) as seen:
            with torch.autocast("cpu", torch.bfloat16) if is_autocast else torch.no_grad():
                loss = loss_of(model, *CALLS[0])
            if loss.requires_grad:
                loss.backward()
        return seen.stats()

    found = counts(training(kind=kind))
    pd.testing.assert_frame_equal(found, counts(training()))


# Redistribution -----------------------------------------------------------------------------

REDISTRIBUTIONS = {
    "arm": ARM(c=1.0, seed=2),
    "add": ARM(c=1.0, mode="add", seed=2),
    "whole": WHOLE,
    "noise": make_redistribution("noise", ARM(c=1.0)),
    "scale": make_redistribution("scale", ARM(c=1.0)),
    "threshold": make_redistribution("threshold", ARM(c=1.0)),
}


def gradients(model: nn.Module, arm: ARM, **options: Any) -> list[torch.Tensor]:
    model.zero_grad()
    with distviz.redistribute(model, arm, layers="0,2"):
        train(model, **options)
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def _cases() -> list[Any]:
    few = ("reentrant", "non-reentrant", "selective")
    cases: list[Any] = [("arm", kind, False) for kind in KINDS]
    cases += [("noise", kind, True) for kind in KINDS]
    others = [arm for arm in REDISTRIBUTIONS if arm not in ("arm", "noise")]
    mark = pytest.mark.extended
    return cases + [pytest.param(arm, kind, True, marks=mark) for arm in others for kind in few]


@pytest.mark.parametrize(("arm", "kind", "at_once"), _cases())
def test_gradients_are_those_without_checkpointing(arm: str, kind: str, at_once: bool) -> None:
    work = REDISTRIBUTIONS[arm]
    expected = gradients(training(), work)
    plain = training()
    train(plain)
    assert any(
        not torch.equal(one, p.grad) for one, p in zip(expected, plain.parameters(), strict=True)
    )
    found = gradients(training(kind=kind), work, at_once=at_once)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("inner", ["watch", "redistribute"])
def test_watched_while_it_is_redistributed(inner: str) -> None:
    def stats(model: Any) -> pd.DataFrame:
        with contextlib.ExitStack() as stack:
            if inner == "redistribute":
                seen = stack.enter_context(distviz.watch(model))
            stack.enter_context(distviz.redistribute(model, ARM(c=1.0)))
            if inner == "watch":
                seen = stack.enter_context(distviz.watch(model))
            train(model)
        return seen.stats()

    pd.testing.assert_frame_equal(stats(training(kind="non-reentrant")), stats(training()))


def test_a_forward_pass_before_the_context_stays_as_it_was() -> None:
    expected, model = training(), training(kind="non-reentrant")
    train(expected)
    losses = [loss_of(model, *call) for call in CALLS]
    with contextlib.suppress(MeasurementError), distviz.redistribute(model, ARM(c=1.0)):
        torch.stack(losses).sum().backward()
    for one, other in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_what_cannot_be_matched_is_refused() -> None:
    """Two forward calls whose values are equal where their padding differs; and other values."""
    model = training(kind="mlp")
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 0.01)
    with (
        distviz.redistribute(model, ARM(c=1.0)),
        pytest.raises(MeasurementError, match="again with the values of several forward calls"),
    ):
        train(model, at_once=True)
    model = training(kind="layers")
    losses = [loss_of(model, *call) for call in CALLS]
    with distviz.redistribute(model, ARM(c=1.0)):
        loss_of(model, *CALLS[1])
        with pytest.raises(MeasurementError, match="again with the values of no forward call"):
            losses[0].backward()


def test_a_call_inside_a_backward_pass_is_not_counted() -> None:
    model, ids = training(), CALLS[0][0]
    with distviz.watch(model) as seen:
        loss = loss_of(model, *CALLS[0])
        loss.register_hook(lambda _: model(ids) and None)
        loss.backward()
    with distviz.watch(model) as expected:
        loss_of(model, *CALLS[0])
    pd.testing.assert_frame_equal(seen.stats(), expected.stats())


# Experts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", ["grouped_mm", "eager"])
@pytest.mark.parametrize("kind", ["reentrant", "non-reentrant"])
def test_routed_experts(kind: str, implementation: str) -> None:
    def found(*, is_checkpointed: bool) -> list[Any]:
        model = tiny_experts("mixtral", implementation).train()
        model.config.use_cache = False
        if is_checkpointed:
            KINDS[kind](model)
        with distviz.watch(model) as seen, distviz.redistribute(model, ARM(c=1.0)):
            train(model, at_once=True)
        return [seen.stats(), *(parameter.grad for parameter in model.parameters())]

    first, second = found(is_checkpointed=True), found(is_checkpointed=False)
    pd.testing.assert_frame_equal(first[0], second[0])
    for one, other in zip(first[1:], second[1:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@contextlib.contextmanager
def no_garbage_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def test_what_was_counted_is_freed_at_once() -> None:
    """Tables are large, and Python looks for cycles of objects too rarely."""
    model = training(kind="layers")
    with no_garbage_collector():
        with distviz.watch(model, sites="act") as seen:
            train(model)
        watched = [weakref.ref(one) for one in (seen.recorder, seen.recorder.documents)]
        step = step_of(model)
        watched += [weakref.ref(one) for one in (step, step.recorder, step.recorder.documents)]
        assert all(one() is not None for one in watched)
        del seen, step
        assert [one() for one in watched] == [None] * 5
