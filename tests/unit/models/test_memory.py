"""Free memory: of the machine, of a container, and shared between processes."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from distviz.models import memory

CPU = torch.device("cpu")


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A control group in a folder, on a machine with 1,000 free bytes."""

    class Memory:
        available = 1000

    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    monkeypatch.setattr(memory, "Path", lambda _root, name: tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, 1000),
        ({"memory.max": "max", "memory.current": "10"}, 1000),
        ({"memory.max": "500", "memory.current": "100"}, 400),
        ({"memory.max": "500", "memory.current": "600"}, 0),
        ({"memory.max": "5000", "memory.current": "100"}, 1000),
        ({"memory.max": "500"}, 1000),
    ],
)
def test_the_smaller_of_machine_and_container(
    group: Path, limits: dict[str, str], expected: int
) -> None:
    for name, text in limits.items():
        (group / name).write_text(f"{text}\n")
    assert memory.free_bytes(CPU) == expected


def test_processes_of_a_launcher_share_it(group: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert memory.free_bytes(CPU) == 333


def test_a_gpu_reports_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda d: (asked.append(d), (70, 80))[1])
    gpu = torch.device("cuda:1")
    assert (memory.free_bytes(gpu), asked) == (70, [gpu])


def test_resident_memory_grows_with_what_is_allocated() -> None:
    before = memory.resident_bytes()
    with mmap.mmap(-1, 64 << 20) as block:  # never memory that was freed before
        block.write(b"x" * (64 << 20))
        assert memory.resident_bytes() - before > 32 << 20
