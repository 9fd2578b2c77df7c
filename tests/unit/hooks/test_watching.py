"""`watch` on any model, called in any way, against plain hooks and NumPy."""

from __future__ import annotations

import inspect
from contextlib import suppress
from pathlib import Path
from typing import Any

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
)
from support.padded_models import ACTS, NAMES, WHOLE, acts, kept_rows, padded, tiny

import distviz
from distviz.arm.arm import ARM
from distviz.errors import MeasurementError


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_watch_equals_plain_hooks_without_padding(name: str, dtype: torch.dtype, side: str) -> None:
    model = tiny(name, dtype)
    calls = [padded(side, seed) for seed in (0, 1)]
    with torch.no_grad(), keeping(model, acts(name)) as kept:
        for ids, mask in calls:
            model(input_ids=ids, attention_mask=mask)
    with torch.no_grad(), distviz.watch(model, channels=True) as watched:
        for ids, mask in calls:
            model(input_ids=ids, attention_mask=mask)
    stats = watched.stats()
    assert set(stats["phase"]) == {"before"}
    assert stats["layer"].tolist() == [0, 1, 2]
    run = watched.run()
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
        np.testing.assert_array_equal(channels["zeros"], (together == 0).sum(axis=0))
        np.testing.assert_array_equal(channels["positive"], (together > 0).sum(axis=0))
        first = np.abs(together).argmax(axis=1)
        np.testing.assert_array_equal(channels["top"], np.bincount(first, minlength=48))
        deviations = together - together.mean(axis=0)
        kurtosis = (deviations**4).mean(axis=0) / (deviations**2).mean(axis=0) ** 2 - 3
        np.testing.assert_allclose(channels["kurtosis"], kurtosis, rtol=1e-10, atol=1e-10)
        documents = run.documents[run.documents["layer"] == row["layer"]]
        sizes = [9, 4, 6] * 2
        assert documents["document"].tolist() == list(range(6))
        assert documents["count"].tolist() == [size * 48 for size in sizes]
        ends = np.cumsum([0, *sizes])
        for number, one in enumerate(documents.to_dict("records")):
            x = on_grid(together[ends[number] : ends[number + 1]].reshape(-1))
            assert one["gini"] == pytest.approx(gini_of(x), rel=1e-9)
            assert one["eps"] == pytest.approx(eps_of(x), rel=1e-12)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_calls_that_do_not_finish_are_named(error: type[BaseException]) -> None:
    model = tiny("llama")
    calls = [padded("right", seed) for seed in (0, 1, 2)]

    def fail(*_: Any) -> None:
        raise error

    with torch.no_grad(), keeping(model, acts("llama")) as kept, distviz.watch(model) as watched:
        for number, (ids, mask) in enumerate(calls):
            path = "model.embed_tokens" if number == 0 else "model.layers.1.mlp.act_fn"
            handle = model.get_submodule(path).register_forward_pre_hook(fail)
            with suppress(error):
                model(ids, attention_mask=mask)
            assert watched.tracker.unfinished == set(range(1, number + 2))
            handle.remove()
        model(*calls[0])
    with pytest.warns(UserWarning, match="values of 2 unfinished calls of the model"):
        run = watched.run()
    with pytest.warns(UserWarning, match="in the layers before the end"):
        stats = watched.stats()
    (line,) = run.manifest["warnings"]
    assert "2 unfinished calls of the model (error or interruption)" in line
    assert run.manifest["text"]["documents"] == 9
    of_layers = {0: [1, 2, 0], 1: [0], 2: [0]}
    for row in stats.to_dict("records"):
        given = [calls[number] for number in of_layers[row["layer"]]]
        tensors = kept[str(row["layer"])]
        rows = [kept_rows(t, mask) for t, (_, mask) in zip(tensors, given, strict=True)]
        values = raw(rows)
        assert_stats(row, values, eps_of(values))
        documents = run.documents.loc[run.documents["layer"] == row["layer"], "document"]
        assert documents.tolist() == list(range(9))[9 - 3 * len(given) :]


def test_a_watch_without_a_finished_call_ends_without_an_error() -> None:
    model = tiny("llama")
    with torch.no_grad(), distviz.watch(model) as watched:
        with pytest.raises(IndexError):
            model(torch.full((1, 2), 64))  # no token of the vocabulary
        del model.model.layers[2].mlp.act_fn
        with pytest.raises(AttributeError):
            model(padded("right")[0])
    with pytest.warns(UserWarning, match="values of 1 unfinished call of the model"):
        assert watched.stats()["layer"].tolist() == [0, 1]


def test_what_runs_after_a_call_belongs_to_no_text() -> None:
    model = tiny("llama")
    ids, mask = padded("right")
    with torch.no_grad(), distviz.watch(model) as watched:
        model(ids, attention_mask=mask)
        with pytest.raises(MeasurementError, match="outside a call of the observed model"):
            model.model.layers[0].mlp(torch.zeros(3, 9, 32))
    assert watched.stats()["count"].tolist() == [19 * 48] * 3


@pytest.mark.parametrize("how", ["positional", "embeds", "no mask", "4-D mask", "bool mask"])
def test_the_mask_is_read_from_the_call(how: str) -> None:
    model = tiny("llama")
    ids, mask = padded("right")
    with torch.no_grad(), keeping(model, acts("llama")) as kept, distviz.watch(model) as watched:
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
    for row in watched.stats().to_dict("records"):
        values = raw([kept_rows(kept[str(row["layer"])][0], mask)])
        assert_stats(row, values, eps_of(values))


