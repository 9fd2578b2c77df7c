"""Modules whose channels are not the last dimension, against plain hooks and NumPy in float64."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import torch
from support.own_module_checks import assert_place, channels_last, outputs_of, redistributed
from support.own_modules import NETS
from torch import nn
from torch.utils.checkpoint import checkpoint

import distviz
from distviz.arm import random_key
from distviz.errors import MeasurementError
from distviz.hooks.recorder import Recorder
from distviz.stats import decode, encode


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


@pytest.mark.parametrize(("name", "path"), [
    ("lenet", "conv2"), ("resnet", "layer1.0"), ("speech", "causal"), ("video", "1"),
    ("convnext", "1.drop_path"), ("swin", "2"), ("diffusion", "blocks.1.attn"),
])  # fmt: skip
def test_arm_at_a_module(name: str, path: str) -> None:
    case, site = NETS[name], f"module:{path}"
    net, given = case.made(), case.given()
    settings = {"c": 0.3, "p1": 90.0}
    kept: list[torch.Tensor] = []

    def change(_module: nn.Module, _args: Any, out: torch.Tensor) -> torch.Tensor:
        dim = case.dim_of(path, out.ndim)
        key = random_key(1 if path == "blocks.1.attn" else -1, site)
        new = redistributed(key, out, dim, **settings)
        kept.append(new.clone())  # what follows may be in place
        return new

    with torch.no_grad():
        handle = net.get_submodule(path).register_forward_hook(change)
        wanted = net(*given)
        handle.remove()
        arm = distviz.redistribute(net, distviz.ARM(**settings), "all", sites=site)
        with arm, distviz.watch(net, sites=site) as seen:
            assert torch.equal(net(*given), wanted)
    ((key, _),) = seen.recorder.sketches.items()
    dim = case.dim_of(path, kept[0].ndim)
    assert_place(seen.run(), key, channels_last(kept[0], dim), dim)


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


@pytest.mark.parametrize("channel_dim", [1, -3, {"0": 1}, {"0": 1, "*": 2}])
def test_a_dimension_can_be_given(channel_dim: Any) -> None:
    net = nn.Sequential(nn.Dropout(0.0), nn.Conv2d(3, 4, 1))
    images = torch.randn(2, 3, 5, 6)
    with distviz.watch(net, sites="module:0", channel_dim=channel_dim) as seen:
        net(images)
    channels = seen.run().channels
    assert channels["channel_dim"].tolist() == [1] * 3
    assert channels["max"].tolist() == images.amax((0, 2, 3)).tolist()


def test_a_dimension_that_a_tensor_lacks_is_refused() -> None:
    net = nn.Sequential(nn.Linear(3, 4))
    with (
        pytest.raises(MeasurementError, match=r"0 .* shape \(2, 4\).* no dimension 2"),
        distviz.watch(net, sites="module:0", channel_dim=2),
    ):
        net(torch.ones(2, 3))


def test_a_tensor_that_does_not_begin_with_the_batch_is_refused() -> None:
    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias, self.inner = nn.Linear(2, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x) + self.bias(torch.ones(1, 6, 2))

    net, x = Biased(), torch.randn(3, 6, 4)
    with distviz.watch(net, sites="module:inner") as seen:
        net(x)
    assert len(seen.run().documents) == 3
    for context in (distviz.watch, distviz.redistribute):
        with (
            pytest.raises(MeasurementError, match=r"bias .*\(1, 6, 4\).* the batch of 3"),
            context(net, sites="module:bias"),
        ):
            net(x)


def test_a_batch_in_the_second_dimension_is_refused() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16)
    net = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    with (
        pytest.raises(MeasurementError, match="self_attn has batch_first=False"),
        distviz.watch(net),
    ):
        net(torch.randn(4, 2, 8))
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    net = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    with distviz.watch(net) as seen:
        net(torch.randn(4, 2, 8))
    assert seen.run().documents["document"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_call_without_a_tensor_with_a_batch_is_refused() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    with pytest.raises(MeasurementError, match=r"two or more dim.*\ncall it"), distviz.watch(net):
        net(torch.ones(3))


def test_dictionaries_with_a_forward_are_modules() -> None:
    class Summed(nn.ModuleDict):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return sum(module(x) for module in self.values())

    net = nn.Sequential(Summed({"a": nn.Conv1d(2, 3, 1), "b": nn.Conv1d(2, 3, 1)}))
    x = torch.randn(2, 2, 5)
    with torch.no_grad(), distviz.watch(net, sites="module:0") as seen:
        wanted = net(x)
    channels = seen.run().channels
    assert channels["max"].tolist() == wanted.amax((0, 2)).tolist()
    assert set(channels["channel_dim"]) == {1}


def test_a_compiled_network_runs_uncompiled() -> None:
    case = NETS["lenet"]
    net, given = case.made(), case.given()
    with torch.no_grad(), distviz.watch(net, sites="act,module:conv1") as wanted:
        net(*given)
    compiled = torch.compile(net, backend="eager")
    compiled(*given)
    with (
        torch.no_grad(),
        pytest.warns(UserWarning, match="is compiled"),
        distviz.watch(compiled, sites="act,module:conv1") as seen,
    ):
        compiled(*given)
    pd.testing.assert_frame_equal(seen.run().channels, wanted.run().channels)


def test_other_activations_are_named() -> None:
    class Tower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv1d(4, 8, 1), nn.SiLU())
            self.blocks = nn.ModuleList(
                nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(2)
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x).transpose(1, 2)
            for block in self.blocks:
                x = block(x)
            return x

    net = Tower()
    said = pytest.warns(UserWarning, match=r"act: .* 1 other activation, such as stem\.1")
    with said, distviz.watch(net) as seen:
        net(torch.randn(2, 4, 5))
    assert seen.run().manifest["warnings"] == seen.warnings
    assert seen.stats()["module"].tolist() == ["blocks.0.1", "blocks.1.1"]


def test_dimensions_are_kept_by_states_and_sums() -> None:
    case = NETS["lenet"]
    net, given = case.made(), case.given()
    with torch.no_grad(), distviz.watch(net) as seen:
        net(*given)
    again = Recorder.from_state(decode(encode(seen.recorder.state())))
    wanted = seen.recorder.channels()
    pd.testing.assert_frame_equal(again.channels(), wanted)
    assert (Recorder(again.c) + again).channels()["channel_dim"].equals(wanted["channel_dim"])


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_compute_the_same_again(reentrant: bool) -> None:
    case = NETS["resnet"]
    net, given = case.made(), case.given()
    given[0].requires_grad_()
    inner = net.layer1

    def gradients() -> list[torch.Tensor]:
        net.zero_grad()
        arm = distviz.ARM(c=0.3)
        sites = "module:layer1.*.bn2"
        with distviz.redistribute(net, arm, "all", sites=sites), distviz.watch(net) as seen:
            net(*given).square().sum().backward()
        counts.append(seen.stats()["count"].tolist())
        return [parameter.grad.clone() for parameter in net.parameters()]

    counts: list[list[int]] = []
    wanted = gradients()
    net.layer1 = Checkpointed(inner, reentrant)
    net.layer1.add_module("0", inner[0])
    net.layer1.add_module("1", inner[1])
    for found, gradient in zip(gradients(), wanted, strict=True):
        torch.testing.assert_close(found, gradient)
    assert counts[0] == counts[1]


class Checkpointed(nn.Module):
    def __init__(self, inner: nn.Sequential, reentrant: bool) -> None:
        super().__init__()
        self.reentrant, self.parts = reentrant, [*inner]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            x = checkpoint(part, x, use_reentrant=self.reentrant)
        return x
