"""Activations of networks without transformer layers, against captures of their own."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from support.own_module_checks import (
    activations_of,
    assert_place,
    channels_last,
    redistributed,
)
from support.own_modules import NETS, Net
from torch import nn

import distviz
from distviz.errors import MeasurementError

SETTINGS: dict[str, Any] = {"c": 0.3, "p1": 95.0}


@pytest.mark.parametrize("name", NETS)
def test_every_activation_in_the_order_of_the_forward_pass(name: str) -> None:
    case = NETS[name]
    net, given = case.made(), case.given()
    with torch.no_grad(), activations_of(net) as kept:
        net(*given)
    with torch.no_grad(), distviz.watch(net, sites="act,gate") as seen:
        net(*given)
    run = seen.run()
    names = {key.layer: key.module for key in run.keys}
    assert [names[layer] for layer in range(len(names))] == list(case.activations)
    assert len(kept) == len(names)
    for key in run.keys:
        dim = case.activations[key.module]
        values = kept[key.layer][key.site == "act"]
        assert_place(run, key, channels_last(values, dim), dim if values.ndim > 2 else -1)


def test_layers_are_chosen_by_their_number() -> None:
    case = NETS["resnet"]
    net, given = case.made(), case.given()
    with torch.no_grad(), distviz.watch(net, layers="0,2") as seen:
        net(*given)
    assert seen.stats()["module"].tolist() == ["layer1.0.relu", "layer1.0.relu_2"]
    with (
        torch.no_grad(),
        pytest.raises(MeasurementError, match=r"no activation of layer 8-9 .*site act"),
        distviz.watch(net, layers="1,8-9"),
    ):
        net(*given)


def plainly(case: Net, net: nn.Module, given: list[torch.Tensor], layers: Collection[int]) -> Any:
    """Return the output with ARM, and what left each activation, by hooks and patched functions."""
    dims = [*case.activations.values()]

    def change(number: int, out: torch.Tensor) -> torch.Tensor:
        dim = dims[number] if out.ndim > 2 else -1
        return redistributed(number, out, dim, **SETTINGS) if number in layers else out

    with activations_of(net, change) as kept:
        return net(*given), [after for _, after in kept]


@pytest.mark.parametrize("is_inside", [True, False])
@pytest.mark.parametrize("name", NETS)
def test_arm_in_the_order_of_the_forward_pass(name: str, is_inside: bool) -> None:
    case = NETS[name]
    net, given = case.made(), case.given()
    layers = set(range(0, len(case.activations), 2))
    arm = distviz.redistribute(net, distviz.ARM(**SETTINGS), layers)
    with torch.no_grad():
        wanted, kept = plainly(case, net, given, layers)
        outer, inner = (arm, nullcontext()) if is_inside else (nullcontext(), arm)
        with outer, distviz.watch(net) as seen, inner:
            found = net(*given)
        plain = net(*given)
    assert torch.equal(found, wanted)
    assert not torch.equal(found, plain)
    run = seen.run()
    for key in run.keys:
        dim = case.activations[key.module]
        values = kept[key.layer]
        assert key.phase == "after"
        assert_place(run, key, channels_last(values, dim), dim if values.ndim > 2 else -1)


@pytest.mark.parametrize("name", ["resnet", "lenet", "unet", "diffusion"])
def test_gradients_with_arm(name: str) -> None:
    case = NETS[name]
    net, given = case.made(), case.given()
    plainly(case, net, given, {0, 1})[0].square().sum().backward()
    wanted = [parameter.grad for parameter in net.parameters()]
    net.zero_grad()
    with distviz.redistribute(net, distviz.ARM(**SETTINGS), [0, 1]), distviz.watch(net) as seen:
        net(*given).square().sum().backward()
    for parameter, gradient in zip(net.parameters(), wanted, strict=True):
        assert parameter.grad is gradient is None or torch.equal(parameter.grad, gradient)
    assert seen.stats()["count"].gt(0).all()


def test_a_model_without_activations() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Softmax(dim=-1))
    with (
        pytest.raises(MeasurementError, match=r"no activation ran .*\n.*module:PATTERN"),
        distviz.watch(net),
    ):
        net(torch.ones(3, 2))


def test_the_numbers_stay_when_other_activations_run() -> None:
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor, first: bool) -> torch.Tensor:
            return (x.relu() if first else x.sigmoid()).tanh()

    net, x = Branches(), torch.randn(2, 3)
    with distviz.watch(net) as seen:
        net(x, first=True)
        net(x, first=False)
    with distviz.watch(net) as again:
        net(x, first=False)
    assert seen.stats()["module"].tolist() == ["relu", "tanh", "sigmoid"]
    assert again.stats()["layer"].tolist() == [1, 2]
