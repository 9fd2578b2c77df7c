"""Axes that fit their values, with the ticks that a scale needs.

Labels are written by the page: each is the shortest text of its own value, so no two are equal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from distviz.reports.page import Spec

SHARE, COUNT, NUMBER, DIFFERENCE, SHARE_DIFFERENCE = (
    *("share", "count", "number"),
    *("number signed", "share signed"),
)
"""Kinds of labels: per cent, thousands as 10k, numbers, and with a sign."""
_LOG_SPAN = 30.0
_DEEPEST = 1e-6
"""A symmetric logarithmic scale is linear below this part of its largest value."""
_MARGIN = 1.15
_FEW, _MANY = 2, 10


def labels(kind: str, **options: Any) -> Spec:
    """Return an axis or a legend whose numbers are written as a kind of label."""
    return {"format": kind, "formatType": "tick"} | options


def fitted(values: Iterable[float | None], kind: str, **options: Any) -> Spec:
    """Return an encoding that fits values: its type, scale and axis.

    The scale is logarithmic where positive values differ by more than a factor of thirty; with
    zeros among them, symmetric logarithmic. A linear axis begins at zero where zero is near.
    Further options are those of the axis; ``scale="linear"`` excludes logarithms.
    """
    wanted = options.pop("scale", "")
    known = [value for value in values if value is not None and math.isfinite(value)]
    axis = labels(kind, **({"title": None, "tickCount": 4} | options))
    positive = [value for value in known if value > 0]
    is_wide = bool(positive) and max(positive) > _LOG_SPAN * min(positive)
    if wanted == "linear" or min(known, default=0) < 0 or not is_wide:
        return {"type": "quantitative", "scale": _linear(known), "axis": axis}
    low, high = min(positive), max(positive) * _MARGIN
    if min(known) > 0:
        axis["values"] = log_ticks(low / _MARGIN, high)
        scale = {"type": "log", "domain": [low / _MARGIN, high], "nice": False}
    else:
        scale, axis["values"] = symlog([0.0, high], max(low, high * _DEEPEST))
    return {"type": "quantitative", "scale": scale, "axis": axis}


def _linear(known: list[float]) -> Spec:
    low, high = min(known, default=0.0), max(known, default=0.0)
    if low == high != 0:  # otherwise the only label is the value with all its digits
        return {"type": "linear", "domain": sorted((0.5 * low, 1.5 * low)), "nice": True}
    return {"type": "linear", "zero": 0 <= 2 * low <= high or low <= 2 * high <= 0, "nice": True}


def whole_ticks(places: Iterable[int]) -> list[int]:
    """Return at most ten whole numbers, evenly spaced over layers or numbers of tokens."""
    known = sorted(places)
    first, last = (known[0], known[-1]) if known else (0, 0)
    sizes = (digit * 10**power for power in range(9) for digit in (1, 2, 5))
    step = next(size for size in sizes if (last - first) // size < _MANY)
    return list(range(-(-first // step) * step, last + 1, step))


def log_ticks(low: float, high: float) -> list[float]:
    """Return the powers of ten of a range; with twos and fives where they are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 2, 5)):
        ticks = [float(f"{digit}e{power}") for power in powers for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= _FEW:
            break
    return ticks


def symlog(window: list[float], constant: float) -> tuple[Spec, list[float]]:
    """Return a symmetric logarithmic scale over a window, and its ticks.

    The scale is close to linear for magnitudes below ``constant``.
    """
    low, high = window
    ticks = [0.0] if low <= 0 <= high else []
    for sign, end in ((1, high), (-1, -low)):
        if end > constant:
            ticks += [sign * tick for tick in log_ticks(constant, end)]
    scale = {"type": "symlog", "constant": constant, "domain": window, "nice": False}
    return scale, sorted(ticks)
