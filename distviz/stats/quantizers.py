"""Quantize tensors to granular formats and restore them, on any device.

See `distviz.stats.granular_formats` for the definitions.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from distviz.stats.granular_formats import (
    GRANULAR_FORMATS,
    LEAST_EXPONENT,
    LEAST_SCALE,
    GranularFormat,
)
from distviz.stats.number_formats import FORMATS, NumberFormat

if TYPE_CHECKING:
    import torch

Values = TypeVar("Values", "torch.Tensor", NDArray[np.floating])
_EXPONENT_BITS = 0x7F800000
_BIAS = 127
_FRACTION_BITS = 23


class Restored(NamedTuple):
    """Quantized and restored values.

    Attributes
    ----------
    values
        float32 (rows, channels); what was not finite is unchanged.
    clipped
        bool (rows, channels): where rounding alone leaves the format.
    """

    values: torch.Tensor
    clipped: torch.Tensor


def quantize(values: Values, name: str, windows: NDArray[np.int64] | None = None) -> Values:
    """Quantize values to a format and restore them.

    Parameters
    ----------
    values
        (rows, channels), any floating-point type, a row a token; not changed.
    name
        A name of `GRANULAR_FORMATS`.
    windows
        int64 (rows,): the number of each row's window, -1 for padding, which is returned as it is.
        None: all rows are one window.

    Returns
    -------
    torch.Tensor or numpy.ndarray
        Of the type, shape, dtype and device of ``values``: float32 results, rounded to the dtype.

    Raises
    ------
    KeyError
        If there is no such format.
    """
    import torch

    if not isinstance(values, torch.Tensor):
        tensor = torch.from_numpy(np.ascontiguousarray(values))
        kept: NDArray[np.floating] = quantize(tensor, name, windows).numpy()
        return kept
    of = GRANULAR_FORMATS[name]
    numbers = np.zeros(len(values), np.int64) if windows is None else windows
    rows = np.flatnonzero(numbers >= 0)
    if rows.size == len(values):
        return restore(values, of, numbers).values.to(values.dtype)
    there = torch.from_numpy(rows).to(values.device)
    out = values.clone()
    out[there] = restore(values[there], of, numbers[rows]).values.to(values.dtype)
    return out


def restore(values: torch.Tensor, of: GranularFormat, windows: NDArray[np.int64]) -> Restored:
    """Quantize and restore rows, all of which belong to windows (int64 (rows,), from 0)."""
    import torch

    if not values.numel():
        return Restored(values.float(), torch.zeros_like(values, dtype=torch.bool))
    _, numbers = np.unique(windows, return_inverse=True)
    owners = torch.from_numpy(numbers.reshape(-1)).to(values.device)
    given = values.float()
    finite = given.isfinite()
    x = torch.where(finite, given, 0)
    element = of.element
    if element.is_asymmetric:
        kept, clipped = _asymmetric(x, element, owners)
    else:
        scale = _scale(x, of, owners)
        if element.is_float:
            magnitude = round_float((x / scale).abs(), element)
        else:
            magnitude = (x * (1 / scale)).abs().round()
        clipped = magnitude > of.top
        kept = torch.copysign(magnitude.clamp(max=of.top), x) * scale
    return Restored(torch.where(finite, kept, given), clipped)


def round_float(magnitudes: torch.Tensor, element: NumberFormat) -> torch.Tensor:
    """Round float32 magnitudes to nearest, ties to even, without an upper limit.

    Adding and subtracting 2^(exponent + 23 - fraction bits) leaves float32 just the bits of the
    element.
    """
    import torch

    fraction = element.fraction_bits or 0
    exponents = magnitudes.contiguous().view(torch.int32) & _EXPONENT_BITS
    exponents = exponents.clamp(min=(element.least_exponent + _BIAS) << _FRACTION_BITS)
    shift = (exponents + ((_FRACTION_BITS - fraction) << _FRACTION_BITS)).view(torch.float32)
    return (magnitudes + shift) - shift


def _asymmetric(
    x: torch.Tensor, element: NumberFormat, owners: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return restored values, and which are clipped, with one scale and zero point per window."""
    top = float(element.levels[-1])
    low = -_of_windows((-x).clamp(min=0).amax(1), owners)[:, None]
    high = _of_windows(x.clamp(min=0).amax(1), owners)[:, None]
    scale = ((high - low) / top).clamp(min=LEAST_SCALE)
    zero_point = (-(low / scale).round()).clamp(0, top)
    shifted = (x * (1 / scale)).round() + zero_point
    kept = shifted.clamp(0, top)
    return (kept - zero_point) * scale, kept != shifted


def _scale(x: torch.Tensor, of: GranularFormat, owners: torch.Tensor) -> torch.Tensor:
    """Return the scale of each value, float32, broadcastable to (rows, channels)."""
    most = largest_magnitudes(x, of, owners)
    if of.scale == "power of two":
        scale = _power_scale(most, of.top)
    elif of.scale == "e4m3":
        scale = _e4m3_scale(most, _of_windows(most.amax(1), owners)[:, None], of.top)
    else:
        scale = _float_scale(most, of.top)
    return scale.repeat_interleave(of.block, 1)[:, : x.shape[1]] if of.block else scale


def largest_magnitudes(x: torch.Tensor, of: GranularFormat, owners: torch.Tensor) -> torch.Tensor:
    """Return the largest magnitudes of the units of each row: (rows, units that it is part of)."""
    import torch

    magnitudes = x.abs()
    if of.unit == "channel":
        return _of_windows(magnitudes, owners)
    if of.unit == "block":
        width = x.shape[1]
        n_blocks = -(-width // of.block)
        padded = torch.nn.functional.pad(magnitudes, (0, n_blocks * of.block - width))
        return padded.view(-1, n_blocks, of.block).amax(2)
    most = magnitudes.amax(1, keepdim=True)
    return most if of.unit == "token" else _of_windows(most, owners)


def _of_windows(most: torch.Tensor, owners: torch.Tensor) -> torch.Tensor:
    """Return for each row the largest of its window, by column."""
    index = owners.view(-1, *[1] * (most.dim() - 1)).expand_as(most)
    largest = most.new_zeros(int(owners.max()) + 1, *most.shape[1:])  # no magnitude is below 0
    return largest.scatter_reduce(0, index, most, "amax")[owners]


def _float_scale(most: torch.Tensor, top: float) -> torch.Tensor:
    return (most / top).clamp(min=LEAST_SCALE)


def _power_scale(most: torch.Tensor, top: float) -> torch.Tensor:
    """Return powers of two from their bits; 2^-127 is a subnormal number."""
    import torch

    exponents = (most.contiguous().view(torch.int32) >> _FRACTION_BITS) - _BIAS
    exponents -= math.frexp(top)[1] - 1
    normal = (exponents + _BIAS) << _FRACTION_BITS
    least = 1 << (_FRACTION_BITS - 1)
    return torch.where(exponents > LEAST_EXPONENT, normal, least).view(torch.float32)


def _e4m3_scale(most: torch.Tensor, whole: torch.Tensor, top: float) -> torch.Tensor:
    """Return the scales of blocks by their largest magnitudes and that of the window."""
    import torch

    e4m3 = FORMATS["fp8-e4m3"]
    largest = float(e4m3.levels[-1])
    up = whole.clamp(min=LEAST_SCALE).reciprocal() * (largest * top)
    up = torch.where(up.isinf(), 1, up)
    stored = round_float(up * (most / top), e4m3).clamp(max=largest)
    return torch.where(stored == 0, 1, stored) / up
