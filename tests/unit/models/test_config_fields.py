"""Fields of config.json and generation_config.json that make no sense, and those of every type."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distviz.errors import RequestError
from distviz.models.config_fields import check_config, check_generation

PATH = Path("m/config.json")
NAN, INF = float("nan"), float("inf")
WRONG: dict[str, list[Any]] = {
    "model_type": [[1], {}, 7, True],
    "architectures": ["LlamaForCausalLM", [7], {}, 7, [None], [["a"]]],
    "num_nextn_predict_layers": ["x", [1], {}, -1, 1.5, True, 10**6],
    "num_hidden_layers": [10**6, -1, "2", 1.5, True, 10**4000],
    "decoder_layers": [10**6],
    "num_local_experts": [10**9],
    "hidden_size": [10**12],
    "head_dim": [10**9],
    "num_attention_heads": [10**9],
    "rms_norm_eps": [NAN, INF, -INF, "x", "1e-6", -1e-6, 5.0, [], {}, True],
    "layer_norm_epsilon": [INF, -1],
    "return_dict": ["x", 0],
    "output_hidden_states": ["x", 1],
    "use_cache": ["x", 7],
    "is_encoder_decoder": ["x", 1],
    "tie_word_embeddings": ["false", 0, []],
    "rope_theta": [0, -1, NAN, "x", [], True],
    "rope_scaling": ["x", 7, [], {"type": 7}, {"factor": 0}, {"factor": "x"}, {"rope_type": [1]}],
    "rope_parameters": [{"rope_theta": INF}, {"long_factor": [0]}, {"beta_fast": "x"}],
    "dtype": ["x", 7, [], "int8", "bool", "auto", "torch.float32", "nn", "float8_e4m3fn"],
    "torch_dtype": ["os", {}],
    "text_config": [[], "x", 7, {"num_hidden_layers": -1}, {"text_config": {"rms_norm_eps": -1}}],
    "quantization_config": ["x", [1], True, {"quant_method": ["gptq"]}],
    "auto_map": ["x", 7, [1]],
    "id2label": [[], "x"],
    "num_labels": [10**9, -1, "x"],
    "attn_implementation": [7, []],
    "transformers_weights": ["other.safetensors", "../x", 7],
    "eos_token_id": ["x", {}, 1.5, [1, "x"], True],
    "temperature": ["x", -1],
    "sliding_window": [-1],
}
WRONG_GENERATION: dict[str, list[Any]] = {
    "temperature": ["x", -1, [], INF],
    "do_sample": ["x", 7],
    "num_beams": ["x", -1, 1.5, True],
    "top_p": ["x", 2, -1],
    "repetition_penalty": [0, -1, "x"],
    "eos_token_id": ["x", [1, "x"], 1.5],
    "max_length": ["x", -1],
    "return_dict_in_generate": ["x", 1],
    "suppress_tokens": ["x", [1.5]],
    "bad_words_ids": ["x", [1]],
    "prefill_chunk_size": [0, "x"],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in WRONG.items() for value in values],
    ids=lambda value: str(value)[:30] if not isinstance(value, int) or value < 10**20 else "huge",
)
def test_a_wrong_field_is_named(name: str, value: Any) -> None:
    with pytest.raises(RequestError) as caught:
        check_config({"model_type": "llama", name: value}, PATH)
    assert caught.value.message.startswith(f"m/config.json: {name}")
    assert len(caught.value.message) < 200
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in WRONG_GENERATION.items() for value in values],
    ids=str,
)
def test_a_wrong_field_of_generation_is_named(name: str, value: Any) -> None:
    path = Path("m/generation_config.json")
    with pytest.raises(RequestError, match=rf"^m/generation_config\.json: {name} is "):
        check_generation({name: value}, path)


def test_many_modules_are_refused_by_arithmetic() -> None:
    with pytest.raises(RequestError, match="4,000 layers of 60,000 experts are too many"):
        check_config({"num_hidden_layers": 4000, "num_experts": 60000}, PATH)
    with pytest.raises(RequestError, match="3,000 fields"):
        check_config({f"k{n}": n for n in range(3000)}, PATH)


@pytest.mark.parametrize("name", [*WRONG, *WRONG_GENERATION])
def test_null_is_a_missing_field(name: str) -> None:
    check_config({name: None}, PATH)
    check_generation({name: None}, PATH)


@pytest.mark.extended
def test_the_configuration_of_every_type_passes() -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    passed = 0
    for kind in CONFIG_MAPPING:
        try:
            config = CONFIG_MAPPING[kind]()
        except Exception:  # noqa: BLE001  types that have no defaults, or need a package
            continue
        for use_diff in (True, False):
            check_config(json.loads(config.to_json_string(use_diff=use_diff)), Path(kind))
        passed += 1
    assert passed > 600
