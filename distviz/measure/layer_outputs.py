"""What a layer returned to every call that went through it, in a file to go on from.

The file is written while the calls go through, so it takes no memory; what is told of it (where
each tensor lies, and a digest over all) is for whoever keeps the state. A layer's output is a
tensor, or tuples, lists and dicts of tensors and plain values.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = ["OutputsWriter", "check_file", "digest_of", "read_output"]

_PIECE = 1 << 24


class OutputsWriter:
    """Writes outputs one after the other.

    Parameters
    ----------
    path
        The file; written beside it until `finish`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._beside = path.with_name(path.name + ".tmp")
        self._file = self._beside.open("wb")
        self._digest = hashlib.blake2b(digest_size=16)
        self._place = 0

    def add(self, output: Any) -> Any:
        """Write an output; return plain data that tells where it lies.

        Raises
        ------
        TypeError
            If it holds something else than tensors and plain values.
        OSError
            If the disk is full.
        """
        return _described(output, self._add_tensor)

    def _add_tensor(self, tensor: torch.Tensor) -> dict[str, Any]:
        data = _bytes_of(tensor)
        entry = {
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.shape),
            "strides": _dense_strides(tensor),
            "place": self._place,
        }
        self._file.write(data)
        self._digest.update(data)
        self._place += len(data)
        return {"tensor": entry}

    def finish(self) -> str:
        """Put the file in its place, whole and on the disk; return its digest."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._beside.replace(self.path)
        return self._digest.hexdigest()

    def abandon(self) -> None:
        """Leave nothing."""
        self._file.close()
        self._beside.unlink(missing_ok=True)


def check_file(path: Path, digest: str) -> None:
    """Check a file against what `OutputsWriter.finish` returned.

    Raises
    ------
    ValueError
        If it is not there, or not what was written.
    """
    found = hashlib.blake2b(digest_size=16)
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                found.update(piece)
    except OSError as error:
        raise ValueError(str(error.strerror)) from error
    if found.hexdigest() != digest:
        raise ValueError("its content does not agree with its checksum")


def read_output(path: Path, told: Any, device: torch.device) -> Any:
    """Return an output, new in memory, by what `OutputsWriter.add` told of it."""
    if isinstance(told, list):
        return [read_output(path, part, device) for part in told]
    if not isinstance(told, dict):
        return told
    ((kind, content),) = told.items()
    if kind == "tuple":
        return tuple(read_output(path, part, device) for part in content)
    if kind == "dict":
        return {name: read_output(path, part, device) for name, part in content}
    return _read_tensor(path, content).to(device)


def _read_tensor(path: Path, told: dict[str, Any]) -> torch.Tensor:
    import torch

    dtype: torch.dtype = getattr(torch, told["dtype"])
    tensor = torch.empty_strided(told["shape"], told["strides"], dtype=dtype)
    if tensor.numel():
        size = tensor.numel() * dtype.itemsize
        values = torch.from_numpy(np.fromfile(path, np.uint8, size, offset=told["place"]))
        torch.as_strided(tensor, (tensor.numel(),), (1,)).view(torch.uint8).copy_(values)
    return tensor


def digest_of(value: Any) -> str:
    """Return a digest over all tensors in nested tuples, lists and dicts, in order."""
    found = hashlib.blake2b(digest_size=16)

    def add(tensor: torch.Tensor) -> None:
        found.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        found.update(_bytes_of(tensor))

    _visit(value, add)
    return found.hexdigest()


def _visit(value: Any, add: Callable[[Any], None]) -> None:
    import torch

    if isinstance(value, torch.Tensor):
        add(value)
    elif isinstance(value, tuple | list):
        for part in value:
            _visit(part, add)
    elif isinstance(value, dict):
        for part in value.values():
            _visit(part, add)


def _described(value: Any, keep: Callable[[Any], Any]) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return keep(value)
    if type(value) is tuple:
        return {"tuple": [_described(part, keep) for part in value]}
    if type(value) is list:
        return [_described(part, keep) for part in value]
    if type(value) is dict:
        return {"dict": [[name, _described(part, keep)] for name, part in value.items()]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a layer returned a {type(value).__name__}")


def _dense_strides(tensor: torch.Tensor) -> list[int]:
    """Return the strides of the tensor if it fills its memory, else those of a contiguous one."""
    import torch

    dense = torch.empty_like(tensor, device="meta")  # keeps the order of dimensions where dense
    return list(dense.stride())


def _bytes_of(tensor: torch.Tensor) -> bytes:
    import torch

    strides = _dense_strides(tensor)
    dense = torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype)
    dense.copy_(tensor)
    flat = torch.as_strided(dense, (dense.numel(),), (1,))
    return flat.view(torch.uint8).numpy().tobytes()
