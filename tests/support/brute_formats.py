"""Granular formats by plain loops: units cut out of the tensor, elements looked up in a list."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

F = np.float32
_E4M3 = [m * 2.0**-9 for m in range(8)] + [
    (8 + m) * 2.0 ** (e - 3) for e in range(-6, 9) for m in range(8) if (e, m) != (8, 7)
]
_E5M2 = [m * 2.0**-16 for m in range(4)] + [
    (4 + m) * 2.0 ** (e - 2) for e in range(-14, 16) for m in range(4)
]
_LISTS = {
    "fp4": [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0],
    "e4m3": _E4M3,
    "e5m2": _E5M2,
    "int8": [float(n) for n in range(128)],
    "int4": [float(n) for n in range(8)],
}
_KINDS = {  # format: elements, unit, channels of a block, exponent of the largest element
    "nvfp4": ("fp4", "block", 16, None),
    "mxfp4": ("fp4", "block", 32, 2),
    "mxfp8": ("e4m3", "block", 32, 8),
    "mxfp8-e5m2": ("e5m2", "block", 32, 15),
    "int8-token": ("int8", "token", 0, None),
    "fp8-token": ("e4m3", "token", 0, None),
    "int8-channel": ("int8", "channel", 0, None),
    "int4-group128": ("int4", "block", 128, None),
    "int8": ("int8", "tensor", 0, None),
    "int4": ("int4", "tensor", 0, None),
    "fp8-e4m3": ("e4m3", "tensor", 0, None),
    "fp8-e5m2": ("e5m2", "tensor", 0, None),
}
BRUTE_FORMATS = (*_KINDS, "int8-asym", "int4-asym")


@dataclass
class Brute:
    """Restored float32 values; where a value left the format; the largest magnitude of units."""

    values: np.ndarray
    clipped: np.ndarray
    maxima: list[float]


def brute_restore(x: np.ndarray, name: str, windows: np.ndarray) -> Brute:
    """Quantize float32 (rows, channels); rows of window -1 and what is not finite stay."""
    out, clipped, maxima = x.copy(), np.zeros(x.shape, bool), []
    for window in sorted(set(windows.tolist()) - {-1}):
        rows = np.flatnonzero(windows == window)
        kept = np.where(np.isfinite(x[rows]), x[rows], F(0))
        part = _asymmetric(kept, int(name[3])) if name.endswith("asym") else _window(kept, name)
        out[rows] = np.where(np.isfinite(x[rows]), part.values, x[rows])
        clipped[rows] = part.clipped
        maxima += part.maxima
    return Brute(out, clipped, maxima)


def _units(shape: tuple[int, int], unit: str, block: int) -> Iterator[tuple[slice, slice]]:
    rows, width = shape
    if unit == "channel":
        yield from ((slice(None), slice(c, c + 1)) for c in range(width))
    elif unit == "tensor":
        yield slice(None), slice(None)
    else:
        step = block or width
        for row in range(rows):
            for start in range(0, width, step):
                yield slice(row, row + 1), slice(start, min(start + step, width))


def _window(x: np.ndarray, name: str) -> Brute:
    elements, unit, block, exponent = _KINDS[name]
    levels = np.array(_LISTS[elements])
    out, clipped, maxima = np.zeros_like(x), np.zeros(x.shape, bool), []
    whole = np.abs(x).max()
    for part in _units(x.shape, unit, block):
        values = x[part]
        most = np.abs(values).max()
        maxima.append(float(most))
        if exponent is not None:
            power = max(int(np.floor(np.log2(np.float64(most)))) - exponent, -127) if most else -127
            scale = F(2.0**power)
        elif name == "nvfp4":
            scale = _nvfp4_scale(most, whole)
            if not scale:
                continue
        else:
            scale = max(F(most) / F(levels[-1]), F(2.0**-126))
        is_integer = elements.startswith("int")
        ratios = values * (F(1) / scale) if is_integer else values / scale
        chosen, beyond = _nearest(np.abs(ratios).astype(np.float64), levels)
        out[part] = np.sign(values) * levels[chosen].astype(F) * scale
        clipped[part] = beyond
    return Brute(out, clipped, maxima)


def _nvfp4_scale(most: np.float32, whole: np.float32) -> np.float32:
    with np.errstate(over="ignore"):
        up = (F(1) / max(whole, F(2.0**-126))) * F(448 * 6)
    up = up if np.isfinite(up) else F(1)
    levels = np.array(_E4M3)
    chosen, _ = _nearest(np.float64(up * (most / F(6)))[None], levels)
    stored = F(levels[chosen[0]])
    return stored / up


def _nearest(ratios: np.ndarray, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the index of the nearest level, the even one of two, and what lies beyond the last.

    The number behind the last has the distance of the last two, or the next power of two.
    """
    behind = 2 * levels[-1] - levels[-2]
    levels = np.append(levels, behind)
    middles = (levels[1:] + levels[:-1]) / 2
    below = np.searchsorted(middles, ratios, side="left")
    tie = (below < middles.size) & (middles[np.minimum(below, middles.size - 1)] == ratios)
    chosen = np.where(tie & (below % 2 == 1), below + 1, below)
    return np.minimum(chosen, levels.size - 2), chosen > levels.size - 2


def _asymmetric(x: np.ndarray, bits: int) -> Brute:
    top = F(2**bits - 1)
    low, high = min(x.min(), F(0)), max(x.max(), F(0))
    scale = max((high - low) / top, F(2.0**-126))
    zero = min(max(-np.rint(low / scale), F(0)), top)
    shifted = np.rint(x * (F(1) / scale)) + zero
    kept = np.clip(shifted, F(0), top)
    return Brute((kept - zero) * scale, kept != shifted, [float(np.abs(x).max())])
