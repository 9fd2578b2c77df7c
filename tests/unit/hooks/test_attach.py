"""Activations that are no module of one layer: functions, fused gates, shared modules."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
import torch
from support.brute_force import hook_count
from support.own_module_checks import redistributed
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM

import distviz
from distviz.arm import random_key
from distviz.arm.arm import ARM
from distviz.errors import MeasurementError
from distviz.hooks.attach import attach_hook
from distviz.models.architectures.mlp import find_mlps

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from distviz.sites import HookPoint

SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "lfm2": SIZES | {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "rwkv": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 64,
             "attention_hidden_size": 32},
    "gpt_oss": SIZES | EXPERTS | {"head_dim": 8},
    "mixtral": SIZES | EXPERTS,
    "openai-gpt": {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 64},
    "llama": SIZES,
}  # fmt: skip
IDS = torch.arange(3, 17).reshape(2, 7)


def tiny(name: str, experts: str = "eager") -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **CONFIGS[name])
    model = AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", experts_implementation=experts
    )
    for parameter in model.parameters():  # RWKV starts with zeros, OpenAI's gates near them
        nn.init.normal_(parameter, std=0.3)
    return model.eval().requires_grad_(requires_grad=False)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def points_of(model: Any, layer: int | None = None) -> list[HookPoint]:
    points = [p for m in find_mlps(model) for p in m.points if layer in (None, m.layer)]
    return [p for p in dict.fromkeys(points) if p.site in ("gate", "act", "product", "down")]


def observe(model: Any, points: Sequence[HookPoint]) -> dict[str, list[torch.Tensor]]:
    seen: dict[str, list[torch.Tensor]] = {point.site: [] for point in points}
    with ExitStack() as stack:
        attach_hook(model, points, lambda p, v: seen[p.site].append(as_tensor(v).clone()), stack)
        logits(model)
    return seen


def as_tensor(value: Any) -> torch.Tensor:
    return value[0] if isinstance(value, tuple) else value


def plainly(model: Any, act: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """The logits where every ``F.silu`` is another function."""
    original = functional.silu
    functional.silu = lambda x, *_, **__: act(x)
    try:
        return logits(model)
    finally:
        functional.silu = original


def test_functional_silu_of_lfm2_is_found() -> None:
    model = tiny("lfm2")
    mlp = model.model.layers[1].feed_forward
    entered: list[torch.Tensor] = []
    handle = mlp.register_forward_pre_hook(lambda _, args: entered.append(args[0].clone()))
    seen = observe(model, points_of(model, 1))
    handle.remove()
    gate, up = mlp.w1(entered[0]), mlp.w3(entered[0])
    assert torch.equal(seen["gate"][0], gate)
    assert torch.equal(seen["act"][0], functional.silu(gate))
    assert torch.equal(seen["product"][0], functional.silu(gate) * up)
    assert torch.equal(seen["down"][0], mlp.w2(functional.silu(gate) * up))
    assert {site: len(values) for site, values in seen.items()} == dict.fromkeys(seen, 1)


def test_channel_mix_of_rwkv_is_squared_relu_and_its_down_is_behind_the_receptance() -> None:
    model = tiny("rwkv")
    mlp = model.rwkv.blocks[1].feed_forward
    kept: dict[str, torch.Tensor] = {}
    handles = [
        mlp.key.register_forward_hook(lambda _, __, out: kept.update(key=out)),
        mlp.receptance.register_forward_hook(lambda _, __, out: kept.update(receptance=out)),
    ]
    seen = observe(model, points_of(model, 1))
    for handle in handles:
        handle.remove()
    assert [mlp.activation for mlp in find_mlps(model)] == ["ReLUSquared"] * 2
    act = kept["key"].clamp(min=0) ** 2
    assert torch.equal(seen["gate"][0], kept["key"])
    assert torch.equal(seen["act"][0], act)
    assert torch.equal(seen["product"][0], act)
    assert torch.equal(seen["down"][0], torch.sigmoid(kept["receptance"]) * mlp.value(act))


@pytest.mark.parametrize("experts", ["eager", "batched_mm", "grouped_mm"])
def test_gate_of_gpt_oss_is_interleaved_clamped_and_seen_in_every_implementation(
    experts: str,
) -> None:
    model = tiny("gpt_oss", experts)
    holder = model.model.layers[0].mlp.experts
    points = points_of(model, 0)
    projected: list[torch.Tensor] = []
    original = type(holder)._apply_gate
    holder._apply_gate = lambda x: projected.append(x.clone()) or original(holder, x)
    seen = observe(model, points)
    del holder._apply_gate
    assert sum(map(len, projected)) == IDS.numel() * 2
    assert len(projected) == len(seen["act"])
    for index, both in enumerate(projected):
        gate = both[:, 0::2].clamp(max=holder.limit)
        up = both[:, 1::2].clamp(-holder.limit, holder.limit)
        act = gate * torch.sigmoid(holder.alpha * gate)
        assert torch.equal(seen["gate"][index], gate)
        assert torch.equal(seen["act"][index], act)
        assert torch.equal(seen["product"][index], act * (up + 1))


@pytest.mark.parametrize("experts", ["eager", "batched_mm", "grouped_mm"])
def test_product_of_fused_experts_with_an_activation_module(experts: str) -> None:
    model = tiny("mixtral", experts)
    holder = model.model.layers[1].mlp.experts
    kept = observe(model, points_of(model, 1))
    # A gate that returns its other half alone shows what the activation is multiplied with.
    act_fn = type(holder.act_fn)
    original = act_fn.forward
    act_fn.forward = lambda self, x: (
        torch.ones_like(x) if self is holder.act_fn else original(self, x)
    )
    try:
        ups = observe(model, points_of(model, 1))["product"]
    finally:
        act_fn.forward = original
    product = torch.cat(kept["act"]) * torch.cat(ups)
    assert product.shape == (IDS.numel() * 2, 48)
    assert torch.equal(torch.cat(kept["product"]), product)


def test_a_shared_activation_module_is_counted_per_layer() -> None:
    model = tiny("openai-gpt")
    shared = model.transformer.h[0].mlp.act
    assert model.transformer.h[1].mlp.act is shared
    everything: list[torch.Tensor] = []
    handle = shared.register_forward_hook(lambda _, __, out: everything.append(out.clone()))
    mlps = find_mlps(model)
    assert [mlp.layer for mlp in mlps] == [0, 1]
    for layer in (0, 1):
        everything.clear()
        (act,) = observe(model, [p for p in points_of(model, layer) if p.site == "act"])["act"]
        assert torch.equal(act, everything[layer])
    everything.clear()
    with distviz.redistribute(model, ARM(c=1.0, seed=3), layers=1):
        logits(model)
    changed = [out.clone() for out in everything]
    handle.remove()
    everything.clear()
    assert torch.equal(changed[0], observe(model, points_of(model, 0))["act"][0])


def test_redistribute_replaces_what_a_function_returns() -> None:
    model = tiny("lfm2")
    arm = ARM(c=1.0, p1=90.0, seed=5)
    layers = iter((0, 1))

    def by_hand(x: torch.Tensor) -> torch.Tensor:
        act = x * torch.sigmoid(x)
        return arm.trace(torch.ops.aten.silu(x), layer=next(layers))[0] if act.ndim == 3 else act

    expected = plainly(model, by_hand)
    plain = logits(model)
    with distviz.redistribute(model, arm, layers="all"):
        found = logits(model)
    assert torch.equal(found, expected)
    assert not torch.allclose(found, plain)
    assert torch.equal(logits(model), plain)


@pytest.mark.parametrize("arm_inside", [True, False])
@pytest.mark.parametrize("name", ["lfm2", "llama", "openai-gpt"])
def test_watch_receives_the_output_of_arm_in_either_order(name: str, arm_inside: bool) -> None:
    model = tiny(name)
    arm = distviz.redistribute(model, ARM(c=1.0, seed=5), layers=0)
    watch = distviz.watch(model, 0, sites=["act", "product"])
    outer, inner = (watch, arm) if arm_inside else (arm, watch)
    with torch.no_grad(), outer as first, inner as second:
        logits(model)
    seen = first if arm_inside else second
    with distviz.watch(model, 0, sites=["act"]) as before:
        logits(model)
    after = seen.stats().set_index("site")
    assert set(after["phase"]) == {"after"}
    assert after["std"]["act"] > before.stats()["std"].item() * 1.05
    if name == "openai-gpt":  # not gated: what enters the down projection is the activation
        assert after["std"]["act"] == after["std"]["product"]


@pytest.mark.parametrize("name", ["lfm2", "openai-gpt", "rwkv"])
def test_all_hooks_are_removed_after_an_error(name: str) -> None:
    model = tiny(name)
    before = hook_count(model)
    plain = logits(model)
    mlp = find_mlps(model)[1]
    inside = next(c for c in model.get_submodule(mlp.path).children() if hasattr(c, "weight"))

    def fail(*_: Any) -> None:
        raise KeyError("torn inside")

    for context in (distviz.watch(model, sites="act,gate,product"), distviz.redistribute(model)):
        broken = inside.register_forward_hook(fail)
        with pytest.raises(KeyError, match="torn inside"), context:
            logits(model)
        broken.remove()
        assert hook_count(model) == before
        assert torch._C._len_torch_function_stack() == 0
    assert torch.equal(logits(model), plain)


def test_a_function_that_is_no_longer_called_is_an_error_that_names_the_place() -> None:
    model = tiny("lfm2")
    mlp = model.model.layers[1].feed_forward
    mlp.forward = lambda x: mlp.w2(mlp.w1(x) * mlp.w3(x))
    with (
        pytest.raises(MeasurementError, match=r"never reached.*layers\.1\.feed_forward"),
        distviz.watch(model),
    ):
        logits(model)


def test_find_mlps_does_not_change_the_model() -> None:
    model = tiny("lfm2")
    mlp = model.model.layers[0].feed_forward
    calls: list[int] = []
    handle = mlp.register_forward_hook(lambda *_: calls.append(1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    find_mlps(model)
    handle.remove()
    assert not calls
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert {value.device.type for value in model.state_dict().values()} == {"cpu"}


class Scaled(nn.Module):
    """Calls its part by names, in another order than that of its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.part = Part()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.part(factor=torch.full((1,), 100.0), hidden=x + 1)


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, hidden: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        return self.act(hidden) * factor


