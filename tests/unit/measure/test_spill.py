"""Tensors that wait in memory or in a file come back as they were."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from distviz.errors import MeasurementError
from distviz.measure.spill import SpillBuffer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool])
@pytest.mark.parametrize("inference", [True, False])
def test_values_come_back_in_the_same_tensor(dtype: torch.dtype, inference: bool) -> None:
    room = SpillBuffer(0)
    with torch.inference_mode(inference):
        tensor = torch.randn(3, 5, 7).to(dtype)
        view = tensor[1:, ::2]
        before, seen = tensor.clone(), view.clone()
        ticket = room.store(tensor)
        assert tensor.untyped_storage().nbytes() == 0
        assert room.file_bytes == before.untyped_storage().nbytes()
        assert room.memory_bytes == 0
        room.restore(ticket)
        assert torch.equal(tensor, before)
        assert torch.equal(view, seen)
    assert room.file_bytes == 0
    room.close()


def test_the_limit_decides_and_places_are_used_again() -> None:
    room = SpillBuffer(100)
    tensors = [torch.full((10,), float(number)) for number in range(4)]  # 40 bytes each
    for _ in range(3):
        tickets = [room.store(tensor) for tensor in tensors]
        assert [ticket.storage is None for ticket in tickets] == [True, True, False, False]
        assert (room.memory_bytes, room.file_bytes) == (80, 80)
        assert room._file is not None
        assert os.fstat(room._file.fileno()).st_size == 80
        for ticket in reversed(tickets):
            room.restore(ticket)
    assert [float(tensor.mean()) for tensor in tensors] == [0, 1, 2, 3]
    assert (room.memory_bytes, room.file_bytes) == (0, 0)
    room.close()


def test_memory_that_cannot_be_given_up_stays() -> None:
    room = SpillBuffer(0)
    tensor = torch.from_numpy(torch.ones(8).numpy().copy())
    ticket = room.store(tensor)
    assert ticket.storage is None
    assert tensor.sum() == 8
    room.restore(ticket)


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    room = SpillBuffer(0, str(tmp_path))
    room.store(torch.ones(10_000))
    assert list(tmp_path.iterdir()) == []  # a file without a name: gone however the process ends
    room.close()


def test_a_full_disk_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    room = SpillBuffer(0, str(tmp_path))
    tensor = torch.ones(1000)
    message = rf"4,000 bytes of hidden states do not fit on the disk of {tmp_path}: No space left"
    with pytest.raises(MeasurementError, match=message + r".*\n.*TMPDIR.*--stream-memory"):
        room.store(tensor)
    assert tensor.sum() == 1000
    room.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no control of the size of a file here")
def test_a_limit_on_the_size_of_files_is_an_error_not_a_signal() -> None:
    """By the system itself: RLIMIT_FSIZE makes it refuse blocks, as a full disk does."""
    import resource
    import signal

    room = SpillBuffer(0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        room.store(torch.ones(10_000))
        with pytest.raises(MeasurementError, match="140,000 bytes of hidden states do not fit"):
            room.store(torch.ones(25_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    room.close()
