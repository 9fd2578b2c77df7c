"""Passes that start after a layer equal whole passes, and the layers are restored."""

from __future__ import annotations

import torch
from torch import nn

from distviz.studies.layer_cache import LayerCache


def test_a_pass_after_a_layer_equals_the_whole_pass() -> None:
    torch.manual_seed(0)
    calls = []
    layers = [nn.Linear(6, 6) for _ in range(4)]
    for number, layer in enumerate(layers):
        layer.register_forward_pre_hook(lambda *_, number=number: calls.append(number))
    model, x = nn.Sequential(*layers), torch.randn(2, 6)
    cache = LayerCache(layers)
    with cache.recording({1, 2}):
        whole = model(x)
    forwards = [layer.forward for layer in layers]
    for start in (-1, 1, 2):
        with cache.start_after(start):
            assert torch.equal(model(x), whole)
    assert [layer.forward for layer in layers] == forwards
    assert all("forward" not in vars(layer) for layer in layers)
    assert torch.equal(model(x), whole)


def test_a_forward_of_its_own_is_restored() -> None:
    layer = nn.Linear(3, 3)
    own = layer.forward = lambda x: x + 1
    cache = LayerCache([layer])
    x = torch.zeros(1, 3)
    with cache.recording({0}):
        assert torch.equal(layer(x), x + 1)
    with cache.start_after(0):
        assert torch.equal(layer(x + 9), x + 1)
    assert layer.forward is own
