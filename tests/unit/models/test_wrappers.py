"""Compiled and wrapped models: hooks are never skipped in silence."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, CompileConfig, LlamaConfig, LlamaForCausalLM

import distviz
from distviz import measure as collect
from distviz.data.documents import read_documents
from distviz.errors import RequestError
from distviz.models.open import open_model
from distviz.models.wrappers import bare, embedding_rows, find_compiled, position_rows
from distviz.settings import RunSettings

IDS = torch.arange(24).view(2, 12) % 50
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 64}


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def tiny() -> Any:
    torch.manual_seed(3)
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**SIZES, **heads, pad_token_id=0)).eval()


def compiled_whole(model: Any, backend: str) -> Any:
    return torch.compile(model, backend=backend)


def compiled_in_place(model: Any, backend: str) -> Any:
    model.compile(backend=backend)
    return model


def compiled_method(model: Any, backend: str) -> Any:
    model.forward = torch.compile(model.forward, backend=backend)
    return model


def compiled_layers(model: Any, backend: str) -> Any:
    for index, layer in enumerate(model.model.layers):
        model.model.layers[index] = torch.compile(layer, backend=backend)
    return model


def compiled_mlps(model: Any, backend: str) -> Any:
    for layer in model.model.layers:
        layer.mlp = torch.compile(layer.mlp, backend=backend)
    return model


SAYS = "is compiled and runs uncompiled here"
WAYS = [compiled_whole, compiled_in_place, compiled_method, compiled_layers, compiled_mlps]
NUMBERS = ["count", "mean", "std", "min", "max", "eps", "near_zero", "gini"]


def seen_by_watch(model: Any) -> np.ndarray:
    with torch.no_grad(), distviz.watch(model, sites="act,product") as watched:
        model(IDS)
    return watched.stats()[NUMBERS].to_numpy()


@pytest.mark.parametrize("compile_it", WAYS)
def test_a_compiled_model_runs_uncompiled_and_it_says_so(compile_it: Any) -> None:
    plain, model = tiny(), compile_it(tiny(), "eager")
    with torch.no_grad():
        untouched = model(IDS).logits  # compiled now, without any hook
        with pytest.warns(UserWarning, match=SAYS):
            np.testing.assert_array_equal(seen_by_watch(model), seen_by_watch(plain))
        with pytest.warns(UserWarning, match=SAYS), distviz.redistribute(model, layers="all"):
            changed = model(IDS).logits
        with distviz.redistribute(plain, layers="all"):
            assert torch.equal(changed, plain(IDS).logits)
        assert not torch.equal(changed, untouched)
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        assert torch.equal(model(IDS).logits, untouched)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs > 0


def test_the_run_remembers_it() -> None:
    model = compiled_mlps(tiny(), "eager")
    with pytest.warns(UserWarning, match="compiled"), distviz.watch(model) as watched:
        model(IDS)
    (note,) = watched.run().manifest["warnings"]
    assert note.startswith("model.layers.0.mlp and 1 more is compiled")


@pytest.mark.parametrize("compile_it", [compiled_in_place, compiled_method, compiled_mlps])
def test_a_run_of_code_that_compiles_itself(compile_it: Any, tiny_saved: Path) -> None:
    settings = RunSettings(arm_layers="0", max_length=16, device="cpu")
    runs = []
    torch._dynamo.utils.counters.clear()
    for compiles in (False, True):
        opened = open_model(str(tiny_saved), device="cpu")
        if compiles:
            compile_it(opened.model, "eager")
        corpus = collect.corpus_of(read_documents(["2 + 2 = 4, as we know."]), opened, settings)
        runs.append(collect.measure(opened, corpus, settings))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 0
    assert runs[0].stats().equals(runs[1].stats())
    assert runs[0].manifest["effect"] == runs[1].manifest["effect"]
    (note,) = (set(run.manifest["warnings"]) for run in runs[1:])
    assert [SAYS in line for line in note - set(runs[0].manifest["warnings"])] == [True]


def test_a_loaded_model_is_refused_where_a_name_is_expected() -> None:
    for call in (lambda: distviz.run(tiny()), lambda: distviz.compare(tiny(), "demo")):
        with pytest.raises(RequestError, match=r"given a LlamaForCausalLM\n.*distviz.watch"):
            call()


def test_no_warning_for_a_model_that_is_not_compiled() -> None:
    model = tiny()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with distviz.watch(model) as watched:
            model(IDS)
    assert watched.run().manifest["warnings"] == []
    assert find_compiled(model) == []


def test_what_generate_compiles_by_itself_is_seen_too() -> None:
    """With a static cache generate compiles the decoding steps, on a GPU unasked."""
    model = tiny()
    settings: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    compiling = CompileConfig(backend="eager", fullgraph=False)
    compiling._compile_all_devices = True

    def generate(**more: Any) -> torch.Tensor:
        mask = torch.ones_like(IDS)
        return model.generate(IDS, attention_mask=mask, pad_token_id=0, **settings, **more)

    def count(**more: Any) -> int:
        with distviz.watch(model, layers=0) as watched:
            generate(**more)
        return int(watched.stats()["count"].sum())

    expected = count()
    static: dict[str, Any] = {"cache_implementation": "static", "compile_config": compiling}
    torch._dynamo.utils.counters.clear()
    generate(**static)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0  # it does compile
    assert count(**static) == expected == 2 * (12 + 4) * 48
    assert count(cache_implementation="static") == expected


@pytest.mark.extended
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_with_the_compiler_that_users_have() -> None:
    expected = seen_by_watch(tiny())
    model = compiled_whole(tiny(), "inductor")
    with torch.no_grad():
        model(IDS)
    with pytest.warns(UserWarning, match="compiled"):
        np.testing.assert_array_equal(seen_by_watch(model), expected)


def test_wrappers_are_taken_off() -> None:
    model = tiny()
    assert bare(model) is model
    assert bare(torch.compile(model, backend="eager")) is model
    assert bare(torch.nn.DataParallel(model)) is model
    assert bare(torch.compile(torch.nn.DataParallel(model), backend="eager")) is model


# Sizes of the input -------------------------------------------------------------------------

_SIZES = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "vocab_size": 20,
}  # fmt: skip
_OPT = {"ffn_dim": 16, "word_embed_proj_dim": 16}


@pytest.mark.parametrize(
    ("kind", "extra", "positions"),
    [
        ("gpt2", {"n_positions": 12}, 12),
        ("bert", {"max_position_embeddings": 12}, 12),
        ("roberta", {"max_position_embeddings": 12, "pad_token_id": 1}, 10),
        ("opt", {"max_position_embeddings": 12, **_OPT}, 12),
        ("llama", {"max_position_embeddings": 12}, None),
        ("gpt_neox", {"max_position_embeddings": 12}, None),
        ("bloom", {}, None),
    ],
)
def test_what_a_model_has_rows_for(kind: str, extra: dict[str, Any], positions: int | None) -> None:
    config = AutoConfig.for_model(kind, **_SIZES | extra)
    model = AutoModel.from_config(config).eval()
    assert embedding_rows(model) == 20
    assert position_rows(model) == positions
    model(torch.full((1, positions or 20), 5))
    if positions is not None:
        with pytest.raises((IndexError, RuntimeError)):
            model(torch.full((1, positions + 1), 5))


def test_a_module_without_an_embedding_has_no_rows() -> None:
    assert embedding_rows(torch.nn.Linear(2, 2)) is None
    assert position_rows(torch.nn.Linear(2, 2)) is None
