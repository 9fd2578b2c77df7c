"""Engines of vLLM, against plain hooks on transformers; runs where vLLM is installed.

Random models with fixed prompts, prefill in chunks and decoding, in float32 on the CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from distviz.errors import MeasurementError, RequestError
from distviz.integrations.vllm import EXTENSION, watch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from distviz.results import Run

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
vllm = pytest.importorskip("vllm")

PROMPTS = [[5, 9, 100, 7, 3, 8] * 8, [11, 12, 13], [200, 5, 5, 9, 30] * 5]
NEW = 6
LLAMA = {
    "attn_in": ("self_attn.q_proj", "input"),
    "q": ("self_attn.q_proj", "output"),
    "k": ("self_attn.k_proj", "output"),
    "v": ("self_attn.v_proj", "output"),
    "attention": ("self_attn.o_proj", "input"),
    "mlp_in": ("mlp.gate_proj", "input"),
    "gate": ("mlp.act_fn", "input"),
    "act": ("mlp.act_fn", "output"),
    "up": ("mlp.up_proj", "output"),
    "product": ("mlp.down_proj", "input"),
    "down": ("mlp.down_proj", "output"),
    "residual": ("", "output"),
}
GPT2 = {
    "attention": ("attn.c_proj", "input"),
    "mlp_in": ("mlp.c_fc", "input"),
    "gate": ("mlp.act", "input"),
    "act": ("mlp.act", "output"),
    "product": ("mlp.c_proj", "input"),
    "down": ("mlp.c_proj", "output"),
    "residual": ("", "output"),
}
OPT = {
    "k": ("self_attn.k_proj", "output"),
    "gate": ("activation_fn", "input"),
    "act": ("activation_fn", "output"),
    "product": ("fc2", "input"),
    "residual": ("", "output"),
}
SIZES = {
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
GROUPED = SIZES | {"num_key_value_heads": 2, "head_dim": 32}
MODELS: dict[str, tuple[dict[str, Any], str, dict[str, tuple[str, str]]]] = {
    "llama": (GROUPED, "model.layers", LLAMA),
    "qwen3": (GROUPED, "model.layers", LLAMA),
    "gemma2": (GROUPED | {"sliding_window": 16}, "model.layers", LLAMA),
    "olmo2": (GROUPED, "model.layers", LLAMA),
    "cohere": (GROUPED, "model.layers", {s: p for s, p in LLAMA.items() if s != "residual"}),
    "gpt2": (
        {"vocab_size": 256, "n_embd": 128, "n_layer": 2, "n_head": 4, "n_positions": 128},
        "transformer.h",
        GPT2,
    ),
    "opt": (
        SIZES | {"ffn_dim": 192, "word_embed_proj_dim": 128, "do_layer_norm_before": True},
        "model.decoder.layers",
        OPT,
    ),
}


def save(kind: str, folder: Path) -> Any:
    """Save a random model; return it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = AutoConfig.for_model(kind, **MODELS[kind][0], **special)
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.dim() > 1 and "embed" not in name:
                value.mul_(3)
    model.save_pretrained(folder)
    return model.eval()


ENGINES: list[Any] = []
"""Engines of the current test, which are shut down after it."""


def start(folder: Path, **options: Any) -> Any:
    """Start an engine in other processes."""
    given = {
        "enforce_eager": True,
        "worker_extension_cls": EXTENSION,
        "dtype": "float32",
        "max_model_len": 128,
        "max_num_batched_tokens": 32,
        "max_num_seqs": 2,
        "enable_prefix_caching": False,
        "kv_cache_memory_bytes": 1 << 28,
        "skip_tokenizer_init": True,
        "disable_log_stats": True,
    }
    ENGINES.append(vllm.LLM(str(folder), **(given | options)))
    return ENGINES[-1]


def generate(llm: Any, prompts: list[list[int]], new: int = NEW) -> list[list[int]]:
    """Return the ids that passed the model: prompts and all new tokens but the last."""
    options = vllm.SamplingParams(max_tokens=new, temperature=0, ignore_eos=True, detokenize=False)
    inputs = [{"prompt_token_ids": ids} for ids in prompts]
    done = llm.generate(inputs, options, use_tqdm=False)
    return [[*ids, *one.outputs[0].token_ids[:-1]] for ids, one in zip(prompts, done, strict=True)]


