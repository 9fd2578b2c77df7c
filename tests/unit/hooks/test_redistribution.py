"""watch and redistribute on any model, by any caller: what is seen, changed, and left behind."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from support.brute_force import (
    assert_stats,
    eps_of,
    gini_of,
    hook_count,
    keeping,
    on_grid,
    raw,
    uniforms,
)
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

import distviz
from distviz.arm.arm import ARM
from distviz.errors import MeasurementError, RequestError

if TYPE_CHECKING:
    from pathlib import Path

SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": SIZES | {"num_key_value_heads": 2},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_inner": 48, "vocab_size": 64,
             "bos_token_id": 1, "eos_token_id": 2},
    "bert": SIZES,
    "opt": SIZES | {"ffn_dim": 48, "word_embed_proj_dim": 32},
}  # fmt: skip
ACTS = {
    "llama": "model.layers.{}.mlp.act_fn",
    "gpt2": "transformer.h.{}.mlp.act",
    "bert": "encoder.layer.{}.intermediate.intermediate_act_fn",
    "opt": "model.decoder.layers.{}.activation_fn",
}
NAMES = sorted(CONFIGS)
CAUSAL = ["gpt2", "llama", "opt"]


def tiny(name: str, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(3)
    config = AutoConfig.for_model(name, **CONFIGS[name])
    auto = AutoModel if name == "bert" else AutoModelForCausalLM
    return auto.from_config(config, attn_implementation="eager").to(dtype).eval()


def acts(name: str) -> dict[str, tuple[str, str]]:
    return {str(layer): (ACTS[name].format(layer), "output") for layer in range(3)}


def padded(side: str, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Three rows of 9, 4 and 6 tokens; ids are never the pad token's."""
    ids = torch.randint(3, 64, (3, 9), generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros(3, 9, dtype=torch.int64)
    for row, size in enumerate((9, 4, 6)):
        mask[row, slice(None, size) if side == "right" else slice(9 - size, None)] = 1
    return ids, mask


def kept_rows(tensor: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1, tensor.shape[-1])[mask.reshape(-1).bool()]


@pytest.fixture(params=NAMES)
def named(request: pytest.FixtureRequest) -> tuple[str, Any]:
    return request.param, tiny(request.param)


# watch --------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_watch_is_what_plain_hooks_see_without_padding(
    name: str, dtype: torch.dtype, side: str
) -> None:
    model = tiny(name, dtype)
    calls = [padded(side, seed) for seed in (0, 1)]
    with torch.no_grad(), keeping(model, acts(name)) as kept:
        for ids, mask in calls:
            model(input_ids=ids, attention_mask=mask)
    with torch.no_grad(), distviz.watch(model) as seen:
        for ids, mask in calls:
            model(input_ids=ids, attention_mask=mask)
    stats = seen.stats()
    assert set(stats["phase"]) == {"before"}
    assert stats["layer"].tolist() == [0, 1, 2]
    run = seen.run()
    for row in stats.to_dict("records"):
        tensors = kept[str(row["layer"])]
        rows = [kept_rows(t, mask) for t, (_, mask) in zip(tensors, calls, strict=True)]
        values = raw(rows)
        assert_stats(row, values, eps_of(values))
        assert row["module"] == ACTS[name].format(row["layer"])
        channels = run.channels[run.channels["layer"] == row["layer"]]
        together = torch.cat(rows).double().numpy()
        np.testing.assert_allclose(channels["mean"], together.mean(axis=0), rtol=1e-5, atol=1e-8)
        np.testing.assert_array_equal(channels["max"], together.max(axis=0))
        documents = run.documents[run.documents["layer"] == row["layer"]]
        sizes = [9, 4, 6] * 2
        assert documents["document"].tolist() == list(range(6))
        assert documents["count"].tolist() == [size * 48 for size in sizes]
        ends = np.cumsum([0, *sizes])
        for number, one in enumerate(documents.to_dict("records")):
            x = on_grid(together[ends[number] : ends[number + 1]].reshape(-1))
            assert one["gini"] == pytest.approx(gini_of(x), rel=1e-9)
            assert one["eps"] == pytest.approx(eps_of(x), rel=1e-12)


