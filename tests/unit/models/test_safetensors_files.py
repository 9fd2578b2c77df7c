"""Headers and index of safetensors files against files that are damaged byte by byte."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from distviz.errors import RequestError
from distviz.models.open import open_model
from distviz.models.safetensors_files import read_header, shard_paths


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-10], r"model\.safetensors is damaged: truncated: [\d,]+ bytes where"),
        (lambda data: data + b"\0", "is damaged: longer than its header says"),
        (lambda data: data[:4], "its header does not fit into its 4 bytes"),
        (lambda data: struct.pack("<Q", 1 << 60) + data[8:], "its header does not fit"),
        (lambda data: data[:8] + b"\xff" + data[9:], "its header is not the JSON of a safetensors"),
        (lambda _: b"", "its header does not fit into its 0 bytes"),
    ],
)
def test_damaged_safetensors(llama: Path, damage: Any, message: str) -> None:
    path = llama / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RequestError, match=message):
        open_model(str(llama))


def test_a_missing_shard(llama: Path) -> None:
    (llama / "model.safetensors").rename(llama / "model-1.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (llama / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(RequestError, match=r"1 of 2 weights files .* first: model-2\.safetensors"):
        open_model(str(llama))
    (llama / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(RequestError, match="is damaged: it has no weight_map"):
        open_model(str(llama))


def test_offsets_and_shapes_locate_every_value(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    stored = {
        "a": torch.arange(12, dtype=torch.float32).reshape(3, 4),
        "b": torch.tensor([[True, False]]),
        "c": torch.tensor(2.5, dtype=torch.float16),
        "d": torch.arange(5).to(torch.float8_e4m3fn),
        "empty": torch.zeros(0, 7, dtype=torch.int64),
    }
    save_file(stored, path)
    found = read_header(path)
    data = path.read_bytes()
    assert set(found) == set(stored)
    for name, tensor in stored.items():
        at = found[name]
        content = data[at.start : at.start + at.bytes]
        assert content == tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        assert (at.file, at.shape) == (path, tuple(tensor.shape))


def rewrite(path: Path, header: dict[str, Any], size: int) -> None:
    """Write a file of a header and some zeros."""
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * size)


@pytest.mark.parametrize(
    ("header", "size", "message"),
    [
        (
            {"a": ("F32", [2], 0, 8), "b": ("F32", [2], 4, 12)},
            12,
            "tensor b overlaps another or leaves a gap",
        ),
        (
            {"a": ("F32", [2], 0, 8), "b": ("F32", [1], 12, 16)},
            16,
            "tensor b overlaps another or leaves a gap",
        ),
        ({"a": ("F16", [3], 0, 8)}, 8, r"tensor a \(3 F16\) takes 8 bytes where 6 are"),
        ({"a": ("BOOL", [3], 0, 4)}, 4, r"tensor a \(3 BOOL\) takes 4 bytes where 3 are"),
        ({"a": ("STRANGE", [8], 0, 8)}, 8, "unknown variant `STRANGE`"),
        ({"a": ("F32", [2], 0)}, 8, "its header is not the JSON of a safetensors file"),
    ],
)
def test_a_header_that_contradicts_itself(
    tmp_path: Path, header: dict[str, Any], size: int, message: str
) -> None:
    path = tmp_path / "model.safetensors"
    entries = {
        name: {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        for name, (dtype, shape, *offsets) in header.items()
    }
    rewrite(path, entries, size)
    with pytest.raises(RequestError, match=rf"model\.safetensors is damaged: .*{message}"):
        read_header(path)


def test_metadata_is_no_tensor_and_four_bit_values_share_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensor = {"dtype": "F4", "shape": [3, 6], "data_offsets": [0, 9]}
    rewrite(path, {"__metadata__": {"format": "pt"}, "a": tensor}, 9)
    (found,) = read_header(path).values()
    assert found.bytes == math.prod(found.shape) // 2 == 9


def test_an_index_lists_files_sorted_and_once(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "2.bin", "b": "1.bin", "c": "2.bin"}}))
    for name in ("1.bin", "2.bin"):
        (tmp_path / name).touch()
    assert shard_paths(index) == (tmp_path / "1.bin", tmp_path / "2.bin")


TENSOR: dict[str, Any] = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
VALUES: list[Any] = [
    None, True, -1, 2.5, math.inf, math.nan, 1 << 63, 10**400, "", "x", "F99999", "\x1b", [], {},
    [[]], [1 << 62] * 4, [-2, -2], ["2"], [2.0], [0, 1 << 64], [math.inf, 8], [8, 0], ["0", "8"],
]  # fmt: skip
RAW = {
    "lists nested deep": b"[" * 200_000,
    "objects nested deep": b'{"a":' * 200_000,
    "a tensor twice": b'{"a":%b,"a":%b}' % ((json.dumps(TENSOR).encode(),) * 2),
    "UTF-16": json.dumps({"a": TENSOR}).encode("utf-16"),
    "no JSON": b"\xff\xfe",
    "nothing": b"",
    "a list": b"[]",
}


@pytest.mark.parametrize("field", ["dtype", "shape", "data_offsets", None])
def test_no_value_of_a_field_is_read_as_something_else(field: str | None, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for value in VALUES:
        rewrite(path, {"a": value if field is None else TENSOR | {field: value}}, 8)
        with pytest.raises(RequestError, match=r"model\.safetensors is damaged: ") as caught:
            read_header(path)
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize("header", RAW)
def test_headers_that_are_no_object_of_tensors(header: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    text = RAW[header]
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 8)
    with pytest.raises(RequestError, match=r"model\.safetensors is damaged: .*header"):
        read_header(path)


def test_a_pointer_of_git_lfs(llama: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 123\n"
    (llama / "model.safetensors").write_text(pointer)
    with pytest.raises(RequestError, match=r"is a pointer of Git LFS.*\nrun `git lfs pull`"):
        open_model(str(llama))


ENTRIES: list[Any] = [
    "../away.safetensors", "x/../../away.safetensors", "", ".", "..", "x" * 300, "x/" * 2000,
    "a\0b", "a\x1b[31m", "a\nb", "..\\away.safetensors", None, 7, ["a"], {"a": 1},
]  # fmt: skip


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: repr(entry)[:30])
@pytest.mark.parametrize("pickled", [False, True])
def test_no_entry_of_an_index_leads_out_of_its_folder(
    entry: Any, pickled: bool, llama: Path
) -> None:
    name = "pytorch_model.bin" if pickled else "model.safetensors"
    (llama / "model.safetensors").rename(llama.parent / "away.safetensors")
    entries = {"weight_map": {"a": entry}, "metadata": {}}
    (llama / f"{name}.index.json").write_text(json.dumps(entries))
    with pytest.raises(
        RequestError, match=rf"{name}\.index\.json is damaged: it lists a"
    ) as caught:
        open_model(str(llama), allow_pickle=True)
    assert len(str(caught.value)) < 500


def test_an_absolute_entry_of_an_index(llama: Path) -> None:
    away = (llama / "model.safetensors").rename(llama.parent / "away.safetensors")
    entries = {"weight_map": {"a": str(away)}, "metadata": {}}
    (llama / "model.safetensors.index.json").write_text(json.dumps(entries))
    with pytest.raises(RequestError, match="no file of this folder"):
        open_model(str(llama))


@pytest.mark.parametrize("field", ["weight_map", "metadata"])
@pytest.mark.parametrize("value", [None, [], 7, "x", True])
def test_an_index_of_wrong_types(field: str, value: Any, llama: Path) -> None:
    (llama / "model.safetensors").rename(llama / "model-1.safetensors")
    names = dict.fromkeys(read_header(llama / "model-1.safetensors"), "model-1.safetensors")
    index = {"weight_map": names, "metadata": {}} | {field: value}
    (llama / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(RequestError, match=rf"it has no {field}"):
        open_model(str(llama))
