"""Modules whose channels are not the last dimension, against plain hooks and NumPy in float64."""

from __future__ import annotations

import pytest
import torch
from support.own_module_checks import assert_place, channels_last, outputs_of
from support.own_modules import NETS
from torch import nn

import distviz
from distviz.errors import MeasurementError


@pytest.mark.parametrize("name", NETS)
def test_every_module_of_a_network(name: str) -> None:
    case = NETS[name]
    net, given = case.made(), case.given()
    with torch.no_grad():
        kept = outputs_of(net, given)
        once = [path for path, calls in kept.items() if len(calls) == 1]
        with distviz.watch(net, sites=[f"module:{path}" for path in once]) as seen:
            net(*given)
    run = seen.run()
    assert {key.module for key in run.keys} == set(once)
    for key in run.keys:
        (tensor,) = kept[key.module]
        dim = case.dim_of(key.module, tensor.ndim)
        assert_place(run, key, channels_last(tensor, dim), dim)


def test_a_dimension_that_is_not_known_is_refused() -> None:
    net = nn.Sequential(nn.Dropout(0.0), nn.Conv2d(3, 4, 1))
    images = torch.randn(2, 3, 5, 5)
    with (
        pytest.raises(MeasurementError, match=r"dimension of 0 .* \(2, 3, 5, 5\).* not known"),
        distviz.watch(net, sites="module:0"),
    ):
        net(images)


def test_a_call_without_a_batch_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1))
    with (
        pytest.raises(MeasurementError, match="where the batch has to be"),
        distviz.watch(net, sites="module:0"),
    ):
        net(torch.randn(3, 5, 5))
