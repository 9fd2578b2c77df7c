"""Distributions of parameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.trained_models import trainable

from distviz.errors import RequestError
from distviz.hooks import choose_points
from distviz.measure.weights import check_weights, weight_sketches
from distviz.sites import SiteKey


def test_every_parameter_of_the_layers_is_counted_once() -> None:
    model = trainable("gpt2")
    points = choose_points(model, ["act", "product"], [0, 2])
    found = weight_sketches(model, points)
    layers = ("transformer.h.0.", "transformer.h.2.")
    own = {name: p for name, p in model.named_parameters() if name.startswith(layers)}
    assert len(found) == len(own) == 24
    for (layer, stack, site, phase, module), sketch in found.items():
        name = module if module.endswith(".bias") else f"{module}.weight"
        assert name == f"transformer.h.{layer}.{site.removeprefix('weight:')}" + (
            "" if module.endswith(".bias") else ".weight"
        )
        assert (stack, phase) == ("decoder", "before")
        values = own[name].detach().double()
        assert sketch.count == values.numel()
        assert sketch.mean() == pytest.approx(float(values.mean()), rel=1e-9, abs=1e-12)
    assert weight_sketches(model, points, rank=1) == {}  # the first process has them whole


def test_modules_outside_the_layers() -> None:
    model = trainable()
    points = choose_points(model, ["module:lm_head"], "all")
    key = SiteKey(-1, "model", "weight:weight", "before", "lm_head")
    (found,) = weight_sketches(model, points)
    assert found._replace(site=key.site) == key


def test_packed_parameters_are_left_out() -> None:
    model = trainable()
    packed = torch.nn.Parameter(torch.ones(4, dtype=torch.uint8), requires_grad=False)
    model.model.layers[0].mlp.packed = packed
    sites = {key.site for key in weight_sketches(model, choose_points(model, ["act"], [0]))}
    assert len(sites) == 9


def test_parameters_that_are_elsewhere_are_refused() -> None:
    class Flat(torch.nn.Parameter):
        _is_flat_param = True

    model: Any = torch.nn.Linear(2, 2)
    check_weights(model)
    model.weight.ds_id = 3
    check_weights(model)
    model.weight.data = torch.empty(0)
    with pytest.raises(RequestError, match="ZeRO-3"):
        check_weights(model)
    model = torch.nn.Module()
    model.flat = Flat(torch.ones(3))
    with pytest.raises(RequestError, match="fully_shard"):
        check_weights(model)
