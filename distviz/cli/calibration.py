"""How fast this machine is, measured on the shapes that are to be worked on, in about a second."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from distviz.arm import ARM
from distviz.stats import kernels

__all__ = ["Speeds", "Start", "measure_speeds"]

_SAMPLE_ROWS = 512
_WEIGHT_BYTES = 1 << 26
_SHARE = 0.95
"""Of the operations; shapes beyond it are taken to be as fast as the others."""
_SECONDS = 0.06
_LONG_SECONDS, _USUAL_SECONDS = 90.0, 5.0
_CALL_SECONDS = 6e-6
_COUNT_SECONDS, _ARM_SECONDS = 1e-9, 4e-9
"""A value, where the loops are not compiled yet and timing them would compile them."""


@dataclass(frozen=True)
class Speeds:
    """What a machine does in a second.

    Attributes
    ----------
    products
        Floating-point operations a second of a matrix product, by (inner, columns).
    attention
        Those of a fused attention kernel.
    moving
        Bytes that elementwise operations read and write.
    call
        Seconds that each operation takes beside its work.
    count, arm
        Seconds a value: to count it, to redistribute it.
    """

    products: dict[tuple[int, int], float]
    attention: float
    moving: float
    call: float
    count: float
    arm: float

    def product(self, inner: int, columns: int) -> float:
        """Return the operations a second of a shape; the slowest known for one not timed."""
        return self.products.get((inner, columns), min(self.products.values()))


def measure_speeds(
    products: Mapping[tuple[int, int, int], int],
    attention: Mapping[tuple[int, ...], int],
    width: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Speeds:
    """Time the shapes that make up most of the work, on values drawn at random.

    Parameters
    ----------
    products, attention
        As in `distviz.cli.costs.Cost`.
    width
        Channels of an activation.
    """
    with torch.inference_mode():
        rates = _product_rates(products, dtype, device)
        score = max(attention, key=math.prod, default=None)
        rate = min(rates.values()) if score is None else _attention_rate(score, dtype, device)
        values = torch.randn((_SAMPLE_ROWS, max(width, 1)), device=device).to(dtype)
        moved = 3 * values.numel() * values.element_size()
        moving = moved / _typical(lambda: torch.mul(values, values), device)
        count, arm = _COUNT_SECONDS, _ARM_SECONDS
        if kernels.is_compiled() or device.type != "cpu":
            slots = np.zeros(_SAMPLE_ROWS, np.int64)
            redistribute = ARM()
            counting = _typical(lambda: kernels.observe(values, slots, 1), device)
            changing = _typical(lambda: redistribute(values[None]), device)
            count, arm = counting / values.numel(), changing / values.numel()
    return Speeds(rates, rate, moving, _CALL_SECONDS, count, arm)


def _product_rates(
    products: Mapping[tuple[int, int, int], int], dtype: torch.dtype, device: torch.device
) -> dict[tuple[int, int], float]:
    work: dict[tuple[int, int], float] = {}
    rows: dict[tuple[int, int], int] = {}
    for shape, times in products.items():
        key = (shape[1], shape[2])
        work[key] = work.get(key, 0.0) + math.prod(shape) * times
        rows[key] = max(rows.get(key, 1), shape[0])
    total, known, rates = sum(work.values()), 0.0, {}
    for key in sorted(work, key=lambda key: -work[key]):
        if known > _SHARE * total:
            break
        rates[key] = _product_rate(min(rows[key], _SAMPLE_ROWS), *key, dtype, device)
        known += work[key]
    return rates or {(1, 1): _product_rate(_SAMPLE_ROWS, 512, 512, dtype, device)}


def _product_rate(
    rows: int, inner: int, columns: int, dtype: torch.dtype, device: torch.device
) -> float:
    """Operations a second; of a large matrix a part is enough, if it does not fit into a cache."""
    columns = max(1, min(columns, _WEIGHT_BYTES // max(1, inner * dtype.itemsize)))
    left = torch.randn((rows, inner), device=device).to(dtype)
    weight = torch.randn((columns, inner), device=device).to(dtype)
    seconds = _typical(lambda: functional.linear(left, weight), device)
    return 2.0 * rows * inner * columns / seconds


def _attention_rate(score: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> float:
    _, heads, queries, keys, width = score
    heads = max(1, min(heads, _WEIGHT_BYTES // (keys * width * dtype.itemsize)))
    query = torch.randn((1, heads, queries, width), device=device).to(dtype)
    key = torch.randn((1, heads, keys, width), device=device).to(dtype)
    mask = torch.ones((queries, keys), dtype=torch.bool, device=device).tril()

    def attend() -> torch.Tensor:
        return functional.scaled_dot_product_attention(query, key, key, attn_mask=mask)

    return 4.0 * heads * queries * keys * width / _typical(attend, device)


def _typical(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the median of some repetitions, the first not counted: as busy as it is now."""
    work()
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < _SECONDS:
        before = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - before)
    return statistics.median(taken)


@dataclass(frozen=True)
class Start:
    """How long this process has taken to get ready, which another would take again.

    Attributes
    ----------
    seconds
        Since it began.
    busy
        By how much that is longer than its own work: other processes share the machine.
    """

    seconds: float
    busy: float

    @classmethod
    def now(cls) -> Start:
        """Measure it; in a process that has long been at other work (a notebook), guess."""
        import psutil

        seconds = time.time() - psutil.Process().create_time()
        if seconds > _LONG_SECONDS:
            return cls(_USUAL_SECONDS, 1.0)
        return cls(seconds, min(max(1.0, seconds / max(time.process_time(), 0.1)), 10.0))
