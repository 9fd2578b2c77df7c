"""Gradients at points: of any tensor, once, with the tokens of the forward call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.padded_models import padded
from support.trained_models import checkpointed, loss_of, trainable

from distviz.hooks.gradients import Gradients, part_of
from distviz.hooks.observation import choose_points
from distviz.hooks.recorder import Recorder
from distviz.hooks.step_recorder import StepRecorder
from distviz.sites import HookPoint


def observed(model: Any, sites: list[str], passes: Any) -> StepRecorder:
    points = choose_points(model, sites, "all")
    seen = StepRecorder(model, points, Recorder(), scale=lambda: 1.0)
    with seen.attached():
        passes()
    return seen


@pytest.mark.parametrize("site", ["mlp_in", "gate", "up", "product", "down", "residual", "q"])
def test_sites_equal_retain_grad(site: str) -> None:
    """What enters several modules has the sum of the gradients of all."""
    model, batch = trainable(), padded("right")
    kept: list[torch.Tensor] = []
    (point,) = choose_points(model, [site], [1])
    module = model.get_submodule(point.module)

    def keep(value: torch.Tensor) -> None:
        value.retain_grad()
        kept.append(value)

    if point.takes == "input":
        hook = module.register_forward_pre_hook(lambda _, args: keep(args[0]))
    else:
        hook = module.register_forward_hook(lambda _, __, out: keep(out))
    loss_of(model, batch).backward()
    hook.remove()
    seen = observed(model, [site], lambda: loss_of(model, batch).backward())
    (key,) = [
        key for key in seen.recorder.sketches if (key.layer, key.site) == (1, f"gradient:{site}")
    ]
    (gradient,) = [one.grad for one in kept]
    assert gradient is not None
    values = gradient[batch[1].bool()].double()
    sketch = seen.recorder.sketches[key]["all"]
    assert sketch.count == values.numel()
    assert sketch.min == float(values.min())
    assert sketch.max == float(values.max())
    assert sketch.mean() == pytest.approx(float(values.mean()), rel=1e-9, abs=1e-15)
    assert seen.without_gradient == []


def test_frozen_layers_have_no_gradient() -> None:
    model, batch = trainable(), padded("right")
    model.requires_grad_(requires_grad=False)
    model.model.layers[1].mlp.requires_grad_(requires_grad=True)

    def passes() -> None:
        ids, mask = batch
        model(input_ids=ids, attention_mask=mask, labels=ids).loss.backward()

    seen = observed(model, ["act"], passes)
    assert [point.layer for point in seen.without_gradient] == [0]


def test_values_that_a_checkpoint_computes_otherwise_are_refused() -> None:
    """Reentrant: the layer returns other values the second time."""
    model = checkpointed(trainable(), reentrant=True)
    number = iter(range(100))

    def change(_m: Any, _a: Any, out: torch.Tensor) -> torch.Tensor:
        return out + next(number)

    model.model.layers[1].mlp.up_proj.register_forward_hook(change)
    seen = observed(model, ["product"], lambda: loss_of(model, padded("right")).backward())
    assert "with the values of no forward call" in str(seen.failure)


def test_hooks_of_tensors_are_removed() -> None:
    model = trainable()
    losses = []
    seen = observed(model, ["act"], lambda: losses.append(loss_of(model, padded("right"))))
    losses[0].backward()
    assert len(seen.without_gradient) == 3
    assert seen.failure is None


def test_part_of() -> None:
    whole = torch.arange(12.0).reshape(1, 2, 6)
    point = HookPoint(0, "decoder", "k", "a", "output", part=(2, 4))
    assert part_of(point, whole).tolist() == [[[2, 3], [8, 9]]]
    assert not Gradients(print, print, lambda: 1.0).reached
