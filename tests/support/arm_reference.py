"""A plain reference of ARM.md, written from that page and from nothing else.

Everything is float64, sorted and looped over; slow and obvious on purpose. It covers what is
deterministic (the plan and the selection); the random part is tested by its properties.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ReferencePlan", "as_float64", "reference_plan", "reference_selection"]

SMALLEST_MAD = 1e-12
NORMAL_CONSISTENCY = 1.4826


@dataclass(frozen=True)
class ReferencePlan:
    """What one redistribution of one sequence is going to do."""

    n: int
    center: float
    mad: float
    eps: float
    near: float
    fraction: float
    k: int
    upper: float
    lower: float


def as_float64(x: torch.Tensor) -> NDArray[np.float64]:
    """Return the values of ``x``, exactly, as one flat float64 array."""
    return np.array(x.detach().to(torch.float64).reshape(-1).numpy(), dtype=np.float64)


def _taking_part(x: torch.Tensor, mask: Any) -> NDArray[np.bool_]:
    finite: NDArray[np.bool_] = np.isfinite(as_float64(x))
    if mask is None:
        return finite
    counted = np.asarray(mask).astype(bool)
    trailing = int(np.prod(tuple(x.shape)[counted.ndim :], dtype=np.int64))
    taking_part: NDArray[np.bool_] = finite & np.repeat(counted.reshape(-1), trailing)
    return taking_part


def _lower_median(values: NDArray[np.float64]) -> float:
    return float(np.sort(values)[(values.size - 1) // 2])


def reference_plan(
    x: torch.Tensor,
    mask: Any = None,
    *,
    c: float = 0.13,
    p1: float = 99.5,
    p_min: float = 0.02,
    p_max: float = 0.25,
    fraction: float | None = None,
    percentile_of: str = "value",
) -> ReferencePlan | None:
    """Return the plan for one sequence, or None where no value takes part."""
    values = as_float64(x)[_taking_part(x, mask)]
    if values.size == 0:
        return None
    magnitudes = np.abs(values)
    center = _lower_median(magnitudes)
    mad = max(_lower_median(np.abs(magnitudes - center)), SMALLEST_MAD)
    eps = NORMAL_CONSISTENCY * mad * c
    near = float(np.count_nonzero(magnitudes < eps)) / values.size
    share = min(max(near, p_min), p_max) if fraction is None else fraction
    ranked = magnitudes if percentile_of == "magnitude" else values
    upper = max(float(np.percentile(ranked, p1)), 0.0)
    negatives = values[values < 0]
    lower = float(negatives.min()) if negatives.size else 0.0
    k = max(1, round(share * values.size))
    return ReferencePlan(values.size, center, mad, eps, near, share, k, upper, lower)


def reference_selection(x: torch.Tensor, k: int, mask: Any = None) -> NDArray[np.int64]:
    """Return the flat indices of the ``k`` smallest magnitudes, lowest index first among equals."""
    taking_part = np.flatnonzero(_taking_part(x, mask))
    magnitudes = np.abs(as_float64(x))[taking_part]
    in_order = taking_part[np.argsort(magnitudes, kind="stable")]
    return np.sort(in_order[:k]).astype(np.int64)
