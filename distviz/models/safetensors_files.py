"""The safetensors files of a checkpoint, judged by their headers and their index: no torch.

A header tells name, type, shape and place of every tensor, so a file cut short, an index that
points to the wrong file and a header that contradicts itself are found in milliseconds.
"""

from __future__ import annotations

import itertools
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distviz.errors import RequestError

__all__ = [
    "INDEX",
    "SINGLE",
    "StoredTensor",
    "damaged",
    "read_header",
    "read_json",
    "read_tensors",
    "shard_paths",
]

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_MAX_HEADER = 100_000_000
_LENGTH_BYTES = 8
# Bits a value. A type that is not listed is left to the library to judge.
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16,
    "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
    "F4": 4,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor as a file holds it.

    Attributes
    ----------
    file
        The file it lies in.
    dtype
        In the words of safetensors: ``"BF16"``, ``"F32"``, ``"I32"``.
    shape
        As stored.
    bytes
        Its length in the file.
    start
        Where it begins, from the start of the file.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    start: int = 0


def read_tensors(folder: Path) -> dict[str, StoredTensor] | None:
    """Return every tensor of a folder's safetensors files; None where there are none.

    Raises
    ------
    RequestError
        If a file is missing, not as long as its header says, or its header is wrong; if the index
        and the files tell different tales. Files and tensors are named.
    """
    single, index = folder / SINGLE, folder / INDEX
    if single.is_file():
        return read_header(single)
    if not index.is_file():
        return None
    found: dict[str, StoredTensor] = {}
    for path in shard_paths(index):
        for name, tensor in read_header(path).items():
            if name in found:
                raise RequestError(
                    f"tensor {name} is in two files, {found[name].file.name} and {path.name}",
                    f"{folder} mixes files of different downloads; fetch it again",
                )
            found[name] = tensor
    _check_index(index, found)
    return found


def shard_paths(index: Path) -> tuple[Path, ...]:
    """Return the files that an index lists, sorted; RequestError if one is missing."""
    names = sorted(set(_weight_map(index).values()))
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise RequestError(
            f"{len(missing)} of {len(names)} weights files are missing, the first: {missing[0]}",
            f"{index.name} lists them; complete the download of {index.parent}",
        )
    return tuple(index.parent / name for name in names)


def _weight_map(index: Path) -> dict[str, str]:
    mapping = read_json(index).get("weight_map")
    if not isinstance(mapping, dict) or not mapping:
        raise RequestError(f"{index} is damaged: it has no weight_map")
    return {name: str(file) for name, file in mapping.items()}


def _check_index(index: Path, found: Mapping[str, StoredTensor]) -> None:
    mapping = _weight_map(index)
    for name, file in mapping.items():
        if name not in found or found[name].file != index.parent / file:
            where = f"it is in {found[name].file.name}" if name in found else "no file has it"
            raise RequestError(
                f"{index} is wrong: it says that {file} holds {name}, but {where}",
                "the index belongs to other files; fetch the checkpoint again",
            )
    unlisted = next((name for name in found if name not in mapping), None)
    if unlisted is not None:
        raise RequestError(
            f"{index} is wrong: it does not list {unlisted}, which {found[unlisted].file.name} "
            "holds",
            "the index belongs to other files; fetch the checkpoint again",
        )


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of one file; RequestError if it is not as its header says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(_LENGTH_BYTES)
        length = struct.unpack("<Q", start)[0] if len(start) == _LENGTH_BYTES else 0
        if not 0 < length <= min(_MAX_HEADER, max(0, size - _LENGTH_BYTES)):
            raise damaged(path, f"its header does not fit into its {size:,} bytes")
        header = file.read(length)
    try:
        entries = {k: v for k, v in json.loads(header).items() if k != "__metadata__"}
        spans = {name: tuple(map(int, entry["data_offsets"])) for name, entry in entries.items()}
        end = max((stop for _, stop in spans.values()), default=0)
        found = {
            name: StoredTensor(
                path,
                str(entry["dtype"]),
                tuple(map(int, entry["shape"])),
                b - a,
                _LENGTH_BYTES + length + a,
            )
            for (name, entry), (a, b) in zip(entries.items(), spans.values(), strict=True)
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise damaged(path, "its header is not the JSON of a safetensors file") from error
    expected = _LENGTH_BYTES + length + end
    if size != expected:
        state = "truncated" if size < expected else "longer than its header says"
        raise damaged(path, f"{state}: {size:,} bytes where {expected:,} are expected")
    _check_spans(path, spans, found)
    return found


def _check_spans(
    path: Path, spans: Mapping[str, tuple[int, ...]], found: Mapping[str, StoredTensor]
) -> None:
    """Refuse a tensor whose place contradicts its shape and type, or overlaps another's."""
    for name, tensor in found.items():
        bits = _BITS.get(tensor.dtype)
        expected = tensor.bytes if bits is None else math.prod(tensor.shape) * bits // 8
        if tensor.bytes != expected or tensor.bytes < 0:
            shape = "×".join(map(str, tensor.shape))
            raise damaged(
                path,
                f"tensor {name} ({shape} {tensor.dtype}) takes {tensor.bytes:,} bytes where "
                f"{expected:,} are expected",
            )
    order = sorted(spans, key=lambda name: spans[name])
    for before, name in itertools.pairwise(order):
        if spans[name][0] < spans[before][1]:
            raise damaged(path, f"tensors {before} and {name} overlap")


def damaged(path: Path, why: str) -> RequestError:
    """Return the error of a file that is not as it should be."""
    return RequestError(f"{path} is damaged: {why}", "download or copy the file again")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; RequestError if it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise RequestError(f"{path} is damaged: not a JSON object")
    return content
