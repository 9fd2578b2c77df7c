"""Calls that Ctrl-C ends: torch runs no hook after them, and nothing of them may remain."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from threading import Event
from typing import Any
from weakref import ref

import pandas as pd
import pytest
import torch
from support.own_modules import NETS
from support.padded_models import ACTS, SIZES, padded, tiny
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel

import distviz
from distviz.errors import MeasurementError
from distviz.hooks.calls import Calls, TracedCalls

PLACES = {"lfm2": "layers.0.feed_forward.w1"}
"""Where Ctrl-C is pressed, before any value was counted; else the model."""

Call = Callable[[], Any]


def n_modes() -> int:
    return torch._C._len_torch_function_stack()


def interrupted(module: nn.Module, call: Call) -> None:
    """Press Ctrl-C when a module is called."""

    def press(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = module.register_forward_pre_hook(press)
    with pytest.raises(KeyboardInterrupt):
        call()
    handle.remove()


def pass_on(func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
    return func(*args, **(kwargs or {}))


def network(name: str) -> tuple[nn.Module, Call]:
    net, given = NETS[name].made(), NETS[name].given()
    return net, lambda: net(*given)


def lfm2() -> nn.Module:
    """Return a model whose activation is a function inside a module."""
    kinds = ["full_attention", "conv", "conv"]
    sizes = SIZES | {"num_key_value_heads": 2, "layer_types": kinds}
    config = AutoConfig.for_model("lfm2", **sizes)
    return AutoModel.from_config(config).eval()


def transformer(name: str) -> tuple[nn.Module, Call]:
    model, (ids, mask) = lfm2() if name == "lfm2" else tiny(name), padded("left")
    return model, lambda: model(ids, attention_mask=mask)


@pytest.mark.parametrize(("name", "make"), [
    *((name, network) for name in NETS), *((name, transformer) for name in (*ACTS, "lfm2")),
])  # fmt: skip
def test_the_call_after_an_interrupted_one(
    name: str, make: Callable[[str], tuple[nn.Module, Call]]
) -> None:
    model, call = make(name)
    torch.manual_seed(0)
    with torch.no_grad(), distviz.watch(model) as seen:
        call()
    wanted = seen.stats()
    with torch.no_grad(), distviz.watch(model) as seen:
        interrupted(model.get_submodule(PLACES.get(name, "")), call)
        for function in (functional.silu, functional.gelu, functional.relu, torch.tanh):
            function(torch.ones(2, 3, 4, 5))  # by the user, who is in no call
        torch.manual_seed(0)
        call()
    pd.testing.assert_frame_equal(seen.stats(), wanted)


@pytest.mark.parametrize("name", NETS)
def test_closing_after_an_interrupted_call(name: str) -> None:
    net, call = network(name)
    other = torch.overrides.BaseTorchFunctionMode()
    with torch.no_grad(), ExitStack() as stack:
        stack.enter_context(distviz.redistribute(net, distviz.ARM(fraction=1.0), "all"))
        stack.enter_context(distviz.watch(net, sites="act,gate"))
        interrupted(next(net.children()), call)
        with other:  # begun later, and still the only one when those below have ended
            error = KeyboardInterrupt()
            stack.__exit__(type(error), error, None)
            assert torch.overrides._get_current_function_mode() is other
            assert n_modes() == 1
    assert n_modes() == 0


def test_a_call_inside_another_is_one_also_of_the_same_module() -> None:
    class Tree(nn.Module):
        def forward(self, depth: int) -> int:
            found.append(calls.depth)
            return self(depth - 1) if depth else 0

    tree, calls, found, begun = Tree(), TracedCalls(pass_on, lambda: begun.append(1)), [], []
    with ExitStack() as stack:
        calls.attach(tree, stack)
        tree(3)
        assert (found, begun, calls.depth) == ([1, 2, 3, 4], [1], 0)
        with pytest.raises(TypeError):
            tree("a")
        assert (calls.depth, n_modes()) == (0, 0)


def test_what_an_interrupted_call_holds_is_freed_by_the_next_question() -> None:
    class Held(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise KeyboardInterrupt

    held, calls, given = Held(), Calls(), torch.ones(3)
    freed = ref(given)
    with ExitStack() as stack:
        calls.attach(held, stack)
        with suppress(KeyboardInterrupt):
            held(given)
        del given
        assert calls.depth == 0
        assert freed() is None


def test_two_threads_at_once_are_refused() -> None:
    class Waiting(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.shape[0] == 3:
                begun.set()
                assert refused.wait(60)
            return super().forward(x)

    begun, refused = Event(), Event()
    net = nn.Sequential(Waiting(4, 4), nn.ReLU())
    given = torch.arange(12.0).reshape(3, 4)
    with distviz.watch(net) as seen, ThreadPoolExecutor(1) as other:
        first = other.submit(net, given)
        assert begun.wait(60)
        with pytest.raises(MeasurementError, match="Sequential is called by two threads at once"):
            net(torch.ones(2, 4))
        refused.set()
        first.result()
        net(given)  # by one after the other
    assert seen.stats()["count"].tolist() == [2 * given.numel()]
