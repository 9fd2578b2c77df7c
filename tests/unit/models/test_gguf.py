"""GGUF files: their expected length, and models opened from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distviz.errors import RequestError
from distviz.models.gguf import gguf_end
from distviz.models.open import describe, open_model
from distviz.settings import LayerSettings


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a one-layer Llama as a GGUF, with tensors of several types and a word list."""
    gguf = pytest.importorskip("gguf")
    path = tmp_path_factory.mktemp("gguf") / "tiny.Q8_0.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(8)
    writer.add_tokenizer_model("llama")
    tokens = ["<unk>", "<s>", "</s>", "\u2581a", "\u2581b", "a", "b", "\u2581"]
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * 8)
    writer.add_token_types([2, 3, 3, 1, 1, 1, 1, 1])
    shapes = {
        "token_embd": (8, 32), "output_norm": (32,), "output": (8, 32),
        "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,), "blk.0.attn_q": (32, 32),
        "blk.0.attn_k": (16, 32), "blk.0.attn_v": (16, 32), "blk.0.attn_output": (32, 32),
        "blk.0.ffn_gate": (64, 32), "blk.0.ffn_up": (64, 32), "blk.0.ffn_down": (32, 64),
    }  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator).numpy()
        if "ffn" in name and len(shape) == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(f"{name}.weight", gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(f"{name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_opens_as_float32(gguf_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    opened = open_model(str(gguf_file))
    assert (opened.name, opened.has_head) == ("tiny.Q8_0", True)
    assert opened.details["dtype"] == "float32"
    assert opened.details["intermediate_size"] == 64
    assert len(opened.tokenizer("a b")["input_ids"]) >= 2
    assert capfd.readouterr() == ("", "")
    half = open_model(str(gguf_file), dtype="bf16", needs_tokenizer=False)
    assert half.details["dtype"] == "bfloat16"
    _, details = describe(str(gguf_file))
    assert (details["layers"], details["device"]) == (1, "meta")


def test_layers_can_be_taken_from_a_gguf(gguf_file: Path) -> None:
    whole = open_model(str(gguf_file), needs_tokenizer=False).model
    opened = open_model(None, layer=LayerSettings(weights=str(gguf_file)))
    taken = opened.model.layers[0].mlp.up_proj.weight
    assert torch.equal(taken, whole.model.layers[0].mlp.up_proj.weight)
    assert opened.name == "tiny.Q8_0-layer0"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-100], "is damaged: truncated: .* bytes where .* are expected"),
        (lambda data: data[:60], "its header cannot be read as GGUF"),
        (lambda _: b"GGUF" + b"\xff" * 64, "its header cannot be read as GGUF"),
        (lambda _: b"", "its header cannot be read as GGUF"),
        (lambda _: b"not a model" * 9, "its header cannot be read as GGUF"),
    ],
)
def test_a_damaged_gguf(gguf_file: Path, tmp_path: Path, damage: Any, message: str) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(damage(gguf_file.read_bytes()))
    with pytest.raises(RequestError, match=message):
        open_model(str(path))


def test_a_gguf_without_the_package(gguf_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(RequestError, match=r"needs the package gguf.*\npip install gguf"):
        open_model(str(gguf_file))


def test_the_expected_length_is_that_of_the_last_tensor(gguf_file: Path, tmp_path: Path) -> None:
    from gguf import GGUFReader

    last = max(int(t.data_offset + t.n_bytes) for t in GGUFReader(gguf_file).tensors)
    assert gguf_end(gguf_file) == last <= gguf_file.stat().st_size
    longer = tmp_path / "padded.gguf"
    longer.write_bytes(gguf_file.read_bytes() + b"\0" * 100)
    assert gguf_end(longer) == last
