"""Check the safetensors files of a checkpoint by their headers and index, without torch.

A header holds name, type, shape and offsets of every tensor, so a truncated file, an index that
names the wrong file and a header that contradicts itself are found in milliseconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from distviz.errors import RequestError, first_line
from distviz.models.json_files import read_json
from distviz.output import counted
from distviz.parsing import parse_json

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

FLOATS = frozenset(("F64", "F32", "F16", "BF16"))
"""Types of safetensors that hold weights as they are; others are codes, indices or scales."""

_LENGTH_BYTES = 8
_MOST_HEADER_BYTES = 100_000_000  # as in safetensors
_MOST_BYTES = 1 << 63
_MOST_WORDS, _SHOWN = 300, 80
_NAME_BYTES, _PATH_LENGTH = 255, 1000


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a file.

    Attributes
    ----------
    file
        The file that holds it.
    dtype
        Type name of safetensors: ``"BF16"``, ``"F32"``, ``"I32"``.
    shape
        Shape in the file.
    bytes
        Length in the file.
    start
        Offset from the start of the file, in bytes.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    start: int = 0


def read_shards(index: Path) -> dict[str, StoredTensor]:
    """Return every tensor of the safetensors files that an index lists.

    Raises
    ------
    RequestError
        If a file is missing or damaged, or contradicts the index. Files and tensors are named.
    """
    found: dict[str, StoredTensor] = {}
    for path in shard_paths(index):
        for name, tensor in read_header(path).items():
            if name in found:
                raise RequestError(
                    f"tensor {name} is in two files, {found[name].file.name} and {path.name}",
                    f"{index.parent} mixes files of different downloads; fetch it again",
                )
            found[name] = tensor
    _check_index(index, found)
    check_metadata(index)
    return found


def shard_paths(index: Path) -> tuple[Path, ...]:
    """Return the files that an index lists, sorted.

    Raises RequestError if one is missing or outside the folder of the index. A file may be a link:
    those of a hub cache are.
    """
    names = sorted(set(_weight_map(index).values()))
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise RequestError(
            f"{len(missing)} of {counted(len(names), 'weights file')} are missing, the first: "
            f"{missing[0]}",
            f"{index.name} lists them; complete the download of {index.parent}",
        )
    return tuple(index.parent / name for name in names)


def check_metadata(index: Path) -> None:
    """Raise RequestError if an index has no metadata, an object that transformers requires."""
    if not isinstance(read_json(index).get("metadata"), dict):
        raise RequestError(
            f"{index} is damaged: it has no metadata, which transformers requires",
            'add "metadata": {} to it, or fetch it again',
        )


def _weight_map(index: Path) -> dict[str, str]:
    mapping = read_json(index).get("weight_map")
    if not isinstance(mapping, dict) or not mapping:
        raise damaged(index, "it has no weight_map, an object of file names")
    for name, file in mapping.items():
        if not isinstance(file, str) or not _is_inside(file):
            raise damaged(
                index, f"it lists {name[:_SHOWN]} in {str(file)[:_SHOWN]!r}, no file of this folder"
            )
    return mapping


def _is_inside(file: str) -> bool:
    """Return whether an entry is the name of a file in the folder or in one below it."""
    path = PurePosixPath(file)
    return (
        file.isprintable()
        and "\\" not in file
        and not path.is_absolute()
        and bool(path.parts)
        and all(part != ".." and len(part.encode()) <= _NAME_BYTES for part in path.parts)
        and len(file) <= _PATH_LENGTH
    )


def _check_index(index: Path, found: Mapping[str, StoredTensor]) -> None:
    mapping = _weight_map(index)
    for name in {**mapping, **found}:
        listed = index.parent / mapping[name] if name in mapping else None
        held = found[name].file if name in found else None
        if listed != held:
            entry = f"lists {name} in {mapping[name]}" if listed else f"does not list {name}"
            where = f"it is in {held.name}" if held else "no file has it"
            raise RequestError(
                f"{index} is wrong: it {entry}, but {where}",
                "the index belongs to other files; fetch the checkpoint again",
            )


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of one file; RequestError if the file contradicts its header."""
    size, header = _header(path)
    try:
        content = parse_json(header)
        content.pop("__metadata__", None)
        found = {name: _stored(path, entry, len(header)) for name, entry in content.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise damaged(path, "its header is not the JSON of a safetensors file") from error
    ends = (tensor.start + tensor.bytes for tensor in found.values())
    expected = max(ends, default=_LENGTH_BYTES + len(header))
    if size != expected:
        state = "truncated" if size < expected else "longer than its header says"
        raise damaged(path, f"{state}: {counted(size, 'byte')} where {expected:,} are expected")
    _check_tensors(path, found)
    return found


def _header(path: Path) -> tuple[int, bytes]:
    """Return the size of a file in bytes, and its header."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(_LENGTH_BYTES)
            length = int.from_bytes(start, "little")
            if 0 < length <= min(size - _LENGTH_BYTES, _MOST_HEADER_BYTES):
                return size, file.read(length)
    except OSError as error:
        raise RequestError(
            f"{path} cannot be read: {error.strerror}", "check its rights, or copy it again"
        ) from error
    if start == b"version ":
        raise RequestError(
            f"{path} is a pointer of Git LFS, not the file itself",
            "run `git lfs pull` in its folder, or download the file",
        )
    raise damaged(path, f"its header does not fit into its {counted(size, 'byte')}")


def _stored(path: Path, entry: dict[str, Any], header_bytes: int) -> StoredTensor:
    start, end = entry["data_offsets"]
    shape, dtype = entry["shape"], entry["dtype"]
    if not isinstance(dtype, str) or not all(_is_size(size) for size in (start, end, *shape)):
        raise TypeError(entry)
    offset = _LENGTH_BYTES + header_bytes + start
    return StoredTensor(path, dtype, tuple(shape), end - start, offset)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MOST_BYTES


def _check_tensors(path: Path, found: Mapping[str, StoredTensor]) -> None:
    """Refuse a tensor whose offsets contradict its shape and type; safetensors does not name it.

    Everything else, overlaps and unknown types among it, is left to safetensors.
    """
    from safetensors import SafetensorError, safe_open

    for name, tensor in found.items():
        bits = re.search(r"\d{1,3}", tensor.dtype)  # BOOL has no number and takes a byte
        expected = _product(tensor.shape) * (int(bits[0]) if bits else 8) // 8
        if tensor.bytes != expected:
            raise damaged(
                path,
                f"tensor {name} ({sizes(tensor.shape)} {tensor.dtype}) takes "
                f"{counted(tensor.bytes, 'byte')} where {expected:,} are expected",
            )
    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        misplaced = re.search(r"invalid offset for tensor `(.+)`", str(error))
        why = f"tensor {misplaced[1]} overlaps another or leaves a gap" if misplaced else ""
        raise damaged(path, why or first_line(error)) from error


def _product(shape: tuple[int, ...]) -> int:
    """Return the number of values, or something beyond every file: shapes may be absurd."""
    total = 1
    for size in sorted(shape):  # a zero first
        total = min(total * size, _MOST_BYTES)
    return total


def sizes(shape: Iterable[int]) -> str:
    """Return a shape in words: its sizes with multiplication signs between them."""
    return "×".join(map(str, shape)) or "a single number"


def damaged(path: Path, why: str) -> RequestError:
    """Return the error of a damaged file."""
    why = why if len(why) <= _MOST_WORDS else f"{why[:_MOST_WORDS]}…"
    return RequestError(f"{path} is damaged: {why}", "download or copy the file again")
