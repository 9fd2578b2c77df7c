"""Every point is hooked in tiny random models and checked by arithmetic of its own."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from distviz.errors import RequestError
from distviz.models.architectures.mlp import Mlp, count_layers, find_mlps
from distviz.models.architectures.points import find_points

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from distviz.sites import HookPoint

HIDDEN, INNER, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 32, 48, 4, 2, 8, 64
LLAMA_LIKE: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "vocab_size": VOCAB,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
BERT_LIKE = {k: v for k, v in LLAMA_LIKE.items() if k not in ("num_key_value_heads", "head_dim")}
GPT_LIKE: dict[str, Any] = {
    "hidden_size": HIDDEN, "n_layer": 2, "n_head": HEADS, "vocab_size": VOCAB,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": LLAMA_LIKE,
    "mistral": LLAMA_LIKE,
    "qwen2": LLAMA_LIKE,
    "qwen3": LLAMA_LIKE,
    "gemma2": LLAMA_LIKE,
    "gemma3_text": LLAMA_LIKE,
    "phi3": LLAMA_LIKE,
    "glm4": LLAMA_LIKE,
    "phi": LLAMA_LIKE,
    "gpt2": GPT_LIKE | {"n_inner": INNER},
    "gpt_neox": BERT_LIKE,
    "falcon": BERT_LIKE | {"ffn_hidden_size": INNER},
    "opt": BERT_LIKE | {"ffn_dim": INNER, "word_embed_proj_dim": HIDDEN},
    "bloom": GPT_LIKE,
    "bert": BERT_LIKE,
    "roberta": BERT_LIKE | {"max_position_embeddings": 40},
    "vit": BERT_LIKE | {"image_size": 16, "patch_size": 8},
    "t5": {
        "d_model": HIDDEN, "d_kv": HEAD_DIM, "d_ff": INNER, "num_layers": 2, "num_heads": HEADS,
        "vocab_size": VOCAB, "decoder_start_token_id": 0,
    },
}  # fmt: skip
CONFIGS["t5 gated"] = CONFIGS["t5"] | {"feed_forward_proj": "gated-gelu"}
WITHOUT_HEAD = ("bert", "roberta", "vit", "t5", "t5 gated")
GATED = (*list(CONFIGS)[:8], "t5 gated")
WITHOUT_QKV = ("gpt_neox", "falcon", "bloom")
FIRST_PROJECTION = {"gpt2": "c_fc", "opt": "fc1", "phi": "fc1", "vit": "fc1", "t5": "wi"}


def tiny(name: str, **fields: Any) -> nn.Module:
    torch.manual_seed(0)
    config = AutoConfig.for_model(name.split(maxsplit=1)[0], **(CONFIGS[name] | fields))
    auto = AutoModel if name in WITHOUT_HEAD else AutoModelForCausalLM
    return auto.from_config(config, attn_implementation="eager").eval()


def forward(name: str, model: nn.Module) -> None:
    tokens = torch.arange(3, 17).reshape(2, 7)
    if name == "vit":
        model(pixel_values=torch.randn(2, 3, 16, 16))
    elif name.startswith("t5"):
        model(input_ids=tokens, decoder_input_ids=tokens + 20)
    else:
        model(input_ids=tokens)


@contextlib.contextmanager
def record(
    model: nn.Module, points: Sequence[HookPoint]
) -> Iterator[dict[HookPoint, torch.Tensor]]:
    """Keep what passes at each point, with plain hooks that know nothing of distviz."""
    watched: dict[HookPoint, torch.Tensor] = {}

    def keep(point: HookPoint, value: Any) -> None:
        tensor = value[0] if isinstance(value, tuple) else value
        part = slice(*point.part) if point.part else slice(None)
        watched[point] = tensor[..., part].detach().clone()

    handles = []
    for point in points:
        module = model.get_submodule(point.module)
        if point.takes == "input":
            hook = module.register_forward_pre_hook(lambda _, a, p=point: keep(p, a[0]))
        else:
            hook = module.register_forward_hook(lambda _, __, out, p=point: keep(p, out))
        handles.append(hook)
    try:
        with torch.no_grad():
            yield watched
    finally:
        for handle in handles:
            handle.remove()


def values(mlp: Mlp, watched: dict[HookPoint, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {point.site: watched[point] for point in mlp.points}


def apply(model: nn.Module, mlp: Mlp, site: str, x: torch.Tensor) -> torch.Tensor:
    module = model.get_submodule(next(p.module for p in mlp.points if p.site == site))
    with torch.no_grad():
        return module(x)


@pytest.mark.parametrize("name", CONFIGS)
def test_points_obey_the_arithmetic_of_an_mlp(name: str) -> None:
    model = tiny(name)
    mlps = find_mlps(model)
    points = find_points(mlps, model, sorted({p.site for m in mlps for p in m.points}))
    with record(model, points) as watched:
        forward(name, model)
    assert set(watched) == set(points)
    stacks = {"decoder": 2, "encoder": 2} if name.startswith("t5") else None
    alone = "encoder" if name in ("bert", "roberta", "vit") else "decoder"
    assert count_layers(mlps) == (stacks or {alone: 2})
    for mlp in mlps:
        at = values(mlp, watched)
        assert mlp.gated is (name in GATED) is ("up" in at)
        # Close, not equal: torch's SiLU rounds differently on the halves of a fused projection.
        torch.testing.assert_close(apply(model, mlp, "act", at["gate"]), at["act"])
        product = at["act"] * at["up"] if mlp.gated else at["act"]
        torch.testing.assert_close(at["product"], product)
        assert torch.equal(apply(model, mlp, "down", at["product"]), at["down"])
        assert at["product"].shape[-1] == (4 * HIDDEN if name == "bloom" else INNER)
        assert at["down"].shape[-1] == at["residual"].shape[-1] == HIDDEN


@pytest.mark.parametrize("name", CONFIGS)
def test_attention_points_obey_the_arithmetic_of_attention(name: str) -> None:
    model = tiny(name)
    mlps = find_mlps(model)
    points = list(dict.fromkeys(point for mlp in mlps for point in mlp.points))
    with record(model, points) as watched:
        forward(name, model)
    for mlp in mlps:
        at = values(mlp, watched)
        assert at["attention"].shape[-1] == HEADS * HEAD_DIM
        if name in WITHOUT_QKV:
            assert not {"q", "k", "v"} & set(at)
            continue
        assert at["q"].shape[-1] == HEADS * HEAD_DIM
        groups = CONFIGS[name].get("num_key_value_heads", HEADS)
        assert at["k"].shape[-1] == at["v"].shape[-1] == groups * HEAD_DIM
        if name.startswith("t5"):
            continue  # position bias; the shapes say enough
        # At the first position of a causal model attention sees itself alone: it returns v.
        if mlp.stack == "decoder":
            v = at["v"].reshape(2, -1, groups, HEAD_DIM)[:, 0]
            expected = v.repeat_interleave(HEADS // groups, dim=1).reshape(2, -1)
            attention = at["attention"].reshape(2, -1, HEADS * HEAD_DIM)[:, 0]
            torch.testing.assert_close(attention, expected)


def test_gpt2_splits_its_fused_projection_into_query_key_value() -> None:
    model = tiny("gpt2")
    mlps = find_mlps(model)
    points = find_points(mlps, model, ["q", "k", "v", "module:*.attn.c_attn"], [1])
    with record(model, points) as watched:
        forward("gpt2", model)
    at = {point.site: watched[point] for point in points}
    joined = torch.cat([at["q"], at["k"], at["v"]], dim=-1)
    assert torch.equal(joined, at["module:*.attn.c_attn"])


def test_gate_of_a_fused_projection_is_its_first_half() -> None:
    model = tiny("phi3")
    mlps = find_mlps(model)
    points = find_points(mlps, model, ["gate", "up", "module:*gate_up_proj"], [0])
    with record(model, points) as watched:
        forward("phi3", model)
    gate, up, both = (watched[point] for point in points)
    assert torch.equal(torch.cat([gate, up], dim=-1), both)


def test_residual_of_the_last_layer_is_the_input_of_the_final_norm() -> None:
    model = tiny("llama")
    mlps = find_mlps(model)
    (residual,) = find_points(mlps, model, ["residual"], [1])
    with record(model, [residual]) as watched, torch.no_grad():
        normed = model.model(input_ids=torch.tensor([[3, 4, 5]])).last_hidden_state
    with torch.no_grad():
        assert torch.equal(model.model.norm(watched[residual]), normed)


@pytest.mark.parametrize(
    ("name", "path", "activation"),
    [
        ("llama", "model.layers.1.mlp", "SiLU"),
        ("opt", "model.decoder.layers.1", "ReLU"),
        ("bloom", "transformer.h.1.mlp", "BloomGelu"),
        ("bert", "encoder.layer.1.intermediate", "GELU"),
        ("gemma2", "model.layers.1.mlp", "GELUTanh"),
    ],
)
def test_path_and_activation_are_named(name: str, path: str, activation: str) -> None:
    mlp = find_mlps(tiny(name))[1]
    assert (mlp.layer, mlp.path, mlp.activation, mlp.routed) == (1, path, activation, False)


def test_t5_orders_decoder_then_encoder_without_cross_attention() -> None:
    mlps = find_mlps(tiny("t5"))
    order = [("decoder", 0), ("decoder", 1), ("encoder", 0), ("encoder", 1)]
    assert [(mlp.stack, mlp.layer) for mlp in mlps] == order
    assert not [p for mlp in mlps for p in mlp.points if "EncDec" in p.module]


def test_a_layer_index_above_nine_sorts_as_a_number() -> None:
    with torch.device("meta"):
        mlps = find_mlps(tiny("llama", num_hidden_layers=11))
    assert [mlp.layer for mlp in mlps] == list(range(11))


def test_prediction_head_and_pooler_are_ignored() -> None:
    from transformers import BertConfig, BertForMaskedLM

    with torch.device("meta"):
        mlps = find_mlps(BertForMaskedLM(BertConfig(**BERT_LIKE)))
    assert [mlp.path for mlp in mlps] == [
        f"bert.encoder.layer.{index}.intermediate" for index in (0, 1)
    ]


def test_fused_experts_are_marked_and_their_sum_is_down() -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "mixtral", **LLAMA_LIKE, num_local_experts=4, num_experts_per_tok=2
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    mlps = find_mlps(model)
    assert [(m.path, m.routed, m.gated) for m in mlps] == [
        (f"model.layers.{index}.mlp.experts", True, True) for index in (0, 1)
    ]
    points = find_points(mlps, model, ["act", "down", "module:*.1.mlp"], [1])
    with record(model, points) as watched:
        forward("llama", model)
    act, down, block = (watched[point] for point in points)
    assert act.shape[-1] == INNER
    assert torch.equal(down.reshape(block.shape), block)
    with pytest.raises(RequestError, match=r"site 'up' .*does not exist in MixtralForCausal"):
        find_points(mlps, model, ["up"])


def test_shared_experts_are_separate_from_routed_ones() -> None:
    config = AutoConfig.for_model(
        "qwen2_moe", **LLAMA_LIKE, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16,
        shared_expert_intermediate_size=24,
    )  # fmt: skip
    with torch.device("meta"):
        mlps = find_mlps(AutoModelForCausalLM.from_config(config))
    layer = [(mlp.path, mlp.routed) for mlp in mlps if mlp.layer == 0]
    base = "model.layers.0.mlp"
    assert layer == [(f"{base}.experts", True), (f"{base}.shared_expert", False)]
    q = [p for mlp in mlps[:2] for p in mlp.points if p.site == "q"]
    assert len(q) == 2
    assert len(set(q)) == 1


def test_towers_are_named_by_their_path() -> None:
    from transformers import CLIPConfig, CLIPModel

    text = BERT_LIKE | {"max_position_embeddings": 16}
    vision = {**BERT_LIKE, "image_size": 16, "patch_size": 8}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    with torch.device("meta"):
        model = CLIPModel(config)
    mlps = find_mlps(model, towers=True)
    assert count_layers(mlps) == {"text_model": 2, "vision_model": 2}
    assert count_layers(find_mlps(model)) == {"text_model": 2}


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.mlp = nn.Module()
        self.mlp.activation = _OwnActivation()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(4, 8), nn.Linear(8, 4)


class _OwnActivation(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clamp(0)


class _Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([_Block()])
        self.head = nn.Sequential(nn.Linear(4, 4), nn.ReLU())


def test_a_model_from_elsewhere_is_found_by_names() -> None:
    (mlp,) = find_mlps(_Stack())
    assert (mlp.path, mlp.activation, mlp.stack) == ("blocks.0.mlp", "_Own", "encoder")
    sites = ["mlp_in", "gate", "act", "product", "down", "residual"]
    assert [p.site for p in mlp.points] == sites


def test_no_activation_is_an_error() -> None:
    with pytest.raises(RequestError, match="no MLP activation found in Linear"):
        find_mlps(nn.Linear(2, 2))
    config = AutoConfig.for_model("mamba", hidden_size=16, num_hidden_layers=1, vocab_size=8)
    with torch.device("meta"), pytest.raises(RequestError, match="found in MambaModel"):
        find_mlps(AutoModel.from_config(config))


# Choosing points ----------------------------------------------------------------------------


def test_some_optional_sites_may_be_absent() -> None:
    model = tiny("bloom")
    mlps = find_mlps(model)
    wanted = ("attn_in", "up")  # an MLP that is not gated has no up projection
    with pytest.raises(RequestError, match="site 'up'"):
        find_points(mlps, model, wanted)
    found = {point.site for point in find_points(mlps, model, wanted, optional=wanted)}
    assert found == {"attn_in"}
    with pytest.raises(RequestError, match="site 'up'"):
        find_points(mlps, model, ["up"], optional=["up"])


def test_points_are_ordered_and_unique() -> None:
    model = tiny("llama")
    points = find_points(find_mlps(model), model, ["down", "gate", "q", "gate"], layers=[1, 0])
    assert [(p.layer, p.site) for p in points] == [
        (layer, site) for layer in (0, 1) for site in ("gate", "down", "q")
    ]


def test_layers_may_differ_by_stack() -> None:
    model = tiny("t5")
    points = find_points(find_mlps(model), model, ["act"], {"encoder": [1], "decoder": [0]})
    assert [(p.stack, p.layer) for p in points] == [("decoder", 0), ("encoder", 1)]


def test_patterns_observe_any_module() -> None:
    model = tiny("llama")
    mlps = find_mlps(model)
    points = find_points(mlps, model, ["module:*norm"], layers=[0])
    assert [(p.layer, p.stack, p.module, p.takes) for p in points] == [
        (0, "decoder", "model.layers.0.input_layernorm", "output"),
        (0, "decoder", "model.layers.0.post_attention_layernorm", "output"),
        (-1, "model", "model.norm", "output"),
    ][:: 1 if points[0].layer == 0 else -1] or len(points) == 3
    with record(model, points) as watched:
        forward("llama", model)
    assert set(watched) == set(points)


def test_an_absent_site_is_refused_with_the_existing_ones() -> None:
    model = tiny("gpt2")
    mlps = find_mlps(model)
    with pytest.raises(RequestError, match=r"(?s)'up'.*does not exist in GPT2LM.*gate, act, prod"):
        find_points(mlps, model, ["act", "up"])
    with pytest.raises(RequestError, match=r"module:\*\.o_proj matches no module of GPT2LMHead"):
        find_points(mlps, model, ["module:*.o_proj"])
    with pytest.raises(RequestError, match=r"(?s)'act' is in none of the chosen.*have it: 0, 1"):
        find_points(mlps, model, ["act"], layers=[7])
