"""The loops over activations: Numba on the CPU, torch on other devices, with equal results.

Every function takes a tensor (rows, channels) and the indices of some rows. Importing this package
imports torch and Numba, so only measuring code does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

import torch

from distviz.stats.kernels import (
    cpu,
    device_plans,
    device_types,
    format_loops,
    formats,
    numba_loops,
    pair_loops,
    plan_loops,
    plans,
    rotation,
    rotation_loops,
    sequence_loops,
    torch_ops,
)
from distviz.stats.kernels.compiling import compile_ahead, is_compiled, keep_compiled
from distviz.stats.kernels.cpu import summarise
from distviz.stats.kernels.device_counts import count_on_device, magnitudes_on_device
from distviz.stats.kernels.device_plans import random_bits
from distviz.stats.kernels.device_summary import (
    largest_on_device,
    movement_on_device,
    summarise_on_device,
)
from distviz.stats.kernels.device_types import (
    DeviceObservation,
    DeviceRows,
    Origin,
    moments_of,
    moments_of_powers,
)
from distviz.stats.kernels.formats import (
    DeviceLosses,
    FormatWindows,
    losses_on_device,
    units_of,
)
from distviz.stats.kernels.host_copies import HostCopies, to_device, to_host
from distviz.stats.kernels.numba_loops import add_table
from distviz.stats.kernels.plans import row_keys
from distviz.stats.kernels.rng import uniforms
from distviz.stats.kernels.rotation import rotation_block
from distviz.stats.kernels.types import (
    ChannelSums,
    Decision,
    Observation,
    PairSums,
    QuantizationSums,
    Request,
)
from distviz.stats.moments import Moments

__all__ = [
    "ChannelSums",
    "Decision",
    "DeviceLosses",
    "DeviceObservation",
    "DeviceRows",
    "FormatWindows",
    "HostCopies",
    "Moments",
    "Observation",
    "Origin",
    "PairSums",
    "QuantizationSums",
    "Request",
    "add_table",
    "apply",
    "compare",
    "compile_ahead",
    "count_magnitudes",
    "count_on_device",
    "counts_on_device",
    "decide",
    "find_largest",
    "find_moved",
    "force_torch",
    "is_compiled",
    "largest_on_device",
    "losses_on_device",
    "magnitudes_on_device",
    "moments_of",
    "moments_of_powers",
    "movement_on_device",
    "observe",
    "quantization_sums",
    "random_bits",
    "rotate",
    "rotation_block",
    "row_keys",
    "share_sequences",
    "summarise",
    "summarise_on_device",
    "to_device",
    "to_host",
    "uniforms",
    "units_of",
]

_CPU_TYPES = (torch.float32, torch.bfloat16, torch.float16)
_ALL_TYPES = (*_CPU_TYPES, torch.float64)
_forced = False
keep_compiled([format_loops, numba_loops, pair_loops, plan_loops, rotation_loops, sequence_loops])
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


def counts_on_device(values: torch.Tensor) -> bool:
    """Whether values are counted without copying results to the host: where there is float64."""
    is_elsewhere = values.device.type != "cpu" or _forced
    return is_elsewhere and device_types.has_float64(values.device.type)


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


def _dispatch(
    function: Callable[P, R],
    types: tuple[torch.dtype, ...] = _CPU_TYPES,
    elsewhere: ModuleType = torch_ops,
) -> Callable[P, R]:
    """Call a function if the first argument is on the CPU, else that of its name elsewhere."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        values: Any = args[0]
        if values.device.type == "cpu" and values.dtype in types and not _forced:
            return function(*args, **kwargs)
        found: R = getattr(elsewhere, function.__name__)(*args, **kwargs)
        return found

    return call


observe = _dispatch(cpu.observe)
count_magnitudes = _dispatch(cpu.count_magnitudes)
find_largest = _dispatch(cpu.find_largest)
compare = _dispatch(cpu.compare)
decide = _dispatch(plans.decide, _ALL_TYPES, device_plans)
find_moved = _dispatch(plans.find_moved, _ALL_TYPES, device_plans)
apply = _dispatch(plans.apply, _ALL_TYPES, device_plans)
