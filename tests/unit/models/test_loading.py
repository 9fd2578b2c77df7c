"""Devices, dtypes, configuration, tokenizer and class of a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, LlamaConfig

from distviz.errors import RequestError
from distviz.models.checkpoint import locate
from distviz.models.loading import (
    LoadOptions,
    choose_class,
    parse_device,
    parse_device_map,
    parse_dtype,
)
from distviz.models.open import open_model


def test_transformers_logging_is_restored(saved: Path) -> None:
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    open_model(str(saved), needs_tokenizer=False)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not readable JSON"),
        ("[]", "not a JSON object"),
        ("{}", r"is not a transformers checkpoint\nits config\.json has no model_type"),
        ('{"model_type": "lama"}', r"unknown to transformers \(did you mean '.*lama'\?\)"),
        (
            '{"model_type": "own", "auto_map": {"AutoConfig": "x.Y"}}',
            r"needs code that comes with the checkpoint\n.*--trust-remote-code",
        ),
        (
            '{"model_type": "llama", "hidden_size": "wide"}',
            r"config\.json: Field 'hidden_size' expected int, got str",
        ),
    ],
)
def test_a_configuration_that_is_wrong(llama: Path, text: str, message: str) -> None:
    (llama / "config.json").write_text(text)
    with pytest.raises(RequestError, match=message):
        open_model(str(llama))


def test_a_damaged_tokenizer(llama: Path) -> None:
    (llama / "tokenizer.json").write_text("{")
    with pytest.raises(RequestError, match=r"the tokenizer of .* cannot be read"):
        open_model(str(llama))


def test_unknown_dtype_and_device(saved: Path) -> None:
    with pytest.raises(RequestError, match=r"unknown dtype 'float23' \(did you mean 'float32'"):
        open_model(str(saved), dtype="float23")
    for device in ("cuda:77", "gpu", "meta"):
        with pytest.raises(
            RequestError, match=f"device '{device}' is not available\nhere are: cpu"
        ):
            open_model(str(saved), device=device)
    assert parse_device("cpu") == torch.device("cpu")


def test_unknown_attention_implementation(saved: Path) -> None:
    with pytest.raises(RequestError, match="cannot"):
        open_model(str(saved), attn_implementation="fast", needs_tokenizer=False)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("auto", None), ("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16),
     ("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)],
)  # fmt: skip
def test_every_dtype_name(name: str, expected: torch.dtype | None) -> None:
    assert parse_dtype(name) is expected


def test_a_device_map_is_a_strategy_a_device_or_a_mapping() -> None:
    assert parse_device_map(None) is None
    assert parse_device_map("balanced") == "balanced"
    assert parse_device_map("cpu") == {"": "cpu"}
    assert parse_device_map({"lm_head": 0}) == {"lm_head": 0}
    with pytest.raises(RequestError, match=r"is 'balnced' \(did you mean 'balanced'\?\)\nallowed"):
        parse_device_map("balnced")


def test_placement_is_the_map_or_the_one_device() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda:1")
    assert LoadOptions(None, cpu, None, None, False).placement is None
    assert LoadOptions(None, gpu, None, None, False).placement == {"": "cuda:1"}
    assert LoadOptions(None, gpu, "auto", None, False).placement == "auto"


@pytest.mark.parametrize(
    ("config", "architectures", "has_head"),
    [
        (LlamaConfig, ["LlamaForCausalLM"], True),
        (LlamaConfig, ["LlamaModel"], False),
        (LlamaConfig, None, True),
        (BertConfig, ["BertForMaskedLM"], False),
        (BertConfig, None, False),  # both a masked and a causal model: read as an encoder
    ],
)
def test_the_class_follows_the_architecture_of_the_configuration(
    saved: Path, config: type, architectures: list[str] | None, has_head: bool
) -> None:
    auto, found = choose_class(config(architectures=architectures), locate(str(saved)))
    assert (auto.__name__, found) == (
        "AutoModelForCausalLM" if has_head else "AutoModel",
        has_head,
    )


def test_an_attention_implementation_that_was_given_is_not_that_of_the_config(saved: Path) -> None:
    with pytest.raises(RequestError, match="with --attn-implementation flash_attention_2: ") as one:
        open_model(str(saved), attn_implementation="flash_attention_2", needs_tokenizer=False)
    assert "config.json says" not in one.value.message
    assert one.value.hint.startswith("give --attn-implementation eager")
