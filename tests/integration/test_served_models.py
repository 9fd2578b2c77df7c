"""Engines of vLLM, against plain hooks on transformers; runs where vLLM is installed.

Random models with fixed prompts, prefill in chunks and decoding, in float32 on the CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from distviz.integrations.vllm import EXTENSION, watch

if TYPE_CHECKING:
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
    return vllm.LLM(str(folder), **(given | options))


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
def _processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_WORKER_MULTIPROC_METHOD", "spawn")  # Numba is imported here
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")


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
