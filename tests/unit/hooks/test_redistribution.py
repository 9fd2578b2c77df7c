"""`redistribute` on any model, called in any way, against ARM computed step by step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from support.brute_force import (
    assert_stats,
    eps_of,
    hook_count,
    keeping,
    raw,
    uniforms,
)
from support.padded_models import ACTS, CAUSAL, NAMES, WHOLE, acts, kept_rows, padded, tiny

import distviz
from distviz.arm.arm import ARM
from distviz.errors import RequestError


def test_sites_and_steps_that_do_not_exist() -> None:
    model = tiny("gpt2")
    with pytest.raises(RequestError, match="site 'up'"), distviz.watch(model, sites="up"):
        pass
    with pytest.raises(RequestError, match="unknown site"), distviz.watch(model, sites=["acts"]):
        pass
    with pytest.raises(RequestError, match="on is 'always'"):
        distviz.redistribute(model, on="always").__enter__()


def by_hand(
    output: torch.Tensor, rows: int, mask: torch.Tensor, layer: int, start: int = 0, seed: int = 11
) -> torch.Tensor:
    """What WHOLE makes of an activation: document = row, token = index among unpadded tokens."""
    whole = output.reshape(rows, -1, output.shape[-1]).clone()
    for row in range(rows):
        taken = mask[row].bool()
        x = whole[row][taken].double().numpy()
        upper, lower = max(x.max(), 0.0), min(x.min(), 0.0)
        u = np.stack([
            uniforms([seed, layer, 0, 0, row, start + index], x.shape[1]) for index in range(len(x))
        ])  # fmt: skip
        bound = np.where(x >= 0, np.float32(upper), np.float32(lower)).astype(np.float32)
        whole[row][taken] = torch.from_numpy(u * bound).to(output.dtype)
    return whole.reshape(output.shape)


@pytest.mark.parametrize("side", ["right", "left"])
def test_redistribute_by_hand(named: tuple[str, Any], side: str) -> None:
    name, model = named
    ids, mask = padded(side)
    with torch.no_grad(), distviz.redistribute(model, WHOLE, layers=[0, 2]):
        found = model(input_ids=ids, attention_mask=mask)[0]
    hooks = [
        model.get_submodule(ACTS[name].format(layer)).register_forward_hook(
            lambda _, __, out, n=layer: by_hand(out, 3, mask, n)
        )
        for layer in (0, 2)
    ]
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask)[0]
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        plain = model(input_ids=ids, attention_mask=mask)[0]
    kept = mask.bool()
    assert torch.equal(found[kept], expected[kept])
    assert not torch.allclose(found[kept], plain[kept])


@pytest.mark.parametrize("name", CAUSAL)
def test_left_and_right_padding_give_a_token_the_same_numbers(name: str) -> None:
    model = tiny(name)
    watched: dict[str, torch.Tensor] = {}
    for side in ("left", "right"):
        ids, mask = padded("right")
        if side == "left":
            moved, flipped = torch.zeros_like(ids), padded("left")[1]
            for row in range(3):
                moved[row][flipped[row].bool()] = ids[row][mask[row].bool()]
            ids, mask = moved, flipped
        # p1 = 0 and upper = 0 would hide it; the u are read from what the activation gave
        with (
            torch.no_grad(),
            distviz.redistribute(model, WHOLE),
            keeping(model, {"0": acts(name)["0"]}) as kept,
        ):
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            extra = {} if name == "opt" else {"position_ids": positions}
            model(input_ids=ids, attention_mask=mask, **extra)
        watched[side] = kept_rows(kept["0"][0], mask)
    torch.testing.assert_close(watched["left"], watched["right"], rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("padding", [False, True])
def test_random_numbers_continue_over_the_steps_of_a_cache(name: str, padding: bool) -> None:
    """One token a step gives each token the u that the whole sequence would give it."""
    model = tiny(name)
    ids = torch.randint(3, 64, (2, 5), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    if padding:
        mask[1, :2] = 0
    with (
        torch.no_grad(),
        distviz.redistribute(model, WHOLE, layers=0),
        keeping(model, {"0": acts(name)["0"]}) as kept,
    ):
        model.generate(
            ids, attention_mask=mask, max_new_tokens=4, min_new_tokens=4, do_sample=False,
            pad_token_id=0,
        )  # fmt: skip
    steps = [tensor.reshape(2, -1, 48) for tensor in kept["0"]]
    assert [step.shape[1] for step in steps] == [5, 1, 1, 1]
    for row in range(2):
        size = int(mask[row].sum())
        for number, step in enumerate(steps):
            values = step[row][mask[row].bool()] if number == 0 else step[row]
            first = 0 if number == 0 else size + number - 1
            u = np.stack([
                uniforms([11, 0, 0, 0, row, first + i], 48) for i in range(len(values))
            ])  # fmt: skip
            x = values.numpy()
            positive = x > 0
            for side in (positive, x < 0):
                if side.sum() < 2:
                    continue
                bounds = x[side] / u[side]  # the same bound for all of one sequence and sign
                np.testing.assert_allclose(bounds, bounds[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("on", "changed"), [("prefill", [0]), ("decode", [1, 2]), ("both", [0, 1, 2])]
)
def test_prefill_and_decode(on: str, changed: list[int]) -> None:
    model = tiny("llama")
    ids = torch.arange(3, 9)[None]
    layer = {"in": ("model.layers.0.mlp.act_fn", "input"), "out": acts("llama")["0"]}
    before = hook_count(model)
    with torch.no_grad(), distviz.redistribute(model, WHOLE, on=on), keeping(model, layer) as kept:
        model.generate(ids, max_new_tokens=3, min_new_tokens=3, do_sample=False, pad_token_id=0)
    assert hook_count(model) == before
    assert [tensor.shape[1] for tensor in kept["out"]] == [6, 1, 1]
    untouched = [
        bool(torch.equal(torch.nn.functional.silu(x), y))
        for x, y in zip(kept["in"], kept["out"], strict=True)
    ]
    assert [number for number, same in enumerate(untouched) if not same] == changed


def test_on_decode_needs_no_decode_step() -> None:
    """A prefill alone is no error: the place was reached."""
    model = tiny("llama")
    with torch.no_grad():
        plain = model(torch.arange(3, 9)[None])[0]
        with distviz.redistribute(model, on="decode"):
            assert torch.equal(model(torch.arange(3, 9)[None])[0], plain)


@pytest.mark.parametrize("inner", ["watch", "redistribute"])
@pytest.mark.parametrize("name", NAMES)
def test_nested_either_way_the_phase_is_after(inner: str, name: str) -> None:
    model = tiny(name)
    ids, mask = padded("left")
    hook = model.get_submodule(ACTS[name].format(0)).register_forward_hook(
        lambda _, __, out: by_hand(out, 3, mask, 0)
    )
    with torch.no_grad(), keeping(model, acts(name)) as kept:
        model(input_ids=ids, attention_mask=mask)
    hook.remove()
    contexts = [lambda: distviz.watch(model), lambda: distviz.redistribute(model, WHOLE)]
    if inner == "watch":
        contexts.reverse()
    with torch.no_grad(), contexts[0]() as first, contexts[1]() as second:
        model(input_ids=ids, attention_mask=mask)
    watched = second if inner == "watch" else first
    stats = watched.stats()
    assert set(stats["phase"]) == {"after"}
    for row in stats.to_dict("records"):
        values = raw([kept_rows(kept[str(row["layer"])][0], mask)])
        assert_stats(row, values, eps_of(values))


def test_two_redistributions_on_different_layers() -> None:
    model = tiny("llama")
    ids = torch.arange(3, 12)[None]
    with torch.no_grad(), distviz.redistribute(model, WHOLE, layers=[0, 2]):
        together = model(ids)[0]
    with (
        torch.no_grad(),
        distviz.redistribute(model, WHOLE, layers=0),
        distviz.redistribute(model, WHOLE, layers=2),
    ):
        apart = model(ids)[0]
    assert torch.equal(together, apart)


def test_seed_and_layer_are_keys() -> None:
    model = tiny("llama")
    ids = torch.arange(3, 12)[None]

    def logits(seed: int, layer: int = 0) -> torch.Tensor:
        with torch.no_grad(), distviz.redistribute(model, ARM(seed=seed), layers=layer):
            return model(ids)[0]

    assert torch.equal(logits(1), logits(1))
    assert not torch.equal(logits(1), logits(2))
    assert not torch.equal(logits(1), logits(1, layer=1))


@pytest.mark.parametrize("mode", ["replace", "add"])
def test_gradients_flow_through_what_was_not_moved(mode: str) -> None:
    """A moved value is a constant (mode add: its old value plus a constant)."""
    model = tiny("llama")
    model.requires_grad_(True)
    ids = torch.arange(3, 12)[None]
    arm = ARM(c=1.0, mode=mode, seed=2)
    module = model.get_submodule(acts("llama")["0"][0])
    kept: dict[str, torch.Tensor] = {}

    def remember(_: Any, args: Any, output: torch.Tensor) -> None:
        kept["act"] = output
        output.retain_grad()

    handle = module.register_forward_hook(remember)
    with distviz.redistribute(model, arm):
        loss = model(ids, labels=ids).loss
    loss.backward()
    handle.remove()
    grads = [p.grad for p in model.parameters()]
    assert all(grad is not None and bool(torch.isfinite(grad).all()) for grad in grads)
    # the same thing in plain torch
    model.zero_grad()
    gate = {}

    def plainly(_: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        gate["x"] = output
        new, _, moved = arm.trace(output.detach())
        keep = torch.zeros(output.shape, dtype=torch.bool) if moved is None else moved.bool()
        shifted = output + (new - output.detach()) if mode == "add" else new
        return torch.where(keep, shifted, output)

    handle = module.register_forward_hook(plainly)
    expected = model(ids, labels=ids).loss
    expected.backward()
    handle.remove()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for found, parameter in zip(grads, model.parameters(), strict=True):
        torch.testing.assert_close(found, parameter.grad, rtol=1e-4, atol=1e-6)


def test_nan_and_infinite_values_are_counted_and_passed_through() -> None:
    model = tiny("llama")
    poison = torch.tensor([math.nan, math.inf, -math.inf, 1.0])
    module = model.get_submodule(acts("llama")["0"][0])

    def spoil(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[0, 0, :4] = poison
        return output

    handle = module.register_forward_hook(spoil)
    with torch.no_grad(), distviz.watch(model, 0) as watched:
        model(torch.arange(3, 9)[None])
    handle.remove()
    (row,) = watched.stats().to_dict("records")
    assert (row["nan"], row["inf"], row["count"]) == (1, 2, 6 * 48 - 3)
    assert math.isfinite(row["mean"])