@pytest.mark.parametrize("how", ["positional", "embeds", "no mask", "4-D mask", "bool mask"])
def test_the_mask_is_read_from_the_call(how: str) -> None:
    model = tiny("llama")
    ids, mask = padded("right")
    with torch.no_grad(), keeping(model, acts("llama")) as kept, distviz.watch(model) as seen:
        if how == "positional":
            model(ids, mask)
        elif how == "embeds":
            model(inputs_embeds=model.get_input_embeddings()(ids), attention_mask=mask)
        elif how == "no mask":
            model(ids)
            mask = torch.ones_like(mask)
        elif how == "bool mask":
            model(ids, attention_mask=mask.bool())
        else:
            causal = torch.ones(9, 9).tril().bool()[None, None]
            allowed = causal & mask[:, None, None].bool()
            additive = torch.where(allowed, 0.0, torch.finfo(torch.float32).min)
            model(ids, attention_mask=additive)
    for row in seen.stats().to_dict("records"):
        values = raw([kept_rows(kept[str(row["layer"])][0], mask)])
        assert_stats(row, values, eps_of(values))


def test_c_is_the_width_of_the_band() -> None:
    model = tiny("llama")
    with (
        torch.no_grad(),
        keeping(model, acts("llama")) as kept,
        distviz.watch(model, c=0.4) as seen,
    ):
        model(torch.arange(3, 20)[None])
    for row in seen.stats().to_dict("records"):
        values = raw(kept[str(row["layer"])])
        assert_stats(row, values, eps_of(values, 0.4))
    assert seen.run().documents["eps"].tolist() == pytest.approx(seen.stats()["eps"].tolist())


@pytest.mark.parametrize("layers", ["0,2", [2, 0], (0, 2), {0, 2}])
def test_layers_may_be_given_in_many_ways(layers: Any) -> None:
    model = tiny("gpt2")
    with torch.no_grad(), distviz.watch(model, layers) as seen:
        model(torch.arange(3, 9)[None])
    assert seen.stats()["layer"].tolist() == [0, 2]
    with torch.no_grad(), distviz.watch(model, 1, sites=["gate", "down"]) as seen:
        model(torch.arange(3, 9)[None])
    assert seen.stats()[["layer", "site"]].to_numpy().tolist() == [[1, "gate"], [1, "down"]]


def test_looking_twice_does_not_change_what_is_seen() -> None:
    """`stats()` in the middle of a generation: the documents go on."""
    model = tiny("llama")

    def generate(*, looks: bool) -> Any:
        with torch.no_grad(), distviz.watch(model) as seen:
            output = model(torch.arange(3, 9)[None], use_cache=True)
            if looks:
                seen.stats()
            model(torch.tensor([[9]]), past_key_values=output.past_key_values)
        return seen.run()

    plain, looked = generate(looks=False), generate(looks=True)
    assert looked.merged == plain.merged
    assert looked.documents["count"].tolist() == plain.documents["count"].tolist()


def test_a_run_taken_earlier_does_not_grow() -> None:
    model = tiny("llama")
    with torch.no_grad(), distviz.watch(model) as seen:
        model(torch.arange(3, 9)[None])
        early = seen.run()
        model(torch.arange(3, 9)[None])
    assert set(early.stats()["count"]) == {6 * 48}
    assert set(seen.stats()["count"]) == {12 * 48}


# Leaving ------------------------------------------------------------------------------------


def test_hooks_come_off(named: tuple[str, Any]) -> None:
    _, model = named
    before = hook_count(model)
    with torch.no_grad(), distviz.watch(model, sites="act,down,residual") as seen:
        assert hook_count(model) > before
        model(input_ids=torch.arange(3, 9)[None])
    assert hook_count(model) == before
    with torch.no_grad(), distviz.redistribute(model, layers="all"):
        assert hook_count(model) > before
        model(input_ids=torch.arange(3, 9)[None])
    assert hook_count(model) == before
    count = seen.stats()["count"].sum()
    with torch.no_grad():
        model(input_ids=torch.arange(3, 9)[None])
    assert seen.stats()["count"].sum() == count


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_hooks_come_off_after_an_error(named: tuple[str, Any], error: type) -> None:
    name, model = named
    before = hook_count(model)
    ids = torch.arange(3, 9)[None]
    with torch.no_grad():
        plain = model(input_ids=ids)[0]
    for context in (distviz.watch(model), distviz.redistribute(model)):
        with pytest.raises(error, match="torn"), context:
            raise error("torn")
        assert hook_count(model) == before

    def fail(*_: Any) -> None:
        raise error("torn inside")

    broken = model.get_submodule(ACTS[name].format(1)).register_forward_hook(fail)
    for context in (distviz.watch(model), distviz.redistribute(model)):
        with pytest.raises(error, match="torn inside"), context:
            model(input_ids=ids)
    broken.remove()
    assert hook_count(model) == before
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids)[0], plain)


