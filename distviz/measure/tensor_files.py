"""Tensors in files: hidden states spilled between layers, and outputs of layers saved for a resume.

Both are raw bytes, written and read by the same two functions. A file of outputs is written while
the calls go through the layer, so it takes no memory; it is moved into its place when it is whole.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distviz.errors import MeasurementError
from distviz.output import counted
from distviz.results import replacing

if TYPE_CHECKING:
    import torch

_CHUNK_BYTES = 1 << 24
_SEQUENCES: dict[str, type[tuple[Any, ...] | list[Any]]] = {"tuple": tuple, "list": list}


def _chunks(values: torch.Tensor) -> Iterator[torch.Tensor]:
    for start in range(0, len(values), _CHUNK_BYTES):
        yield values[start : start + _CHUNK_BYTES]


def _write(file: FileIO, offset: int, values: torch.Tensor) -> None:
    """Write uint8 (bytes,) at an offset of an unbuffered file."""
    file.seek(offset)
    for chunk in _chunks(values):
        # A copy: numpy() of the tensor itself would make its memory impossible to release.
        data = chunk.to("cpu", copy=True).numpy().data
        while data:
            data = data[file.write(data) :]


def _read(file: FileIO, offset: int, values: torch.Tensor) -> None:
    """Fill uint8 (bytes,) with what `_write` wrote."""
    import torch

    file.seek(offset)
    for chunk in _chunks(values):
        data = np.empty(len(chunk), np.uint8)
        if file.readinto(data.data) < len(data):
            raise MeasurementError(f"{file.name} is shorter than it was when it was written")
        chunk.copy_(torch.from_numpy(data))


@dataclass(frozen=True, slots=True)
class SpillHandle:
    """Identifies a stored tensor: its memory if that was released, and its offset in the file."""

    n_bytes: int
    storage: torch.UntypedStorage | None = None
    offset: int = 0


@dataclass
class SpillBuffer:
    """Holds tensors between two layers: in memory up to a limit, beyond it in a file.

    A tensor in the file keeps its identity and shape and releases its memory. The file has no name,
    so nothing is left on the disk however the process ends.

    Parameters
    ----------
    limit_bytes
        Bytes that may stay in memory.
    folder
        Where the file is made; None is the system's folder for temporary files.
    """

    limit_bytes: int
    folder: str | None = None
    memory_bytes: int = 0
    file_bytes: int = 0
    _file: FileIO | None = None
    _end: int = 0
    _free: dict[int, list[int]] = field(default_factory=dict)

    @classmethod
    def within(cls, asked: int | None, device: torch.device) -> SpillBuffer:
        """Return a buffer of ``asked`` MB; by default a quarter of the free memory of a device."""
        from distviz.models import free_bytes

        return cls(free_bytes(device) // 4 if asked is None else asked * 1_000_000)

    @classmethod
    def on_cpu(cls, asked: int | None) -> SpillBuffer:
        """Return a buffer for tensors on the CPU, see `within`."""
        import torch

        return cls.within(asked, torch.device("cpu"))

    def store(self, tensor: torch.Tensor) -> SpillHandle:
        """Take a tensor, whose values may not be used until it is restored.

        Raises
        ------
        MeasurementError
            If the disk is full.
        """
        storage = tensor.untyped_storage()
        n_bytes = storage.nbytes()
        fits = self.memory_bytes + n_bytes <= self.limit_bytes
        if fits or not n_bytes or not storage.resizable():
            self.memory_bytes += n_bytes
            return SpillHandle(n_bytes)
        free = self._free.get(n_bytes)
        offset = free.pop() if free else self._end
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self.folder, buffering=0)  # noqa: SIM115
            _write(self._file, offset, _bytes_of(storage))
        except OSError as error:
            where = self.folder or tempfile.gettempdir()
            raise MeasurementError(
                f"{counted(offset + n_bytes, 'byte')} of hidden states do not fit on the disk "
                f"of {where}: "
                f"{error.strerror}",
                "free space there, set another folder by TMPDIR, or raise --stream-memory",
            ) from error
        self._end = max(self._end, offset + n_bytes)
        storage.resize_(0)
        self.file_bytes += n_bytes
        return SpillHandle(n_bytes, storage, offset)

    def restore(self, handle: SpillHandle) -> None:
        """Give a tensor its values again, in memory of its own."""
        if handle.storage is None or self._file is None:
            self.memory_bytes -= handle.n_bytes
            return
        handle.storage.resize_(handle.n_bytes)
        _read(self._file, handle.offset, _bytes_of(handle.storage))
        self._free.setdefault(handle.n_bytes, []).append(handle.offset)
        self.file_bytes -= handle.n_bytes

    def hold(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Take a tensor, and return what gives it back, any number of times."""
        handles = [self.store(tensor)]

        def restore() -> torch.Tensor:
            while handles:
                self.restore(handles.pop())
            return tensor

        return restore

    def close(self) -> None:
        """Remove the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _bytes_of(storage: torch.UntypedStorage) -> torch.Tensor:
    import torch

    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


class OutputWriter:
    """Writes outputs of layers, one after the other, into a file that appears at `finish`.

    An output is a tensor, or tuples, lists and dicts of tensors and plain values.

    Parameters
    ----------
    path
        The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = path.with_name(f"{path.name}.tmp")  # as `replacing` names it
        self._file = FileIO(self._temporary, "w")
        self._digest = _new_digest()
        self._end = 0

    def add(self, output: Any) -> Any:
        """Write an output; return plain data from which `read_output` restores it.

        Raises
        ------
        TypeError
            If it holds anything but tensors and plain values.
        OSError
            If the disk is full.
        """
        return _map_tensors(output, self._add)

    def _add(self, tensor: torch.Tensor) -> dict[str, Any]:
        dense = _dense(tensor)
        values = _flat(dense)
        entry = {
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.shape),
            "strides": list(dense.stride()),
            "offset": self._end,
        }
        _write(self._file, self._end, values)
        self._digest.update(values.numpy())
        self._end += len(values)
        return {"tensor": entry}

    def finish(self) -> str:
        """Move the file into its place, flushed to the disk; return its digest."""
        with replacing(self.path, is_durable=True):
            self._file.close()
        return str(self._digest.hexdigest())

    def abandon(self) -> None:
        """Remove what was written."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)


def check_file(path: Path, digest: str) -> None:
    """Check a file against what `OutputWriter.finish` returned.

    Raises
    ------
    ValueError
        If it is missing, or not what was written.
    """
    if path.exists() and not path.is_file():  # opening a named pipe would wait for its writer
        raise ValueError("it is not a regular file")
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, _new_digest).hexdigest()
    except OSError as error:
        raise ValueError(str(error.strerror)) from error
    if found != digest:
        raise ValueError("its content does not agree with its checksum")


def read_output(path: Path, entry: Any, device: torch.device) -> Any:
    """Return an output, in new memory, from what `OutputWriter.add` returned."""
    import torch

    if not isinstance(entry, dict):
        return entry
    ((kind, content),) = entry.items()
    if kind == "dict":
        return {name: read_output(path, part, device) for name, part in content}
    if kind in _SEQUENCES:
        return _SEQUENCES[kind](read_output(path, part, device) for part in content)
    dtype: torch.dtype = getattr(torch, content["dtype"])
    tensor = torch.empty_strided(content["shape"], content["strides"], dtype=dtype)
    if tensor.numel():
        with FileIO(path) as file:
            _read(file, content["offset"], _flat(tensor))
    return tensor.to(device)


def digest_of(value: Any) -> str:
    """Return a digest over all tensors in nested tuples, lists and dicts, in order."""
    found = _new_digest()
    for tensor in _tensors_in(value):
        found.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        found.update(_flat(_dense(tensor)).numpy())
    return str(found.hexdigest())


def _new_digest() -> Any:
    return hashlib.blake2b(digest_size=16)


def _tensors_in(value: Any) -> Iterator[torch.Tensor]:
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, tuple | list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors_in(part)


def _map_tensors(value: Any, save: Callable[[Any], Any]) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return save(value)
    kind = type(value).__name__
    if type(value) is dict:
        return {kind: [[name, _map_tensors(part, save)] for name, part in value.items()]}
    if type(value) in _SEQUENCES.values():
        return {kind: [_map_tensors(part, save) for part in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a layer returned a {kind}")


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    """Copy a tensor to the CPU, its dimensions in the same order in memory, without gaps."""
    import torch

    strides = torch.empty_like(tensor, device="meta").stride()
    dense = torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype)
    return dense.copy_(tensor)


def _flat(dense: torch.Tensor) -> torch.Tensor:
    """Return the memory of a tensor without gaps as uint8 (bytes,)."""
    import torch

    return torch.as_strided(dense, (dense.numel(),), (1,)).view(torch.uint8)
