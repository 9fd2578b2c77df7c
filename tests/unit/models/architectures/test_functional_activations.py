"""Activation functions found by one traced forward on the meta device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from distviz.models.architectures.functional_activations import find_functional


class Mlp(nn.Module):
    def __init__(self, compute: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 4)
        self.compute = compute

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.compute(self, x)


FORMULAS: dict[str, tuple[Callable[[Any, torch.Tensor], torch.Tensor], str, bool, bool]] = {
    "gated": (lambda m, x: m.down(functional.silu(m.gate(x)) * m.up(x)), "SiLU", True, True),
    "plain": (lambda m, x: m.down(functional.gelu(m.gate(x))), "GELU", False, True),
    "squared": (lambda m, x: m.down(functional.relu(m.gate(x)) ** 2), "ReLUSquared", False, True),
    "swish": (
        lambda m, x: m.down(m.gate(x) * torch.sigmoid(1.7 * m.gate(x))),
        "Swish",
        False,
        True,
    ),
    "gelu by hand": (
        lambda m, x: m.down(m.gate(x) * 0.5 * (1.0 + torch.erf(m.gate(x) / 2**0.5))),
        "GELU",
        False,
        True,
    ),
    "scaled after": (
        lambda m, x: torch.sigmoid(m.up(x)[..., :4]) * m.down(functional.relu(m.gate(x))),
        "ReLU",
        False,
        False,
    ),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas(name: str) -> None:
    compute, activation, gated, is_last = FORMULAS[name]
    model = nn.Module()
    model.mlp = Mlp(compute)
    found = find_functional("mlp", dict(model.named_modules()))
    assert found is not None
    assert (found.name, found.gated, found.down) == (activation, gated, "mlp.down")
    assert found.is_last is is_last


@pytest.mark.parametrize(
    "compute",
    [
        lambda m, x: m.down(m.gate(x)),
        lambda m, x: functional.silu(m.down(m.gate(x))),  # reaches no linear layer
        lambda m, x: m.missing(x),
    ],
)
def test_no_activation_between_two_linear_layers(compute: Callable[..., torch.Tensor]) -> None:
    model = nn.Module()
    model.mlp = Mlp(compute)
    assert find_functional("mlp", dict(model.named_modules())) is None


def test_a_forward_with_further_required_arguments_is_not_called() -> None:
    class Mixer(Mlp):
        def forward(self, x: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
            return self.down(functional.silu(self.gate(x)) * state)

    model = nn.Module()
    model.mlp = Mixer(lambda *_: pytest.fail("called"))
    assert find_functional("mlp", dict(model.named_modules())) is None


def test_hooks_do_not_run_and_values_do_not_change() -> None:
    model = nn.Module()
    model.mlp = Mlp(FORMULAS["gated"][0])
    model.mlp.register_forward_hook(lambda *_: pytest.fail("hook called"))
    model.mlp.gate.register_forward_pre_hook(lambda *_: pytest.fail("hook called"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert find_functional("mlp", dict(model.named_modules())) is not None
    assert model.mlp.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert len(model.mlp._forward_hooks) == 1