def plain(model: Any, kind: str, texts: list[list[int]]) -> dict[tuple[int, str], list[Any]]:
    """Values of every site and text, (tokens, channels), by plain hooks."""
    _, layers, sites = MODELS[kind]
    found: dict[tuple[int, str], list[Any]] = {}

    def keep(place: tuple[int, str], value: Any) -> None:
        value = value[0] if isinstance(value, tuple) else value
        found.setdefault(place, []).append(value.detach().reshape(-1, value.shape[-1]).numpy())

    hooks = []
    for layer, module in enumerate(model.get_submodule(layers)):
        for site, (path, end) in sites.items():
            part, place = module.get_submodule(path), (layer, site)
            if end == "input":
                hooks.append(
                    part.register_forward_pre_hook(lambda _m, a, place=place: keep(place, a[0]))
                )
            else:
                hooks.append(
                    part.register_forward_hook(lambda _m, _a, out, place=place: keep(place, out))
                )
    with torch.no_grad():
        for ids in texts:
            model(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    return found


def check(run: Run, expected: dict[tuple[int, str], list[Any]], tolerance: float) -> None:
    """Compare tokens exactly, and means, spreads and quantiles within a tolerance of the spread."""
    assert {(key.layer, key.site) for key in run.keys} == set(expected)
    for key in run.keys:
        values = expected[key.layer, key.site]
        # Documents are numbered as the engine started them.
        table = run.documents
        rows = table[(table["layer"] == key.layer) & (table["site"] == key.site)]
        assert rows["count"].tolist() == [value.size for value in values]
        whole = np.concatenate(values).astype(np.float64)
        spread = whole.std()
        np.testing.assert_allclose(
            rows["mean"], [value.mean() for value in values], atol=tolerance * spread
        )
        sketch = run.merged[key]
        assert sketch.count == whole.size
        assert sketch.std() == pytest.approx(spread, rel=max(tolerance, 1e-4))
        table = run.channels
        rows = table[(table["layer"] == key.layer) & (table["site"] == key.site)]
        for name, found in (
            ("mean", whole.mean(axis=0)),
            ("min", whole.min(axis=0)),
            ("max", whole.max(axis=0)),
            ("std", whole.std(axis=0)),
        ):
            np.testing.assert_allclose(
                rows[name], found, rtol=tolerance, atol=tolerance * spread, err_msg=f"{key} {name}"
            )


@pytest.fixture(autouse=True)
def _processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("VLLM_WORKER_MULTIPROC_METHOD", "spawn")  # Numba is imported here
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    yield
    while ENGINES:
        ENGINES.pop().llm_engine.engine_core.shutdown()


@pytest.mark.parametrize("kind", MODELS)
def test_an_engine_has_the_values_of_transformers(kind: str, tmp_path: Path) -> None:
    model = save(kind, tmp_path)
    llm = start(tmp_path)
    with watch(llm, sites=list(MODELS[kind][2])) as seen:
        texts = generate(llm, PROMPTS)
    generate(llm, PROMPTS)
    run = seen.run()
    assert run.manifest["text"] == {"documents": 3, "tokens": sum(map(len, texts))}
    check(run, plain(model, kind, texts), 2e-5)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A random Llama, and its folder."""
    folder = tmp_path_factory.mktemp("llama")
    return save("llama", folder), folder


@pytest.mark.parametrize("size", [2, 4])
def test_the_channels_of_all_ranks_are_put_together(size: int, tiny: tuple[Any, Path]) -> None:
    model, folder = tiny
    llm = start(folder, tensor_parallel_size=size)  # with 4, two ranks hold the same keys
    with watch(llm, sites=list(LLAMA), channels=True) as seen:
        texts = generate(llm, PROMPTS)
    check(seen.run(), plain(model, "llama", texts), 2e-5)


def test_tokens_of_preempted_requests_are_counted_once(tiny: tuple[Any, Path]) -> None:
    model, folder = tiny
    block = 2 * 2 * 32 * 64 * 4  # keys and values, layers, tokens, channels, bytes
    llm = start(folder, kv_cache_memory_bytes=6 * block, block_size=32, disable_log_stats=False)
    with watch(llm, sites="k,act") as seen:
        texts = generate(llm, PROMPTS, new=60)
    expected = plain(model, "llama", texts)
    check(seen.run(), {key: value for key, value in expected.items() if key[1] in "k,act"}, 2e-5)
    metrics = {one.name: one for one in llm.get_metrics()}
    assert metrics["vllm:num_preemptions"].value > 0


def test_a_common_beginning_is_counted_in_the_first_document(tiny: tuple[Any, Path]) -> None:
    model, folder = tiny
    llm = start(folder, enable_prefix_caching=True, block_size=32, max_num_seqs=1)
    first, second = [*range(3, 43)], [*range(3, 38), 99, 98, 97]
    with watch(llm) as seen:
        texts = generate(llm, [first, second])
    run = seen.run()
    expected = plain(model, "llama", texts)
    rows = run.documents[run.documents["layer"] == 0]
    values = expected[0, "act"]
    assert rows["count"].tolist() == [values[0].size, values[1][32:].size]
    assert run.manifest["text"]["tokens"] == sum(map(len, texts)) - 32
    assert "32 tokens of the requests were in the engine's cache" in run.manifest["warnings"][0]


def test_a_compiled_engine_is_refused(tiny: tuple[Any, Path]) -> None:
    llm = start(tiny[1], enforce_eager=False)
    with pytest.raises(RequestError, match="compiled code") as error, watch(llm):
        pass
    assert "enforce_eager=True" in error.value.hint


def test_a_residual_stream_that_is_not_known_is_an_error(tmp_path: Path) -> None:
    save("cohere", tmp_path)
    llm = start(tmp_path)
    with pytest.raises(MeasurementError, match="residual stream"), watch(llm, sites="residual"):
        generate(llm, PROMPTS[1:2])