def test_the_input_is_the_first_parameter_also_where_it_is_given_by_name() -> None:
    net, given = Scaled(), torch.arange(6.0).reshape(2, 3)
    with torch.no_grad(), distviz.watch(net, sites="input:part") as seen:
        net(given)
    (row,) = seen.stats().to_dict("records")
    assert (row["module"], row["count"], row["min"], row["max"]) == ("part", 6, 1, 6)
    settings = {"c": 0.5, "p1": 90.0}
    with (
        torch.no_grad(),
        distviz.redistribute(net, ARM(**settings), "all", sites="input:part"),
    ):
        changed = net(given)
    kept = redistributed(random_key(-1, "input:part"), given + 1, 1, **settings)
    assert not torch.equal(kept, given + 1)
    assert torch.equal(changed, kept * 100)


def test_what_is_no_floating_point_tensor_is_refused_by_name() -> None:
    class Odd(nn.Module):
        def forward(self, *values: Any) -> Any:
            return values[0].argmax(-1) if values else None

    net = nn.Sequential(nn.ReLU(), Odd())
    with (
        pytest.raises(MeasurementError, match=r"1 \(site module:1\) returns int64, no floating-"),
        distviz.watch(net, sites="module:1"),
    ):
        net(torch.ones(2, 3))
    llama = tiny("llama")
    with (
        pytest.raises(MeasurementError, match=r"embed_tokens.* takes int64, no floating-point"),
        distviz.watch(llama, sites="input:model.embed_tokens"),
    ):
        llama(IDS)
    with (
        pytest.raises(MeasurementError, match=r"\(site input:1\) takes NoneType, no tensor"),
        distviz.watch(net, sites="input:1"),
    ):
        net[1]()