def test_c_is_the_width_of_the_band() -> None:
    model = tiny("llama")
    with (
        torch.no_grad(),
        keeping(model, acts("llama")) as kept,
        distviz.watch(model, c=0.4) as watched,
    ):
        model(torch.arange(3, 20)[None])
    for row in watched.stats().to_dict("records"):
        values = raw(kept[str(row["layer"])])
        assert_stats(row, values, eps_of(values, 0.4))
    assert watched.run().documents["eps"].tolist() == pytest.approx(watched.stats()["eps"].tolist())


def test_two_watches_do_not_affect_each_other() -> None:
    """`stats()` in the middle of a generation: the documents go on."""
    model = tiny("llama")

    def generate(*, looks: bool) -> Any:
        with torch.no_grad(), distviz.watch(model) as watched:
            output = model(torch.arange(3, 9)[None], use_cache=True)
            if looks:
                watched.stats()
            # The argument is called `cache` since transformers 5.24.
            names = inspect.signature(model.forward).parameters
            name = "cache" if "cache" in names else "past_key_values"
            model(torch.tensor([[9]]), **{name: output.past_key_values})
        return watched.run()

    plain, looked = generate(looks=False), generate(looks=True)
    assert looked.merged == plain.merged
    assert looked.documents["count"].tolist() == plain.documents["count"].tolist()


def test_a_run_taken_earlier_does_not_grow() -> None:
    model = tiny("llama")
    with torch.no_grad(), distviz.watch(model) as watched:
        model(torch.arange(3, 9)[None])
        early = watched.run()
        model(torch.arange(3, 9)[None])
    assert set(early.stats()["count"]) == {6 * 48}
    assert set(watched.stats()["count"]) == {12 * 48}


@pytest.mark.parametrize("order", [["before", "after"], ["after", "before"]])
def test_both_phases_in_one_watch_share_their_documents(order: list[str]) -> None:
    model = tiny("llama")
    calls = [padded("right", seed) for seed in (0, 1)]
    kept_by_phase: dict[str, Any] = {}
    with torch.no_grad(), distviz.watch(model, 0) as watched:
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
    stats = watched.stats().set_index("phase")
    assert stats["eps"].tolist() == pytest.approx([eps, eps], rel=1e-12)
    documents = watched.run().documents
    assert sorted(documents["document"].tolist()) == sorted([*range(6)] * 2)
    for row in documents.to_dict("records"):
        if row["phase"] == "after" and order[0] == "after" and row["document"] < 3:
            # Closed before its own `before` was seen: nothing is better than another eps.
            assert np.isnan(row["eps"])
            assert np.isnan(row["near_zero"])
            continue
        own = eps_of(raw([rows[row["document"]]]))
        assert row["eps"] == pytest.approx(own, rel=1e-12), row["phase"]


def test_the_base_model_may_be_called_alone() -> None:
    model = tiny("llama")
    ids, mask = padded("left")
    with torch.no_grad(), distviz.watch(model, 0) as watched:
        model.model(ids, attention_mask=mask)
    assert watched.stats()["count"].tolist() == [int(mask.sum()) * 48]
    with (
        torch.no_grad(),
        pytest.raises(MeasurementError, match="outside a call"),
        distviz.watch(model, 0),
    ):
        model.model.layers[0].mlp(torch.randn(1, 4, 32))


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


def test_inside_a_pipeline(demo_folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

    model = AutoModelForCausalLM.from_pretrained(demo_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(demo_folder, padding_side="left")
    generator = pipeline("text-generation", model=model, tokenizer=tokenizer, device="cpu")
    prompts = ["Anna had 12 apples, so", "If it rains"]
    before = hook_count(model)
    options: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "batch_size": 2}
    plain = generator(prompts, **options)
    with (
        distviz.redistribute(model, ARM(fraction=0.9), layers="all"),
        distviz.watch(model) as watched,
    ):
        changed = generator(prompts, **options)
    assert hook_count(model) == before
    assert changed != plain
    assert generator(prompts, **options) == plain
    stats = watched.stats()
    assert set(stats["phase"]) == {"after"}
    tokens = sum(len(tokenizer(prompt)["input_ids"]) for prompt in prompts) + 2 * 4
    assert set(stats["count"]) == {tokens * 384}
    assert len(watched.run().documents) == 2 * 6


def test_rows_of_a_beam_search_are_rows() -> None:
    model = tiny("llama")
    with torch.no_grad(), distviz.watch(model, 0) as watched, distviz.redistribute(model, WHOLE):
        model.generate(
            torch.arange(3, 9)[None], num_beams=3, max_new_tokens=3, min_new_tokens=3,
            do_sample=False, pad_token_id=0,
        )  # fmt: skip
    documents = watched.run().documents
    assert documents["document"].tolist() == [0, 1, 2]
    assert documents["count"].tolist() == [(6 + 2) * 48] * 3


def test_what_was_watched_prints_a_line() -> None:
    model = tiny(NAMES[0], torch.float32)
    with torch.no_grad(), distviz.watch(model, sites="act,product") as watched:
        assert repr(watched).endswith("nothing observed yet")
        model(input_ids=torch.ones(3, 4, dtype=torch.long))
    layers = watched.stats()["layer"].nunique()
    assert f"act, product of {layers} layers · 3 documents" in repr(watched)
    assert "\n" not in repr(watched)
