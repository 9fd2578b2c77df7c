"""Fixtures of whole commands and pages."""

from __future__ import annotations

import contextlib
import functools
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.browsers import started_browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started_browser() as started:
        yield started


@pytest.fixture(scope="session")
def dequantized(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the weights of the GGUF in float32, written by transformers; not to be changed.

    One for all workers.
    """
    from filelock import FileLock

    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent
    folder = place / "smollm2"
    with FileLock(place / "smollm2.lock"):
        if not folder.exists():
            _dequantize(smollm2, place / "smollm2.partial").rename(folder)
    return folder


def _dequantize(path: Path, folder: Path) -> Path:
    import gguf
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    where: dict[str, Any] = {"gguf_file": path.name}
    with contextlib.redirect_stderr(io.StringIO()), pytest.MonkeyPatch.context() as patch:
        for name in ("GGUFReader", "get_tensor_name_map"):  # asked for again for each part
            patch.setattr(gguf, name, functools.cache(getattr(gguf, name)))
        read = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **where)
        AutoTokenizer.from_pretrained(path.parent, **where).save_pretrained(folder)
        del read.config.quantization_config
        plain = LlamaForCausalLM(read.config)
        plain.load_state_dict(read.state_dict())
        plain.save_pretrained(folder)
    return folder


@pytest.fixture
def quick_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of bfloat16 are computed in float32 and rounded, where no instruction does it.

    That is a third of the time of torch's own loops. Hooks and models get the same values.
    """
    import torch

    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return
    plain = torch.nn.Linear.forward

    def forward(layer: Any, x: Any) -> Any:
        if x.dtype is not torch.bfloat16 or x.shape[:-1].numel() < 8:
            return plain(layer, x)
        bias = None if layer.bias is None else layer.bias.float()
        return torch.nn.functional.linear(x.float(), layer.weight.float(), bias).bfloat16()

    monkeypatch.setattr(torch.nn.Linear, "forward", forward)
