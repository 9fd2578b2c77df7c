"""Fixtures of whole commands and pages."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from support.browsers import started_browser

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started_browser() as started:
        yield started


@pytest.fixture(scope="session")
def dequantized(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the weights of the GGUF in float32, written by transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("dequantized") / "smollm2"
    where: dict[str, Any] = {"gguf_file": smollm2.name}
    with contextlib.redirect_stderr(io.StringIO()):
        read = AutoModelForCausalLM.from_pretrained(smollm2.parent, dtype=torch.float32, **where)
        AutoTokenizer.from_pretrained(smollm2.parent, **where).save_pretrained(folder)
        del read.config.quantization_config
        plain = LlamaForCausalLM(read.config)
        plain.load_state_dict(read.state_dict())
        plain.save_pretrained(folder)
    return folder
