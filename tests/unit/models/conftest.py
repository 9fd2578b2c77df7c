"""Tiny saved checkpoints for the tests of the models."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from support.tiny_models import SMALLEST
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def _write_tokenizer(folder: Path) -> None:
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bfloat16 Llama with a tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    torch.manual_seed(1)
    config = LlamaConfig(**SMALLEST, num_key_value_heads=1, pad_token_id=0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    _write_tokenizer(folder)
    return folder


@pytest.fixture
def llama(saved: Path, tmp_path: Path) -> Path:
    """A copy of `saved` that a test may change."""
    return Path(shutil.copytree(saved, tmp_path / "tiny-llama"))
