"""The loops over activations: Numba on the CPU, torch on other devices, with equal results.

Every function takes a tensor (rows, channels) and the indices of some rows. Importing this package
imports torch and Numba, so only measuring code does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch

from distviz.stats.kernels import cpu, formats, numba_loops, rotation, torch_ops
from distviz.stats.kernels.numba_loops import (
    add_table,
    distance_of_rank,
    select_distance,
    summarise,
)
from distviz.stats.kernels.rng import row_keys, uniforms
from distviz.stats.kernels.rotation import rotation_block
from distviz.stats.kernels.types import (
    ChannelSums,
    Cut,
    Observation,
    PairSums,
    QuantizationSums,
    Tally,
)
from distviz.stats.moments import Moments

__all__ = [
    "ChannelSums",
    "Cut",
    "Moments",
    "Observation",
    "PairSums",
    "QuantizationSums",
    "Tally",
    "add_table",
    "apply",
    "compare",
    "count",
    "count_magnitudes",
    "distance_of_rank",
    "find_cut",
    "find_largest",
    "find_moved",
    "force_torch",
    "gather",
    "is_compiled",
    "observe",
    "quantization_sums",
    "rotate",
    "rotation_block",
    "row_keys",
    "select_distance",
    "share_sequences",
    "sorts_there",
    "summarise",
    "uniforms",
]

_CPU_TYPES = (torch.float32, torch.bfloat16, torch.float16)
_forced = False
P = ParamSpec("P")
Part = TypeVar("Part")
R = TypeVar("R")


@contextmanager
def force_torch() -> Iterator[None]:
    """Use torch for CPU tensors too (for tests)."""
    global _forced  # noqa: PLW0603
    before, _forced = _forced, True
    try:
        yield
    finally:
        _forced = before


def is_compiled() -> bool:
    """Whether the compiled loops are cached on disk, so that a first call is quick."""
    folder = getattr(getattr(numba_loops.count_16, "_cache", None), "cache_path", None)
    return folder is not None and any(Path(folder).glob("numba_loops.observe*.nbi"))


def sorts_there(values: torch.Tensor) -> bool:
    """Whether few values are sorted on their device; else NumPy sorts them."""
    is_elsewhere = values.device.type != "cpu" or _forced
    return is_elsewhere and torch_ops.has_float64(values.device.type)


@wraps(formats.quantization_sums)
def quantization_sums(*args: Any, **kwargs: Any) -> QuantizationSums:  # noqa: D103
    return formats.quantization_sums(*args, compiled=not _forced, **kwargs)


def rotate(values: torch.Tensor) -> torch.Tensor:
    """See `distviz.stats.kernels.rotation.rotate`."""
    return rotation.rotate(values, compiled=not _forced)


def share_sequences(values: torch.Tensor, task: Callable[[Part], R], parts: list[Part]) -> list[R]:
    """Run a task on each part of a tensor; on threads where there are many parts on the CPU.

    The task may call the other functions of this package, which share their own work otherwise.
    """
    is_here = values.device.type == "cpu" and not _forced
    if not is_here or len(parts) < 2 * torch.get_num_threads():
        return [task(part) for part in parts]
    mode = torch.is_inference_mode_enabled()  # of this thread only

    def one(part: Part) -> R:
        with torch.inference_mode(mode):
            return task(part)

    return cpu.share(one, parts)


def _dispatch(function: Callable[P, R]) -> Callable[P, R]:
    """Call a function of `cpu`, or the one of that name in `torch_ops`, by the first argument."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        values: Any = args[0]
        on_cpu = values.device.type == "cpu" and values.dtype in _CPU_TYPES and not _forced
        if on_cpu and not (function is cpu.apply and values.dtype == torch.float16):
            return function(*args, **kwargs)
        found: R = getattr(torch_ops, function.__name__)(*args, **kwargs)
        return found

    return call


observe = _dispatch(cpu.observe)
count = _dispatch(cpu.count)
count_magnitudes = _dispatch(cpu.count_magnitudes)
gather = _dispatch(cpu.gather)
find_cut = _dispatch(cpu.find_cut)
find_largest = _dispatch(cpu.find_largest)
find_moved = _dispatch(cpu.find_moved)
apply = _dispatch(cpu.apply)
compare = _dispatch(cpu.compare)
