"""Chains of operations from an activation function, against the expressions that made them."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from distviz.models.architectures.function_tracer import FunctionTracer, OpPath

G, U = torch.linspace(-2, 2, 6).reshape(2, 3), torch.linspace(1, 3, 6).reshape(2, 3)
EXPRESSIONS: dict[OpPath, Callable[[], Any]] = {
    ("silu",): lambda: functional.silu(G),
    ("silu", "mul"): lambda: functional.silu(G) * U,
    ("gelu", "mul"): lambda: U.mul(functional.gelu(G)),
    ("relu", "square"): lambda: functional.relu(G).pow(2),
    ("tanh",): lambda: torch.tanh(G).to(torch.float64).clamp(min=-0.5),
    ("sigmoid", "mul"): lambda: G * torch.sigmoid(1.702 * G),
    ("sigmoid", "scale"): lambda: torch.sigmoid(G) / 3,
    ("erf", "shift"): lambda: 1 + torch.erf(G),
}


@pytest.mark.parametrize("chain", EXPRESSIONS)
def test_the_last_step_of_an_expression(chain: OpPath) -> None:
    steps: list[tuple[OpPath, torch.Tensor]] = []
    with FunctionTracer(lambda path, _, result: steps.append((path, result))):
        result = EXPRESSIONS[chain]()
    assert steps[-1][0] == chain
    last = steps[-1][1]
    assert torch.equal(last.double().clamp(min=-0.5) if chain == ("tanh",) else last, result)


def test_the_input_of_a_scaled_activation_is_the_unscaled_value() -> None:
    inputs = []
    with FunctionTracer(lambda _, given, __: inputs.append(given)):
        torch.sigmoid(1.702 * G)
    assert inputs == [G] or torch.equal(inputs[0], G)


def test_an_activation_takes_precedence_over_a_softcap() -> None:
    chains = []
    with FunctionTracer(lambda path, *_: chains.append(path)):
        torch.tanh(U) * functional.silu(G)
    assert chains[-1] == ("silu", "mul")


def test_only_wanted_chains_are_reported_and_replaced() -> None:
    def replace(path: OpPath, _: Any, result: torch.Tensor) -> torch.Tensor | None:
        return torch.zeros_like(result) if path == ("silu", "mul") else None

    with FunctionTracer(replace, wanted=[("silu", "mul")]):
        product = functional.silu(G) * U
        other = functional.relu(G)
    assert not product.any()
    assert torch.equal(other, G.relu())


def test_linear_layers_report_the_chain_of_their_input() -> None:
    weight = torch.ones(2, 3)
    calls: list[tuple[OpPath, torch.Tensor, torch.Tensor]] = []
    with FunctionTracer(lambda *_: None, on_linear=lambda *call: calls.append(call)):
        functional.linear(G, weight)
        result = functional.linear(functional.silu(G) * U, weight)
    ((chain, used, output),) = calls
    assert (chain, used is weight, output is result) == (("silu", "mul"), True, True)


def test_receivers_run_untraced() -> None:
    chains = []

    def receive(path: OpPath, _: Any, result: torch.Tensor) -> torch.Tensor:
        chains.append(path)
        return functional.relu(result)

    with FunctionTracer(receive):
        functional.silu(G)
    assert chains == [("silu",)]


def test_no_tensor_lives_longer() -> None:
    with FunctionTracer(lambda *_: None):
        product = functional.silu(G) * U
        alive = weakref.ref(product)
        del product
        gc.collect()
        assert alive() is None