def test_an_error_inside_one_call_does_not_disturb_the_next() -> None:
    model = tiny("llama")
    ids, mask = padded("left")
    with torch.no_grad(), keeping(model, acts("llama")) as kept:
        model(ids, attention_mask=mask)
    with torch.no_grad(), distviz.watch(model, 1) as seen:
        with pytest.raises(IndexError, match="out of range"):
            model(torch.tensor([[3, 999]]))
        model(ids, attention_mask=mask)
    (row,) = seen.stats().to_dict("records")
    values = raw([kept_rows(kept["1"][0], mask)])
    assert_stats(row, values, eps_of(values))


class Skipping(nn.Module):
    """Stands in for a fused kernel: computes the MLP without calling its activation module."""

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.act_fn, self.inner = mlp.act_fn, [mlp]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mlp = self.inner[0]
        gate = torch.nn.functional.silu(mlp.gate_proj(x))
        return mlp.down_proj(gate * mlp.up_proj(x))


def test_a_place_that_never_fires_is_an_error_that_names_it() -> None:
    model = tiny("llama")
    before = hook_count(model)
    ids = torch.arange(3, 9)[None]
    original = model.model.layers[1].mlp.forward
    skipping = Skipping(model.model.layers[1].mlp)
    model.model.layers[1].mlp.forward = skipping.forward
    with (
        torch.no_grad(),
        pytest.raises(MeasurementError, match=r"never reached.*model\.layers\.1\.mlp\.act_fn"),
        distviz.watch(model),
    ):
        model(ids)
    with (
        torch.no_grad(),
        pytest.raises(MeasurementError, match=r"never reached.*model\.layers\.1\.mlp\.act_fn"),
        distviz.redistribute(model, layers=1),
    ):
        model(ids)
    assert hook_count(model) == before
    with distviz.watch(model), distviz.redistribute(model, layers=1):
        pass  # never called, nothing to complain of
    model.model.layers[1].mlp.forward = original


@pytest.mark.parametrize("open_it", [distviz.watch, distviz.redistribute])
def test_what_does_not_exist_is_refused(open_it: Any) -> None:
    model = tiny("llama")
    before = hook_count(model)
    for layers, match in [
        ("3", "layer 3 does not exist"),
        ([0, 7], "layer 7 does not exist"),
        ("x", "not a list of layers"),
        (-1, "not a list of layers|does not exist"),
    ]:
        with pytest.raises(RequestError, match=match), open_it(model, layers=layers):
            pass
    with pytest.raises(RequestError, match="no MLP activation"), open_it(nn.Linear(2, 2)):
        pass
    assert hook_count(model) == before


def test_sites_and_steps_that_do_not_exist() -> None:
    model = tiny("gpt2")
    with pytest.raises(RequestError, match="site 'up'"), distviz.watch(model, sites="up"):
        pass
    with pytest.raises(RequestError, match="unknown site"), distviz.watch(model, sites=["acts"]):
        pass
    with pytest.raises(RequestError, match="on is 'always'"):
        distviz.redistribute(model, on="always").__enter__()


# redistribute -------------------------------------------------------------------------------

