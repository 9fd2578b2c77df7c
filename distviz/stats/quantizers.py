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
    largest
        float32 (rows, units of each), (1, channels) or (1, 1): the largest magnitude of each unit.
    """

    values: torch.Tensor
    clipped: torch.Tensor
    largest: torch.Tensor


def quantize(values: Values, name: str) -> Values:
    """Quantize the values of one window to a format and restore them.

    Parameters
    ----------
    values
        (rows, channels), any floating-point type, a row a token; not changed.
    name
        A name of `GRANULAR_FORMATS`.

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
        kept: NDArray[np.floating] = quantize(tensor, name).numpy()
        return kept
    return restore(values, GRANULAR_FORMATS[name]).values.to(values.dtype)


def restore(values: torch.Tensor, of: GranularFormat) -> Restored:
    """Quantize and restore the rows of one window; enqueues only, on a device."""
    import torch

    given = values.float()
    if not values.numel():
        return Restored(given, given.bool(), given.new_zeros(len(given), 0))
    finite = given.isfinite()
    x = torch.where(finite, given, 0)
    magnitudes, element = x.abs(), of.element
    largest = _largest(magnitudes, of)
    if element.is_asymmetric:
        kept, clipped = _asymmetric(x, element)
    else:
        scale = _scale(largest, of)
        if of.block:
            scale = scale.repeat_interleave(of.block, 1)[:, : x.shape[1]]
        if element.is_float:
            magnitude = round_float(magnitudes / scale, element)
        else:
            magnitude = (magnitudes * (1 / scale)).round()
        clipped = magnitude > of.top
        kept = torch.copysign(magnitude.clamp(max=of.top), x) * scale
    return Restored(torch.where(finite, kept, given), clipped, largest)


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


def _asymmetric(x: torch.Tensor, element: NumberFormat) -> tuple[torch.Tensor, torch.Tensor]:
    """Return restored values, and which are clipped, with one scale and zero point."""
    top = float(element.levels[-1])
    low, high = -(-x).clamp(min=0).amax(), x.clamp(min=0).amax()
    scale = _divided(high - low, top).clamp(min=LEAST_SCALE)
    zero_point = (-(low / scale).round()).clamp(0, top)
    shifted = (x * (1 / scale)).round() + zero_point
    kept = shifted.clamp(0, top)
    return (kept - zero_point) * scale, kept != shifted


def _largest(magnitudes: torch.Tensor, of: GranularFormat) -> torch.Tensor:
    """Return the largest magnitude of each unit, see `Restored`."""
    import torch

    if of.unit == "channel":
        return magnitudes.amax(0, keepdim=True)
    if of.unit == "block":
        width = magnitudes.shape[1]
        n_blocks = -(-width // of.block)
        padded = torch.nn.functional.pad(magnitudes, (0, n_blocks * of.block - width))
        return padded.view(-1, n_blocks, of.block).amax(2)
    return magnitudes.amax(1 if of.unit == "token" else (0, 1), keepdim=True)


def _scale(largest: torch.Tensor, of: GranularFormat) -> torch.Tensor:
    """Return the scale of each unit, float32."""
    if of.scale == "power of two":
        return _power_scale(largest, of.top)
    if of.scale == "e4m3":
        return _e4m3_scale(largest, of.top)
    return _divided(largest, of.top).clamp(min=LEAST_SCALE)


def _divided(dividends: torch.Tensor, divisor: float) -> torch.Tensor:
    """Divide by a number as a tensor: on CUDA, torch multiplies by the inverse of a number."""
    return dividends / dividends.new_full((), divisor)


def _power_scale(most: torch.Tensor, top: float) -> torch.Tensor:
    """Return powers of two from their bits; 2^-127 is a subnormal number."""
    import torch

    exponents = (most.contiguous().view(torch.int32) >> _FRACTION_BITS) - _BIAS
    exponents -= math.frexp(top)[1] - 1
    normal = (exponents + _BIAS) << _FRACTION_BITS
    least = 1 << (_FRACTION_BITS - 1)
    return torch.where(exponents > LEAST_EXPONENT, normal, least).view(torch.float32)


def _e4m3_scale(most: torch.Tensor, top: float) -> torch.Tensor:
    """Return the scales of the blocks of a window by their largest magnitudes."""
    import torch

    e4m3 = FORMATS["fp8-e4m3"]
    largest = float(e4m3.levels[-1])
    up = most.amax().clamp(min=LEAST_SCALE).reciprocal() * (largest * top)
    up = torch.where(up.isinf(), 1, up)
    stored = round_float(up * _divided(most, top), e4m3).clamp(max=largest)
    return torch.where(stored == 0, 1, stored) / up
