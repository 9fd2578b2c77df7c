"""A GGUF is parsed once, and read as transformers alone reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from distviz.models.checkpoint import Checkpoint, locate
from distviz.models.gguf_reading import gguf_option
from distviz.models.open import open_model
from tests.support.tiny_gguf import HYBRIDS, tiny_hybrid, write_hybrid_gguf, write_tiny_gguf

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
    expected = model.config.to_dict()
    expected.pop("quantization_config", None)  # the weights are unpacked
    assert opened.model.config.to_dict() == expected
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


@pytest.mark.parametrize("kind", HYBRIDS)
def test_the_newer_loader_gives_the_model_that_was_written(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = tiny_hybrid(kind)
    path = write_hybrid_gguf(model, tmp_path / "tiny.gguf", extra=kind != "lfm2")
    opened = open_model(str(path))
    inputs = opened.tokenizer("a b! abc", return_tensors="pt")
    assert inputs["input_ids"].tolist() == [[2, 30, 31, 29, 3, 4]]
    assert (opened.details["layers"], opened.details["dtype"]) == (2, "float32")
    assert opened.details["parameters"] == sum(one.numel() for one in model.parameters())
    assert opened.details["warnings"] == []
    own = opened.model.state_dict()
    for name, value in model.state_dict().items():
        assert own[name].dtype == torch.float32
        assert (own[name] - value).abs().max() < value.abs().max() / 100, name
    assert capfd.readouterr() == ("", "")


def test_weights_are_unpacked_and_layers_kept_where_there_are_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.integrations.gguf import kernels
    from transformers.quantizers import quantizer_gguf

    path = write_hybrid_gguf(tiny_hybrid("qwen3_5_moe_text"), tmp_path / "tiny.gguf")
    plain = open_model(str(path), needs_tokenizer=False).model.state_dict()
    for module in (kernels, quantizer_gguf):
        monkeypatch.setattr(module, "is_kernels_available", lambda: True)
    monkeypatch.setattr(quantizer_gguf, "get_gguf_kernel", _PretendedKernel)
    opened = open_model(str(path), needs_tokenizer=False)
    own = opened.model.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in plain.items())
    with pytest.raises(ModuleNotFoundError, match="kernels"):  # transformers alone fetches layers
        _as_transformers_reads(path)


class _PretendedKernel:
    def supports(self, _: int) -> bool:
        return True