WHOLE = ARM(fraction=1.0, p1=100.0, seed=11)
"""Every value moves, to u times the largest (or smallest) of its sequence."""


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
    seen: dict[str, torch.Tensor] = {}
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
        seen[side] = kept_rows(kept["0"][0], mask)
    torch.testing.assert_close(seen["left"], seen["right"], rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("padding", [False, True])
def test_the_numbers_go_on_over_the_steps_of_a_cache(name: str, padding: bool) -> None:
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
    seen = second if inner == "watch" else first
    stats = seen.stats()
    assert set(stats["phase"]) == {"after"}
    for row in stats.to_dict("records"):
        values = raw([kept_rows(kept[str(row["layer"])][0], mask)])
        assert_stats(row, values, eps_of(values))


@pytest.mark.parametrize("order", [["before", "after"], ["after", "before"]])
def test_both_phases_in_one_watch_share_their_documents(order: list[str]) -> None:
    model = tiny("llama")
    calls = [padded("right", seed) for seed in (0, 1)]
    kept_by_phase: dict[str, Any] = {}
    with torch.no_grad(), distviz.watch(model, 0) as seen:
        for phase in order:
            with keeping(model, {"0": acts("llama")["0"]}) as kept:
                for ids, mask in calls:
                    if phase == "before":
                        model(ids, attention_mask=mask)
                    else:
                        with distviz.redistribute(model, ARM(seed=3)):
                            model(ids, attention_mask=mask)
            kept_by_phase[phase] = kept
    rows = [
        t[row][mask[row].bool()]
        for t, (_, mask) in zip(kept_by_phase["before"]["0"], calls, strict=True)
        for row in range(3)
    ]
    eps = eps_of(raw(rows))
    stats = seen.stats().set_index("phase")
    assert stats["eps"].tolist() == pytest.approx([eps, eps], rel=1e-12)
    documents = seen.run().documents
    assert sorted(documents["document"].tolist()) == sorted([*range(6)] * 2)
    for row in documents.to_dict("records"):
        if row["phase"] == "after" and order[0] == "after" and row["document"] < 3:
            # Closed before its own `before` was seen: nothing is better than another eps.
            assert np.isnan(row["eps"])
            assert np.isnan(row["near_zero"])
            continue
        own = eps_of(raw([rows[row["document"]]]))
        assert row["eps"] == pytest.approx(own, rel=1e-12), row["phase"]


def test_the_phase_is_after_for_a_part_of_the_model_too() -> None:
    """ARM on the whole, the watch on its base model (or the reverse): ARM writes all the same."""
    model = tiny("llama")
    ids = torch.arange(3, 9)[None]
    with torch.no_grad(), distviz.redistribute(model, WHOLE), distviz.watch(model.model) as seen:
        model(ids)
    assert set(seen.stats()["phase"]) == {"after"}


def test_the_base_model_may_be_called_alone() -> None:
    model = tiny("llama")
    ids, mask = padded("left")
    with torch.no_grad(), distviz.watch(model, 0) as seen:
        model.model(ids, attention_mask=mask)
    assert seen.stats()["count"].tolist() == [int(mask.sum()) * 48]
    with (
        torch.no_grad(),
        pytest.raises(MeasurementError, match="outside a call"),
        distviz.watch(model, 0),
    ):
        model.model.layers[0].mlp(torch.randn(1, 4, 32))


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


def test_watching_under_autograd_changes_nothing() -> None:
    model = tiny("gpt2")
    model.requires_grad_(True)
    ids = torch.arange(3, 12)[None]
    plain = model(ids, labels=ids).loss
    plain.backward()
    wanted = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with distviz.watch(model, sites="act,gate,down,residual"):
        loss = model(ids, labels=ids).loss
        loss.backward()
    assert torch.equal(loss, plain)
    for parameter, grad in zip(model.parameters(), wanted, strict=True):
        assert torch.equal(parameter.grad, grad)


def test_the_mode_of_the_model_is_left_alone() -> None:
    model = tiny("llama").train()
    with torch.no_grad(), distviz.watch(model), distviz.redistribute(model):
        model(torch.arange(3, 9)[None])
    assert model.training


def test_nan_and_infinite_values_are_counted_and_passed_through() -> None:
    model = tiny("llama")
    poison = torch.tensor([math.nan, math.inf, -math.inf, 1.0])
    module = model.get_submodule(acts("llama")["0"][0])

    def spoil(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[0, 0, :4] = poison
        return output

    handle = module.register_forward_hook(spoil)
    with torch.no_grad(), distviz.watch(model, 0) as seen:
        model(torch.arange(3, 9)[None])
    handle.remove()
    (row,) = seen.stats().to_dict("records")
    assert (row["nan"], row["inf"], row["count"]) == (1, 2, 6 * 48 - 3)
    assert math.isfinite(row["mean"])


def test_inside_a_pipeline(demo_folder: Path) -> None:
    from transformers import AutoTokenizer, pipeline

    model = AutoModelForCausalLM.from_pretrained(demo_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(demo_folder, padding_side="left")
    generator = pipeline("text-generation", model=model, tokenizer=tokenizer, device="cpu")
    prompts = ["Anna had 12 apples, so", "If it rains"]
    before = hook_count(model)
    options: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "batch_size": 2}
    plain = generator(prompts, **options)
    with distviz.redistribute(model, ARM(fraction=0.9), layers="all"), distviz.watch(model) as seen:
        changed = generator(prompts, **options)
    assert hook_count(model) == before
    assert changed != plain
    assert generator(prompts, **options) == plain
    stats = seen.stats()
    assert set(stats["phase"]) == {"after"}
    tokens = sum(len(tokenizer(prompt)["input_ids"]) for prompt in prompts) + 2 * 4
    assert set(stats["count"]) == {tokens * 384}
    assert len(seen.run().documents) == 2 * 6


def test_rows_of_a_beam_search_are_rows() -> None:
    model = tiny("llama")
    with torch.no_grad(), distviz.watch(model, 0) as seen, distviz.redistribute(model, WHOLE):
        model.generate(
            torch.arange(3, 9)[None], num_beams=3, max_new_tokens=3, min_new_tokens=3,
            do_sample=False, pad_token_id=0,
        )  # fmt: skip
    documents = seen.run().documents
    assert documents["document"].tolist() == [0, 1, 2]
    assert documents["count"].tolist() == [(6 + 2) * 48] * 3
