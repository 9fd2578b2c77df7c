"""A GGUF is parsed once, and read as transformers alone reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from distviz.models.checkpoint import Checkpoint, locate
from distviz.models.gguf_reading import gguf_option
from distviz.models.open import open_model
from tests.support.tiny_gguf import write_tiny_gguf

if TYPE_CHECKING:
    from pathlib import Path

gguf: Any = pytest.importorskip("gguf")


def _as_transformers_reads(path: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"gguf_file": path.name}
    model = AutoModelForCausalLM.from_pretrained(path.parent, **where, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(path.parent, **where)


def test_a_gguf_is_parsed_once_and_read_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    model, tokenizer = _as_transformers_reads(path)
    parsed = []
    build = gguf.GGUFReader._build_fields
    monkeypatch.setattr(
        gguf.GGUFReader, "_build_fields", lambda *given: parsed.append(1) or build(*given)
    )
    opened = open_model(str(path))
    assert parsed == [1]
    state, own = model.state_dict(), opened.model.state_dict()
    assert state.keys() == own.keys()
    assert all(torch.equal(value, own[name]) for name, value in state.items())
    assert opened.model.config.to_dict() == model.config.to_dict()
    assert opened.tokenizer.get_vocab() == tokenizer.get_vocab()
    open_model(str(path))  # nothing is kept once the weights are read
    assert parsed == [1, 1]


def test_the_package_is_left_as_it_was(tmp_path: Path) -> None:
    checkpoint = locate(str(write_tiny_gguf(tmp_path / "tiny.gguf")))
    other = Checkpoint(tmp_path, "other", "other", gguf="other.gguf")
    own = gguf.GGUFReader, gguf.get_tensor_name_map
    first, second = gguf_option(checkpoint), gguf_option(other)
    assert first.__enter__() == {"gguf_file": "tiny.gguf"}
    changed = gguf.GGUFReader
    assert changed is not own[0]
    names = [[part.name for part in changed(tmp_path / "tiny.gguf").tensors] for _ in range(2)]
    assert names[0] == names[1] == [one.name for one in own[0](tmp_path / "tiny.gguf").tensors]
    assert list(checkpoint.parsed) == [str(tmp_path / "tiny.gguf")]
    second.__enter__()  # as another thread would
    first.__exit__(None, None, None)
    assert not second.__exit__(ValueError, ValueError("unreadable"), None)
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == own
    assert not other.parsed
