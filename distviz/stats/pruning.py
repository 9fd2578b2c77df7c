"""Magnitude pruning: thresholds, the zeros that they make, and the norms that remain.

Every value with abs(x) <= threshold becomes zero, as in TEAL (arXiv 2408.14690); values that are
already zero count as zeros. Exact on the values of a sketch, in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Pruned:
    """The effect of a threshold.

    Attributes
    ----------
    threshold
        The largest magnitude that becomes zero.
    zeros, zeroed
        Share of values that are zero afterwards, and of those that were not before.
    l1_kept, l2_kept
        Share of sum(abs(x)) and of sum(x^2) that remains; NaN if every value is zero.
    l2_kept_rest
        ``l2_kept`` without the largest 0.01 % of the magnitudes.
    """

    threshold: float
    zeros: float
    zeroed: float
    l1_kept: float
    l2_kept: float
    l2_kept_rest: float


def threshold_for(magnitudes: Floats, counts: Counts, share: Fraction) -> float:
    """Return the smallest magnitude t such that at least ``share`` of the values are <= t.

    ``magnitudes`` are ascending, with ``counts``; ``share`` is above 0 and at most 1. NaN without
    values.
    """
    running = np.cumsum(counts)
    if not running.size:
        return math.nan
    needed = math.ceil(share * int(running[-1]))
    return float(magnitudes[np.searchsorted(running, needed, side="left")])


def exact_threshold(threshold: float) -> float:
    """Return the largest float32 number that rounds to a bfloat16 number of 0 or more.

    A float32 value is at most this number where its nearest bfloat16 is at most ``threshold``.
    """
    code = int(np.float32(threshold).view(np.uint32))
    is_odd = bool(code >> 16 & 1)  # ties go to the even neighbour
    return float(np.uint32(code + 0x8000 - is_odd).view(np.float32)) if threshold else 0.0


def prune(magnitudes: Floats, counts: Counts, threshold: float, left: Floats) -> Pruned:
    """Return the effect of a threshold; arguments as of `threshold_for`.

    ``left`` is the share of the values of each magnitude that are not among the largest, see
    `distviz.stats.largest.shares_left`.
    """
    total = int(counts.sum())
    if not total:
        return Pruned(threshold, *[math.nan] * 5)
    first = int(np.searchsorted(magnitudes, threshold, side="right"))
    gone = int(counts[:first].sum())
    were_zero = int(counts[:1].sum()) if magnitudes[0] == 0 else 0
    mass = counts * magnitudes
    energy = mass * magnitudes
    return Pruned(
        threshold,
        zeros=max(gone, were_zero) / total,
        zeroed=max(gone - were_zero, 0) / total,
        l1_kept=_kept(mass, first),
        l2_kept=_kept(energy, first),
        l2_kept_rest=_kept(energy * left, first),
    )


def _kept(parts: Floats, first: int) -> float:
    whole = float(parts.sum())
    return float(parts[first:].sum()) / whole if whole else math.nan
