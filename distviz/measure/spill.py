"""Hidden states that wait for the next layer: in memory up to a limit, past it in a file.

A tensor that waits in the file keeps its identity and its shape and gives up its memory; it gets
both back before anybody looks at it. The file has no name, so nothing is left behind however the
process ends, and its blocks are taken before they are written: a full disk is an error, not a
signal.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from distviz.errors import MeasurementError

if TYPE_CHECKING:
    import torch

__all__ = ["SpillBuffer", "SpillHandle"]


@dataclass(frozen=True, slots=True)
class SpillHandle:
    """For one tensor that waits.

    Attributes
    ----------
    n_bytes
        Its memory.
    storage
        The memory itself if it was given up, else None.
    place
        Where its values are in the file.
    """

    n_bytes: int
    storage: torch.UntypedStorage | None = None
    place: int = 0


@dataclass
class SpillBuffer:
    """Keeps tensors between two layers.

    Parameters
    ----------
    limit_bytes
        How much may wait in memory; what comes later waits in the file.
    folder
        Where the file is made; None takes the system's place for temporary files.
    """

    limit_bytes: int
    folder: str | None = None
    memory_bytes: int = 0
    file_bytes: int = 0
    _file: IO[bytes] | None = None
    _free: dict[int, list[int]] = field(default_factory=dict)

    def store(self, tensor: torch.Tensor) -> SpillHandle:
        """Take a tensor in; its memory may not be touched until it is given back.

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
        place = self._place(n_bytes)
        self._mapped(place, n_bytes).copy_(_bytes_of(storage))
        storage.resize_(0)
        self.file_bytes += n_bytes
        return SpillHandle(n_bytes, storage, place)

    def restore(self, ticket: SpillHandle) -> None:
        """Give a tensor its values back, in memory of its own."""
        if ticket.storage is None:
            self.memory_bytes -= ticket.n_bytes
            return
        ticket.storage.resize_(ticket.n_bytes)
        _bytes_of(ticket.storage).copy_(self._mapped(ticket.place, ticket.n_bytes))
        self._free.setdefault(ticket.n_bytes, []).append(ticket.place)
        self.file_bytes -= ticket.n_bytes

    def close(self) -> None:
        """Give the file up."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _place(self, n_bytes: int) -> int:
        """Return where so many bytes may lie in the file, which is made longer if need be."""
        if self._free.get(n_bytes):
            return self._free[n_bytes].pop()
        end = 0
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115
            end = self._file.seek(0, os.SEEK_END)
            _allocate(self._file, end, n_bytes)
        except OSError as error:
            where = self.folder or tempfile.gettempdir()
            raise MeasurementError(
                f"{end + n_bytes:,} bytes of hidden states do not fit on the disk of {where}: "
                f"{error.strerror}",
                "free space there, name another place with TMPDIR, or raise --stream-memory",
            ) from error
        return end

    def _mapped(self, place: int, n_bytes: int) -> torch.Tensor:
        """Map a piece of the file, for each use anew: pages that stay mapped count as ours."""
        import torch

        file: Any = self._file
        return torch.from_numpy(np.memmap(file, np.uint8, "r+", place, (n_bytes,)))


def _bytes_of(storage: torch.UntypedStorage) -> torch.Tensor:
    import torch

    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _allocate(file: IO[bytes], start: int, n_bytes: int) -> None:
    """Take blocks of the disk for good: writing to a mapping without them ends in a signal."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), start, n_bytes)
    else:  # macOS
        file.seek(start)
        file.write(bytes(n_bytes))
        file.flush()
