"""Number formats of tensors, and the losses of rounding to them.

Integers after Nagel et al. (2021), "A White Paper on Neural Network Quantization"
(arXiv 2106.08295), section 2.2: x is stored as ``clamp(round(x / scale) + zero_point)``. The
symmetric form does not use the lowest integer, so that the scale of a range c is
c / (2^(bits-1) - 1), as in SmoothQuant (arXiv 2211.10438), equation 1. fp8 after Micikevicius et
al. (2022), "FP8 Formats for Deep Learning" (arXiv 2209.05433), saturating; e4m3 is the variant
without infinities (``float8_e4m3fn``). Everything is per tensor, rounds to nearest, ties to even,
and has a float64 scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LOSSLESS_DB = 300.0
"""Larger ratios are rounding errors of float64 and reported as infinite."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class NumberFormat:
    """The numbers of a format at scale 1.

    Attributes
    ----------
    name
        As on the command line.
    levels
        float64, ascending from 0: the magnitudes of a symmetric format; the integers
        0 ... 2^bits - 1 of an asymmetric one, whose zero point divides them between both signs.
    fraction_bits, least_exponent
        Of a floating-point format: stored bits of the significand, and the exponent of its
        smallest normal number; None for integers.
    is_asymmetric
        Whether it has a zero point.
    """

    name: str
    levels: Floats
    fraction_bits: int | None = None
    least_exponent: int = 0
    is_asymmetric: bool = False

    @property
    def is_float(self) -> bool:
        """Whether it is a floating-point format, which can be used without a scale."""
        return self.fraction_bits is not None


@dataclass(frozen=True)
class Quantizer:
    """A format with its scale; a scale of 0 turns every value into 0."""

    format: NumberFormat
    scale: float
    zero_point: int = 0

    @property
    def lowest(self) -> float:
        """The smallest number that can be represented."""
        steps = self.zero_point if self.format.is_asymmetric else float(self.format.levels[-1])
        return -steps * self.scale + 0.0

    @property
    def highest(self) -> float:
        """The largest number that can be represented."""
        return (float(self.format.levels[-1]) - self.zero_point) * self.scale

    def keep(self, values: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """Quantize and restore.

        Returns
        -------
        The restored values, float64; and whether each is clipped: rounding alone leaves the format.
        """
        if self.scale == 0:
            return np.zeros(values.shape), values != 0
        nearest = self._round(values / self.scale)
        top = self.format.levels[-1]
        bottom = 0.0 if self.format.is_asymmetric else -top
        shifted = nearest + self.zero_point
        kept = np.clip(shifted, bottom, top)
        return (kept - self.zero_point) * self.scale, kept != shifted

    def _round(self, scaled: Floats) -> Floats:
        """Round to the nearest number of the format without limits, ties to even."""
        if self.format.fraction_bits is None:
            return np.rint(scaled)
        exponents = np.frexp(scaled)[1] - 1
        usable = np.maximum(exponents, self.format.least_exponent)
        step = np.ldexp(1.0, usable - self.format.fraction_bits)
        rounded: Floats = np.rint(scaled / step) * step
        return rounded


def _symmetric(bits: int) -> NumberFormat:
    return NumberFormat(f"int{bits}", np.arange(2.0 ** (bits - 1)))


def _asymmetric(bits: int) -> NumberFormat:
    return NumberFormat(f"int{bits}-asym", np.arange(2.0**bits), is_asymmetric=True)


def _float(name: str, fraction_bits: int, least_exponent: int, largest: float) -> NumberFormat:
    """Return a floating-point format by its largest finite number."""
    significands = np.arange(2.0**fraction_bits)
    exponents = np.arange(least_exponent, math.frexp(largest)[1])
    normal = np.ldexp(2.0**fraction_bits + significands, exponents[:, None] - fraction_bits)
    levels = np.concatenate(
        [np.ldexp(significands, least_exponent - fraction_bits), normal.ravel()]
    )
    return NumberFormat(name, levels[levels <= largest], fraction_bits, least_exponent)


FORMATS: dict[str, NumberFormat] = {
    made.name: made
    for made in (
        _symmetric(8),
        _asymmetric(8),
        _symmetric(4),
        _asymmetric(4),
        _float("fp8-e4m3", 3, -6, 448.0),
        _float("fp8-e5m2", 2, -14, 57344.0),
    )
}

FP4 = _float("fp4-e2m1", 1, 0, 6.0)
"""The elements of MXFP4 and NVFP4; not used per tensor."""


@dataclass(frozen=True)
class Losses:
    """The losses of quantizing a tensor.

    Attributes
    ----------
    mse
        Mean of (x - restored)^2.
    sqnr_db
        10 log10(sum of x^2 / sum of (x - restored)^2); inf if nothing is lost, NaN if all
        values are zero.
    sqnr_rest_db
        The same without the largest 0.01 % of the magnitudes.
    clipped
        Share of clipped values, see `Quantizer.keep`.
    zeros, zeroed
        Share of values that are zero afterwards, and of those that were not before.
    """

    mse: float
    sqnr_db: float
    sqnr_rest_db: float
    clipped: float
    zeros: float
    zeroed: float


def losses(values: Floats, counts: NDArray[np.int64], quantizer: Quantizer, left: Floats) -> Losses:
    """Return the losses for values (float64) with ``counts``; all NaN without values.

    For a symmetric format, magnitudes give the same result. ``left`` is the share of the values
    that are not among the largest, see `distviz.stats.largest.shares_left`.
    """
    total = int(counts.sum())
    if not total:
        return Losses(*[math.nan] * 6)
    restored, is_clipped = quantizer.keep(values)
    signal, noise = counts * values**2, counts * (values - restored) ** 2
    is_zero = restored == 0
    return Losses(
        mse=float(noise.sum()) / total,
        sqnr_db=_decibels(float(signal.sum()), float(noise.sum())),
        sqnr_rest_db=_decibels(float((signal * left).sum()), float((noise * left).sum())),
        clipped=int(counts[is_clipped].sum()) / total,
        zeros=int(counts[is_zero].sum()) / total,
        zeroed=int(counts[is_zero & (values != 0)].sum()) / total,
    )


def _decibels(signal: float, noise: float) -> float:
    if signal == 0:
        return math.nan
    if noise <= signal * 10 ** (-LOSSLESS_DB / 10):
        return math.inf
    return 10 * math.log10(signal / noise)
