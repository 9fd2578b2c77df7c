"""What layers returned comes back as it was, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distviz.measure.layer_outputs import OutputsWriter, check_file, digest_of, read_output

CPU = torch.device("cpu")


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


def test_outputs_come_back(tmp_path: Path) -> None:
    writer = OutputsWriter(tmp_path / "outputs")
    told = [writer.add(output) for output in OUTPUTS]
    assert not (tmp_path / "outputs").exists()
    digest = writer.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]
    path = tmp_path / "outputs"
    check_file(path, digest)
    for output, where in zip(OUTPUTS, told, strict=True):
        assert equal(read_output(path, where, CPU), output)
    first, second = (read_output(path, told[0], CPU) for _ in range(2))
    assert first.data_ptr() != second.data_ptr()


def test_a_piece_of_a_larger_tensor_is_kept_alone(tmp_path: Path) -> None:
    writer = OutputsWriter(tmp_path / "outputs")
    part = torch.randn(8, 6)[2:4, ::2]
    told = writer.add(part)
    writer.finish()
    assert torch.equal(read_output(tmp_path / "outputs", told, CPU), part)
    assert (tmp_path / "outputs").stat().st_size == part.numel() * 4


def test_what_is_not_known_is_refused(tmp_path: Path) -> None:
    writer = OutputsWriter(tmp_path / "outputs")
    with pytest.raises(TypeError, match="a layer returned a set"):
        writer.add({1, 2})
    writer.abandon()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"\1" + data[1:], None])
def test_damage_is_found(damage: Any, tmp_path: Path) -> None:
    writer = OutputsWriter(tmp_path / "outputs")
    writer.add(torch.zeros(100))
    digest = writer.finish()
    path = tmp_path / "outputs"
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"does not agree with its checksum|No such file"):
        check_file(path, digest)


def test_digests_tell_values_shapes_and_types_apart() -> None:
    values = [
        torch.zeros(4),
        torch.zeros(2, 2),
        torch.zeros(4).int(),
        torch.ones(4),
        -torch.zeros(4),
    ]
    assert len({digest_of(((value,), {"mask": None})) for value in values}) == len(values)
    assert digest_of([torch.ones(2, 3).T]) == digest_of({"a": torch.ones(3, 2)})
