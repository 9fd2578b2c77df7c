"""Weights that are missing, unexpected, or of another shape or type than the configuration's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from support.tiny_models import SMALLEST, edit_config
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from distviz.errors import RequestError
from distviz.models.checkpoint import locate
from distviz.models.open import open_model
from distviz.models.weight_checks import validate_weights


def test_a_missing_pooler_is_noted(tmp_path: Path) -> None:
    BertForMaskedLM(BertConfig(**SMALLEST)).save_pretrained(tmp_path)
    opened = open_model(str(tmp_path), needs_tokenizer=False)
    (note,) = opened.details["warnings"]
    assert note.startswith("weights missing, random instead (not measured): pooler.dense.bias")


def test_tied_weights_are_not_missing(tmp_path: Path) -> None:
    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=32)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    assert open_model(str(tmp_path), needs_tokenizer=False).has_head


def test_missing_weights_are_never_filled_with_random_numbers(llama: Path) -> None:
    path = llama / "model.safetensors"
    state = load_file(path)
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(RequestError, match=r"weights missing: .*layers\.1\.mlp\.up_proj\.weight"):
        open_model(str(llama))


def test_weights_of_other_sizes(llama: Path) -> None:
    edit_config(llama, intermediate_size=28)
    with pytest.raises(RequestError, match=r"down_proj\.weight is 16×24 .*, 16×28 expected"):
        open_model(str(llama))


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ({"missing_keys": {"b.weight", "a.weight"}}, r"weights missing: .* has no a\.weight and 1"),
        (
            {"mismatched_keys": {("lm_head.weight", (32, 16), ())}},
            r"lm_head\.weight is 32×16 in model\.safetensors, a single number expected",
        ),
        (
            {"unexpected_keys": {"model.layers.3.mlp.up_proj.weight"}},
            r"the weights hold model\.layers\.3\.\S+, the configuration has 3 layers",
        ),
        (
            {"unexpected_keys": {"layers.1.mlp.up_proj.bias"}},  # without the model's prefix
            r"the weights hold layers\.1\.mlp\.up_proj\.bias, but the configuration has no such",
        ),
    ],
)
def test_every_report_of_transformers_is_refused(
    saved: Path, report: dict[str, Any], message: str
) -> None:
    checkpoint, model = locate(str(saved)), open_model(str(saved), needs_tokenizer=False).model
    none: dict[str, Any] = {"missing_keys": (), "mismatched_keys": (), "unexpected_keys": ()}
    assert validate_weights(model, none, checkpoint) == []
    with pytest.raises(RequestError, match=message):
        validate_weights(model, none | report, checkpoint)


def test_further_layers_are_accepted_where_only_some_are_loaded(saved: Path) -> None:
    checkpoint, model = locate(str(saved)), open_model(str(saved), needs_tokenizer=False).model
    report = {"missing_keys": (), "mismatched_keys": ()}
    report["unexpected_keys"] = ("model.layers.3.mlp.up_proj.weight",)
    assert validate_weights(model, report, checkpoint, all_layers=False) == []
