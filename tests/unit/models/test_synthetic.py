"""Layers built from sizes: their architecture, weights and refused settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from distviz.errors import RequestError
from distviz.models import memory
from distviz.models.open import describe, open_model
from distviz.models.synthetic import check_input, cut_layer_fields, layer_config
from distviz.settings import LayerSettings

SMALL: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "heads": 4, "kv_heads": 2}


@pytest.mark.parametrize(
    ("architecture", "activation", "named"),
    [("llama", "silu", "SiLU"), ("gemma2", "relu", "ReLU"), ("gpt2", "gelu", "GELU"),
     ("phi3", "silu", "SiLU"), ("bert", "relu", "ReLU"), ("opt", "relu", "ReLU")],
)  # fmt: skip
def test_layers_are_built_as_described(architecture: str, activation: str, named: str) -> None:
    config = {"word_embed_proj_dim": 16} if architecture == "opt" else {}
    settings = LayerSettings(
        architecture=architecture, activation=activation, layers=2, config=config, **SMALL
    )
    opened = open_model(None, layer=settings)
    assert opened.name == f"{architecture}-2x16"
    assert opened.layer_settings is settings
    assert (opened.has_head, opened.tokenizer) == (False, None)
    assert [mlp.activation for mlp in opened.mlps] == [named, named]
    kept = [opened.details[key] for key in ("layers", "hidden_size", "intermediate_size", "dtype")]
    assert kept == [2, 16, 24, "float32"]
    with torch.no_grad():
        out = opened.model(inputs_embeds=torch.randn(2, 5, 16)).last_hidden_state
    assert out.shape == (2, 5, 16)
    assert out.isfinite().all()


def test_the_seed_determines_the_weights_and_restores_the_random_state() -> None:
    def weights(seed: int, dtype: str = "auto") -> torch.Tensor:
        opened = open_model(None, layer=LayerSettings(seed=seed, **SMALL), dtype=dtype)
        return opened.model.layers[0].mlp.up_proj.weight

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = weights(0)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))
    assert torch.equal(first.bfloat16(), weights(0, "bf16"))
    assert 0.01 < first.std() < 0.03


def test_layers_can_be_taken_from_a_checkpoint(saved: Path) -> None:
    settings = LayerSettings(weights=str(saved), weights_layers=[2, 0], input="tokens")
    opened = open_model(None, layer=settings)
    state = load_file(saved / "model.safetensors")
    for index, source in enumerate((2, 0)):
        layer = opened.model.layers[index]
        expected = state[f"model.layers.{source}.mlp.down_proj.weight"]
        assert torch.equal(layer.mlp.down_proj.weight, expected)
        assert layer.self_attn.layer_idx == index
    assert (opened.name, opened.details["layers"]) == ("tiny-llama-layer2+0", 2)
    assert (opened.details["hidden_size"], opened.has_head) == (16, False)
    with torch.no_grad():
        opened.model(input_ids=torch.tensor([[1, 2, 3]]), use_cache=True)
    _, details = describe(None, layer=settings)
    assert (details["layers"], details["architecture"]) == (2, "LlamaModel")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architecture": "lama"}, r"unknown architecture 'lama' \(did you mean 'llama'"),
        ({"architecture": "t5"}, "layers of 't5' cannot be built without the rest of the model"),
        (
            {"activation": "gelo"},
            r"unknown activation 'gelo' \(did you mean 'gelu'\?\)\nallowed: g",
        ),
        ({"config": {"rope_thta": 1}}, "'llama' has no configuration field 'rope_thta'"),
        ({"weights": "no-such-file"}, "MODEL 'no-such-file' does not exist"),
        ({"architecture": "mamba"}, "architecture 'mamba' has no setting for"),
    ],
)
def test_settings_that_cannot_be_built(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        open_model(None, layer=LayerSettings(**(SMALL | fields)))


def test_a_layer_that_the_checkpoint_lacks(saved: Path) -> None:
    with pytest.raises(RequestError, match=r"layer 3 does not exist\n.* has 3 layers, 0 to 2"):
        open_model(None, layer=LayerSettings(weights=str(saved), weights_layers=[3]))


def test_describe_builds_layers_on_the_meta_device() -> None:
    model, details = describe(None, layer=LayerSettings())
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert (details["hidden_size"], details["device"]) == (576, "meta")


def test_fields_with_an_entry_per_layer_are_reduced_with_the_layers() -> None:
    settings = LayerSettings(architecture="gemma2", layers=4, **SMALL)
    config = layer_config(settings)
    config.layer_types = ["a", "b", "c", "d"]
    config.stop_ids = [1, 2, 3, 4]  # four entries, but not of layers
    cut_layer_fields(config, [3, 1])
    assert (config.num_hidden_layers, config.layer_types) == (2, ["d", "b"])
    assert config.stop_ids == [1, 2, 3, 4]


def test_layers_with_hidden_input_have_a_small_vocabulary() -> None:
    hidden = layer_config(LayerSettings(input="hidden", **SMALL))
    assert (hidden.vocab_size, hidden.bos_token_id, hidden.eos_token_id) == (256, 0, 0)
    assert layer_config(LayerSettings(input="tokens", **SMALL)).vocab_size > 256


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"documents": 10**12}, r"layer\.documents 1,000,000,000,000 of .* GB of memory, .* free"),
        ({"tokens": 10**12}, r"of layer\.tokens 1,000,000,000,000 need"),
        ({"documents": 1, "tokens": 10**7}, "the attention masks of"),
    ],
)
def test_input_beyond_memory_is_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        check_input(LayerSettings(**SMALL, **sizes), 16)
    check_input(LayerSettings(**SMALL), 16)


def test_layers_beyond_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match=r"layer\.layers is 1000000, it must be at most 1,000"):
        LayerSettings(layers=1_000_000)
    with pytest.raises(RequestError, match="num_hidden_layers is 1000000"):
        layer_config(LayerSettings(**SMALL, config={"num_hidden_layers": 1_000_000}))
    monkeypatch.setattr(memory, "free_bytes", lambda _: 1000)
    with pytest.raises(RequestError, match=r"the weights of these layers need 0\.0 GB of memory"):
        open_model(None, layer=LayerSettings(**SMALL))
