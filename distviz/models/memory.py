"""Free memory of devices, and memory of this process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from distviz.errors import RequestError

if TYPE_CHECKING:
    import torch


def free_bytes(device: torch.device) -> int:
    """Return the memory in bytes that a model may take on a device.

    Processes that a launcher started on this machine share its memory equally.
    """
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    free = int(psutil.virtual_memory().available)
    limit, used = (_cgroup(name) for name in ("memory.max", "memory.current"))
    if limit is not None and used is not None:
        free = min(free, max(0, limit - used))
    return free // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def check_memory(needed: float, what: str) -> None:
    """Raise a RequestError where bytes of what is built would not fit into free memory."""
    import torch

    free = free_bytes(torch.device("cpu"))
    if needed > free:
        raise RequestError(
            f"{what} need {needed / 1e9:,.1f} GB of memory, {free / 1e9:.1f} GB are free",
            "give smaller sizes",
        )


def resident_bytes() -> int:
    """Return the resident memory of this process in bytes."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def _cgroup(name: str) -> int | None:
    """Return a value of the container's control group; None if there is none."""
    try:
        text = Path("/sys/fs/cgroup", name).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
