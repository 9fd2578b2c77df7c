"""GGUF files: their expected length, and models opened from them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from distviz.errors import RequestError
from distviz.models.gguf import GgufError, gguf_end
from distviz.models.open import describe, open_model
from distviz.settings import LayerSettings
from tests.support.tiny_gguf import write_tiny_gguf


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small GGUF."""
    pytest.importorskip("gguf")
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.Q8_0.gguf")


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


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def tensor(name: bytes, *shape: int, kind: int = 0, start: int = 0) -> bytes:
    sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + sizes + struct.pack("<IQ", kind, start)


def header(fields: list[bytes], tensors: list[bytes], start: bytes = b"GGUF\3\0\0\0") -> bytes:
    counts = struct.pack("<QQ", len(tensors), len(fields))
    return start + counts + b"".join([*fields, *tensors]) + b"\0" * 1000


def number(name: bytes, kind: int, packed: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + packed


ALIGNMENT = b"general.alignment"
NESTED = struct.pack("<I", 9) + b"".join(struct.pack("<IQ", 9, 1) for _ in range(100_000))
HEADERS: dict[str, tuple[bytes, str]] = {
    "big-endian": (header([], [], b"GGUF\0\0\0\3"), r"is a big-endian GGUF.*\nconvert it with"),
    "part": (
        header([number(b"split.count", 2, struct.pack("<H", 3))], []),
        r"is one of the 3 parts of a GGUF\nmerge them with `llama-gguf-split --merge",
    ),
    "version 1": (header([], [], b"GGUF\1\0\0\0"), "cannot be read as GGUF"),
    "version 9": (header([], [], b"GGUF\x09\0\0\0"), "cannot be read as GGUF"),
    "alignment 0": (header([number(ALIGNMENT, 4, b"\0" * 4)], []), "general.alignment is 0"),
    "alignment 33": (header([number(ALIGNMENT, 4, b"\x21\0\0\0")], []), "not a power of two"),
    "alignment of 8 bytes": (header([number(ALIGNMENT, 10, b"\x20" + b"\0" * 7)], []), "alignment"),
    "a field twice": (header([number(b"a", 0, b"\0")] * 2, []), "its header gives a twice"),
    "nested lists": (header([text(b"a") + NESTED], []), "cannot be read as GGUF"),
    "unknown field": (header([number(b"a", 99, b"\0")], []), "cannot be read as GGUF"),
    "unknown type": (header([], [tensor(b"a", 32, kind=999)]), "tensor a is of the unknown type"),
    "removed type": (header([], [tensor(b"a", 32, kind=4)]), "tensor a is of the unknown type 4"),
    "dimensions": (header([], [tensor(b"a", *[1] * 9)]), "tensor a has 9 dimensions"),
    "half a block": (header([], [tensor(b"a", 31, kind=8)]), "rows of 31, no multiple of 32"),
    "huge": (header([], [tensor(b"a", *[1 << 63] * 4)]), "truncated"),
    "a tensor twice": (
        header([], [tensor(b"a", 1), tensor(b"a", 1, start=32)]), "tensor a is in its header twice",
    ),
    "overlap": (
        header([], [tensor(b"a", 32), tensor(b"b", 32, start=64)]), "tensor b overlaps a",
    ),
    "layers": (
        header([number(b"llama.block_count", 4, b"\xff\xff\xff\x7f")], [tensor(b"a", 32)]),
        "its llama.block_count is 2,147,483,647, but it has 1 tensor,",
    ),
    "width": (
        header([number(b"llama.embedding_length", 10, b"\0" * 7 + b"\1")], [tensor(b"a", 32)]),
        "its llama.embedding_length is 72,057,594,037,927,936, but .* largest size is 32",
    ),
    "counts": (b"GGUF\3\0\0\0" + b"\xff" * 16, "cannot be read as GGUF"),
    "a name beyond the file": (header([], [struct.pack("<Q", 1 << 62)]), "cannot be read as GGUF"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_that_contradicts_itself(kind: str, tmp_path: Path) -> None:
    content, message = HEADERS[kind]
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(RequestError, match=message) as caught:
        open_model(str(path))
    assert len(str(caught.value).splitlines()) == 2


def test_a_header_that_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    fields = [number(ALIGNMENT, 4, b"\x40\0\0\0"), number(b"split.count", 2, b"\1\0")]
    path.write_bytes(header(fields, [tensor(b"a", 32), tensor(b"b", 32, start=128)]))
    assert gguf_end(path) % 64 == 0
    path.write_bytes(header(fields, [tensor(b"a", 32, kind=777)]))
    with pytest.raises(GgufError, match="unknown type 777"):
        gguf_end(path)
