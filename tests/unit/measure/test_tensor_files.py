"""Spilled tensors and saved outputs are restored exactly, or an error is raised."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from distviz.errors import MeasurementError
from distviz.measure import tensor_files
from distviz.measure.tensor_files import (
    OutputWriter,
    SpillBuffer,
    check_file,
    digest_of,
    read_output,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool])
@pytest.mark.parametrize("inference", [True, False])
def test_values_are_restored_into_the_same_tensor(dtype: torch.dtype, inference: bool) -> None:
    spill = SpillBuffer(0)
    with torch.inference_mode(inference):
        tensor = torch.randn(3, 5, 7).to(dtype)
        view = tensor[1:, ::2]
        before, seen = tensor.clone(), view.clone()
        handle = spill.store(tensor)
        assert tensor.untyped_storage().nbytes() == 0
        assert spill.file_bytes == before.untyped_storage().nbytes()
        assert spill.memory_bytes == 0
        spill.restore(handle)
        assert torch.equal(tensor, before)
        assert torch.equal(view, seen)
    assert spill.file_bytes == 0
    spill.close()


def test_tensors_beyond_the_limit_are_in_the_file_whose_parts_are_reused() -> None:
    spill = SpillBuffer(100)
    tensors = [torch.full((10,), float(number)) for number in range(4)]  # 40 bytes each
    for _ in range(3):
        handles = [spill.store(tensor) for tensor in tensors]
        assert [handle.storage is None for handle in handles] == [True, True, False, False]
        assert (spill.memory_bytes, spill.file_bytes) == (80, 80)
        assert spill._file is not None
        assert os.fstat(spill._file.fileno()).st_size == 80
        for handle in reversed(handles):
            spill.restore(handle)
    assert [float(tensor.mean()) for tensor in tensors] == [0, 1, 2, 3]
    assert (spill.memory_bytes, spill.file_bytes) == (0, 0)
    spill.close()


def test_memory_that_cannot_be_released_stays() -> None:
    spill = SpillBuffer(0)
    tensor = torch.from_numpy(torch.ones(8).numpy().copy())
    handle = spill.store(tensor)
    assert handle.storage is None
    assert tensor.sum() == 8
    spill.restore(handle)


def test_no_file_is_left(tmp_path: Path) -> None:
    spill = SpillBuffer(0, str(tmp_path))
    spill.store(torch.ones(10_000))
    assert list(tmp_path.iterdir()) == []  # a file without a name: gone however the process ends
    spill.close()


def test_a_full_disk_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tensor_files, "_write", full)
    spill = SpillBuffer(0, str(tmp_path))
    tensor = torch.ones(1000)
    message = rf"4,000 bytes of hidden states do not fit on the disk of {tmp_path}: No space left"
    with pytest.raises(MeasurementError, match=message + r".*\n.*TMPDIR.*--stream-memory"):
        spill.store(tensor)
    assert tensor.sum() == 1000
    spill.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no control of the size of a file here")
def test_a_limit_on_file_sizes_is_an_error_not_a_signal() -> None:
    """RLIMIT_FSIZE makes the system refuse a write, as a full disk does."""
    import resource
    import signal

    spill = SpillBuffer(0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        spill.store(torch.ones(10_000))
        with pytest.raises(MeasurementError, match="140,000 bytes of hidden states do not fit"):
            spill.store(torch.ones(25_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    spill.close()


# Outputs of layers -------------------------------------------------------------------------


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and a.stride() == b.stride()
        return same and torch.equal(a.float().nan_to_num(7), b.float().nan_to_num(7))
    if isinstance(a, tuple | list):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[name], b[name]) for name in a)
    return type(a) is type(b) and a == b


OUTPUTS: list[Any] = [
    torch.randn(2, 3, 4),
    torch.randn(2, 3, 4).to(torch.bfloat16),
    (torch.full((2, 3), torch.nan), None, True, 1.5, "x", [torch.tensor(3)]),
    {"a": torch.randn(3, 4).T, "b": (torch.zeros(0, 4),)},
    torch.randn(2, 5, 4).transpose(1, 2),
    torch.tensor([True, False]),
]


def test_outputs_are_restored(tmp_path: Path) -> None:
    writer = OutputWriter(tmp_path / "outputs")
    entries = [writer.add(output) for output in OUTPUTS]
    assert not (tmp_path / "outputs").exists()
    digest = writer.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]
    path = tmp_path / "outputs"
    check_file(path, digest)
    for output, where in zip(OUTPUTS, entries, strict=True):
        assert equal(read_output(path, where, CPU), output)
    first, second = (read_output(path, entries[0], CPU) for _ in range(2))
    assert first.data_ptr() != second.data_ptr()


def test_only_the_values_of_a_view_are_written(tmp_path: Path) -> None:
    writer = OutputWriter(tmp_path / "outputs")
    part = torch.randn(8, 6)[2:4, ::2]
    entries = writer.add(part)
    writer.finish()
    assert torch.equal(read_output(tmp_path / "outputs", entries, CPU), part)
    assert (tmp_path / "outputs").stat().st_size == part.numel() * 4


def test_unknown_types_are_refused(tmp_path: Path) -> None:
    writer = OutputWriter(tmp_path / "outputs")
    with pytest.raises(TypeError, match="a layer returned a set"):
        writer.add({1, 2})
    writer.abandon()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"\1" + data[1:], None])
def test_damage_is_found(damage: Any, tmp_path: Path) -> None:
    writer = OutputWriter(tmp_path / "outputs")
    writer.add(torch.zeros(100))
    digest = writer.finish()
    path = tmp_path / "outputs"
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"does not agree with its checksum|No such file"):
        check_file(path, digest)


def test_digests_depend_on_values_shapes_and_types() -> None:
    values = [
        torch.zeros(4),
        torch.zeros(2, 2),
        torch.zeros(4).int(),
        torch.ones(4),
        -torch.zeros(4),
    ]
    assert len({digest_of(((value,), {"mask": None})) for value in values}) == len(values)
    assert digest_of([torch.ones(2, 3).T]) == digest_of({"a": torch.ones(3, 2)})
