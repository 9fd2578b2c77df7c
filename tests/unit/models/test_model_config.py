"""config.json through the commands: each hostile value ends right, or is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.tiny_models import edit_config

import distviz
from distviz.errors import RequestError
from distviz.models.checkpoint import locate
from distviz.models.model_config import read_config
from distviz.models.open import describe, open_model

TEXT = ["If 3 of 9 birds sing, then 6 are silent."]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 33}, "hidden size .33. is not a multiple"),
        ({"hidden_size": "32"}, "Field 'hidden_size' expected int, got str"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0, expected at least 1"),
        ({"vocab_size": -1}, "vocab_size is -1, expected at least 1"),
        ({"num_attention_heads": 0}, "integer modulo by zero"),
        ({"hidden_act": "x"}, "KeyError: 'x'"),
        ({"use_return_dict": False}, "no setter"),
        ({"get_text_config": 7}, "'get_text_config' is not a field"),
        ({"to_dict": "x"}, "'to_dict' is not a field"),
        ({"__class__": "x"}, "'__class__' is not a field"),
        ({"attribute_map": {"hidden_size": "x"}}, "'attribute_map' is not a field"),
        ({"attn_implementation": "org/kernel"}, "code from the hub"),
        ({"_attn_implementation": "org/kernel@v1:f"}, "code from the hub"),
        ({"attn_implementation": {"text_config": "org/kernel"}}, "code from the hub"),
        ({"text_config": {"_attn_implementation": "org/kernel"}}, "code from the hub"),
        ({"attn_implementation": "flash_attention_2"}, r"[fF]lash.*\ngive --attn-implementation"),
        ({"attn_implementation": "x"}, r"not supported.*\ngive --attn-implementation eager"),
        ({"experts_implementation": "org/kernel"}, "experts_implementation"),
        ({"is_encoder_decoder": True}, "a llama model has no encoder and decoder"),
        ({"sliding_window": 0}, "sliding_window is 0"),
        ({"intermediate_size": -1}, "negative dimension -1"),
    ],
    ids=str,
)
def test_what_cannot_be_right_is_refused(
    fields: dict[str, Any], message: str, tiny_llama: Path
) -> None:
    edit_config(tiny_llama, **fields)
    with pytest.raises(RequestError, match=rf"(?s)config\.json.*{message}") as caught:
        open_model(str(tiny_llama), needs_tokenizer=False)
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize(
    "fields",
    [
        {"return_dict": False},
        {"output_hidden_states": True},
        {"output_attentions": True},
        {"use_cache": False},
        {"chunk_size_feed_forward": 3},
        {"architectures": []},
        {"torch_dtype": "float32"},
        {"name_or_path": "/etc"},
        {"auto_map": {"AutoModelForCausalLM": "evil.X"}},
    ],
    ids=str,
)
def test_what_only_changes_the_form_of_the_result_changes_no_number(
    fields: dict[str, Any], tiny_llama: Path
) -> None:
    options: dict[str, Any] = {"text": TEXT, "device": "cpu", "max_length": 16}
    expected = distviz.run(str(tiny_llama), **options)
    edit_config(tiny_llama, **fields)
    found = distviz.run(str(tiny_llama), **options)
    assert found.stats().equals(expected.stats())
    assert found.manifest["effect"] == expected.manifest["effect"]


def test_chunks_of_the_mlp_are_one_tensor(tmp_path: Path, demo_folder: Path) -> None:
    from support.tiny_models import save_tiny

    folder = save_tiny("bert", tmp_path / "bert", demo_folder)
    expected = distviz.run(str(folder), text=TEXT, device="cpu", max_length=16)
    edit_config(folder, chunk_size_feed_forward=2)
    found = distviz.run(str(folder), text=TEXT, device="cpu", max_length=16)
    assert found.stats().equals(expected.stats())


def test_inspecting_needs_no_attention(tiny_llama: Path) -> None:
    edit_config(tiny_llama, attn_implementation="flash_attention_2")
    assert describe(str(tiny_llama))[1]["layers"] == 2


def test_a_typed_implementation_replaces_that_of_the_file(tiny_llama: Path) -> None:
    edit_config(tiny_llama, attn_implementation="org/kernel")
    opened = open_model(str(tiny_llama), attn_implementation="eager", needs_tokenizer=False)
    assert opened.model.config._attn_implementation == "eager"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "not a JSON object"),
        ("{", "is not readable JSON"),
        ('{"do_sample": "x"}', "do_sample is 'x', expected true or false"),
        ('{"cache_implementation": "x"}', "Invalid `cache_implementation`"),
        ('{"max_new_tokens": 0}', "must be greater than 0"),
    ],
)
def test_generation_config(content: str, message: str, tiny_llama: Path) -> None:
    (tiny_llama / "generation_config.json").write_text(content)
    with pytest.raises(RequestError, match=rf"generation_config\.json.*{message}"):
        open_model(str(tiny_llama), needs_tokenizer=False)


def test_every_key_and_garbage_value_is_refused_or_read(tiny_llama: Path) -> None:
    """Whatever stands in a field, nothing but a RequestError comes out."""
    from types import SimpleNamespace

    options: Any = SimpleNamespace(trust_remote_code=False, attn_implementation=None)
    path = tiny_llama / "config.json"
    known = json.loads(path.read_text())
    for name in known:
        for value in ("x", [], {}, [7], {"a": 1}, -1, 0, 1.5, True, None, 10**12, "\x1b[31m"):
            path.write_text(json.dumps(known | {name: value}))
            try:
                read_config(locate(str(tiny_llama), with_weights=False), options)
            except RequestError as error:
                assert len(str(error).splitlines()) <= 2  # noqa: PT017
