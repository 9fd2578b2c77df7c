"""`redistribute` at any site, against plain hooks on modules that are named here by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.padded_models import padded, tiny
from support.tiny_experts import FAMILIES, call, tiny_experts

import distviz
from distviz.arm.arm import ARM, random_key
from distviz.arm.controls import make_redistribution
from distviz.errors import MeasurementError, RequestError
from distviz.hooks.redistribution import Redistribution
from distviz.hooks.token_tracker import Tracker
from distviz.sites import HookPoint

Where = tuple[str, str, tuple[int, int] | None]
LLAMA: dict[str, list[Where]] = {
    "attn_in": [(f"model.layers.{{}}.self_attn.{name}_proj", "input", None) for name in "qkv"],
    "mlp_in": [(f"model.layers.{{}}.mlp.{name}_proj", "input", None) for name in ("gate", "up")],
    "gate": [("model.layers.{}.mlp.act_fn", "input", None)],
    "act": [("model.layers.{}.mlp.act_fn", "output", None)],
    "up": [("model.layers.{}.mlp.up_proj", "output", None)],
    "product": [("model.layers.{}.mlp.down_proj", "input", None)],
    "down": [("model.layers.{}.mlp.down_proj", "output", None)],
    "q": [("model.layers.{}.self_attn.q_proj", "output", None)],
    "k": [("model.layers.{}.self_attn.k_proj", "output", None)],
    "v": [("model.layers.{}.self_attn.v_proj", "output", None)],
    "attention": [("model.layers.{}.self_attn.o_proj", "input", None)],
    "residual": [("model.layers.{}", "output", None)],
    "module:*.o_proj": [("model.layers.{}.self_attn.o_proj", "output", None)],
}
GPT2: dict[str, list[Where]] = {
    "attn_in": [("transformer.h.{}.attn.c_attn", "input", None)],
    "mlp_in": [("transformer.h.{}.mlp.c_fc", "input", None)],
    "gate": [("transformer.h.{}.mlp.act", "input", None)],
    "product": [("transformer.h.{}.mlp.c_proj", "input", None)],
    "q": [("transformer.h.{}.attn.c_attn", "output", (0, 32))],
    "k": [("transformer.h.{}.attn.c_attn", "output", (32, 64))],
    "v": [("transformer.h.{}.attn.c_attn", "output", (64, 96))],
    "attention": [("transformer.h.{}.attn.c_proj", "input", None)],
    "residual": [("transformer.h.{}", "output", None)],
}
CASES = [("llama", site) for site in LLAMA] + [("gpt2", site) for site in GPT2]


def zeroed(values: torch.Tensor, mask: torch.Tensor, limit: float) -> torch.Tensor:
    small = (values.abs() <= limit) & mask.bool().reshape(*values.shape[:2], 1)
    return values.masked_fill(small, 0.0)


def hook_by_hand(
    model: Any, where: Where, layer: int, change: Callable[[torch.Tensor], torch.Tensor]
) -> Any:
    path, side, part = where
    module = model.get_submodule(path.format(layer))

    def changed(whole: torch.Tensor) -> torch.Tensor:
        made = whole.clone()
        own = slice(*part) if part else slice(None)
        made[..., own] = change(whole[..., own])
        return made

    def after(_m: Any, _a: Any, out: Any) -> Any:
        if isinstance(out, tuple):
            return (changed(out[0]), *out[1:])
        return changed(out)

    if side == "output":
        return module.register_forward_hook(after)
    return module.register_forward_pre_hook(lambda _m, args: (changed(args[0]), *args[1:]))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(("name", "site"), CASES)
def test_values_at_a_site_are_replaced_for_what_follows(name: str, site: str, side: str) -> None:
    model = tiny(name)
    ids, mask = padded(side)
    limit = 0.02
    cutoff = make_redistribution(f"threshold:{limit}", ARM())
    sites = (LLAMA if name == "llama" else GPT2)[site]
    with torch.no_grad():
        plain = model(input_ids=ids, attention_mask=mask)[0]
        with distviz.redistribute(model, cutoff, layers=[0, 2], sites=site):
            found = model(input_ids=ids, attention_mask=mask)[0]
        hooks = [
            hook_by_hand(model, where, layer, lambda x: zeroed(x, mask, limit))
            for where in sites
            for layer in (0, 2)
        ]
        expected = model(input_ids=ids, attention_mask=mask)[0]
        for hook in hooks:
            hook.remove()
        again = model(input_ids=ids, attention_mask=mask)[0]
    kept = mask.bool()
    assert torch.equal(found[kept], expected[kept])
    assert not torch.equal(found[kept], plain[kept])
    assert torch.equal(again, plain)


@pytest.mark.parametrize("site", ["product", "q", "residual"])
def test_what_is_observed_at_the_site_is_the_replacement(site: str) -> None:
    model = tiny("gpt2")
    ids, mask = padded("right")
    with torch.no_grad(), distviz.watch(model, layers=[0], sites=[site]) as seen:
        model(input_ids=ids, attention_mask=mask)
        with distviz.redistribute(
            model, make_redistribution("threshold:1e9", ARM()), layers=0, sites=[site]
        ):
            model(input_ids=ids, attention_mask=mask)
    stats = seen.stats().set_index("phase")
    assert (
        stats.loc["after", "zeros"] == stats.loc["after", "count"] == stats.loc["before", "count"]
    )
    assert stats.loc["before", "zeros"] == 0


def test_random_numbers_differ_between_sites_and_stay_those_of_act() -> None:
    assert random_key(7, "act") == 7
    keys = {random_key(layer, site) for layer in (-1, 0, 7) for site in (*LLAMA, *GPT2)}
    assert len(keys) == 3 * len({*LLAMA, *GPT2})
    assert all(-(2**63) <= key < 2**63 for key in keys)


@pytest.mark.parametrize("name", [name for name in FAMILIES if FAMILIES[name].switchable])
@pytest.mark.parametrize("implementation", ["grouped_mm", "eager"])
def test_routed_experts_continue_with_the_replacement(name: str, implementation: str) -> None:
    """All zeros in front of the down projection leave what its bias alone gives."""
    model = tiny_experts(name, implementation)
    ids = torch.randint(3, 60, (2, 7), generator=torch.Generator().manual_seed(0))
    layer = FAMILIES[name].layer
    zeros = make_redistribution("threshold:1e9", ARM())
    plain = call(name, model, ids)[0]
    with distviz.redistribute(model, zeros, layers=[layer], sites=["product"]):
        found = call(name, model, ids)[0]
    points = distviz.hooks.observation.choose_points(model, ["product"], layer)
    experts = {point.experts for point in points if point.experts}
    with torch.no_grad():
        for path, module in model.named_modules():
            if path in experts:
                module.down_proj.zero_()
            elif any(path == point.module for point in points if not point.experts):
                module.weight.zero_()
    if implementation == "eager":
        model.set_experts_implementation("grouped_mm")
    expected = call(name, model, ids)[0]
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert not torch.equal(found, plain)


def test_sites_that_cannot_be_replaced_are_refused_by_name() -> None:
    model = tiny("llama")
    with (
        pytest.raises(RequestError, match=r"site module:lm_head .*language head"),
        distviz.redistribute(model, sites="module:lm_head"),
    ):
        pass
    functional = tiny_functional()
    with (
        pytest.raises(RequestError, match=r"site gate .*as a function"),
        distviz.redistribute(functional, sites="gate"),
    ):
        pass


class FunctionalMlp(torch.nn.Module):
    """Applies its activation as a function, as several model types do."""

    def __init__(self, like: Any) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = like.gate_proj, like.up_proj, like.down_proj

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(torch.nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


def tiny_functional() -> Any:
    model = tiny("llama")
    for layer in model.model.layers:
        layer.mlp = FunctionalMlp(layer.mlp)
    return model


@pytest.mark.parametrize("site", ["act", "product", "up"])
def test_an_activation_applied_as_a_function(site: str) -> None:
    ids, mask = padded("right")
    cutoff = make_redistribution("threshold:0.02", ARM())
    found = []
    for model in (tiny("llama"), tiny_functional()):
        with torch.no_grad(), distviz.redistribute(model, cutoff, layers=[0, 2], sites=site):
            found.append(model(input_ids=ids, attention_mask=mask)[0])
    assert torch.equal(*found)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_tensor_that_enters_several_modules_is_replaced_for_each(side: str) -> None:
    model, (ids, mask) = tiny("llama"), padded(side)
    names = ("q_proj", "k_proj", "v_proj")
    paths = tuple(f"model.layers.1.self_attn.{name}" for name in names)
    cutoff, seen = make_redistribution("threshold:0.5", ARM()), []
    point = HookPoint(1, "decoder", "attn_in", paths[1], "input", also=(paths[0], paths[2]))

    def report(*parts: Any) -> None:
        seen.append(parts[1])

    work = Redistribution(cutoff, [point], Tracker(), report=report)
    with torch.no_grad():
        with work.active(model):
            found = model(input_ids=ids, attention_mask=mask)[0]
        for path in paths:
            where: Where = (path, "input", None)
            hook_by_hand(model, where, 1, lambda x: zeroed(x, mask, 0.5))
        expected = model(input_ids=ids, attention_mask=mask)[0]
    assert torch.equal(found[mask.bool()], expected[mask.bool()])
    assert len(seen) == 1


def test_another_tensor_than_the_point_s_is_refused() -> None:
    model, (ids, mask) = tiny("llama"), padded("right")
    point = HookPoint(
        0, "decoder", "attn_in", "model.layers.0.self_attn.q_proj", "input",
        also=("model.layers.0.mlp.up_proj",),
    )  # fmt: skip
    work = Redistribution(make_redistribution("threshold:0.5", ARM()), [point], Tracker())
    with torch.no_grad(), work.active(model), pytest.raises(MeasurementError, match="as well"):
        model(input_ids=ids, attention_mask=mask)
