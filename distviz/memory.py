"""How much memory there is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["free_bytes", "resident_bytes"]


def free_bytes(device: torch.device) -> int:
    """Return how much memory a model may take on a device."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    free = int(psutil.virtual_memory().available)
    limit, used = (_cgroup(name) for name in ("memory.max", "memory.current"))
    return free if limit is None or used is None else min(free, max(0, limit - used))


def resident_bytes() -> int:
    """Return how much memory this process takes."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def _cgroup(name: str) -> int | None:
    """Return a number of the control group that a container runs in, None where there is none."""
    try:
        text = Path("/sys/fs/cgroup", name).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
