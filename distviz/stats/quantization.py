"""Ranges of a number format: by the maximum, by a percentile, by the least error."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from distviz.stats.largest import energy_shares, shares_left
from distviz.stats.mse_scale import Magnitudes, Spread, least_error
from distviz.stats.number_formats import Losses, NumberFormat, Quantizer, losses
from distviz.stats.pruning import Pruned, prune
from distviz.stats.sketch import Sketch, interpolate_quantiles

RANGES: dict[str, str] = {
    "none": "the format itself, scale 1 (fp8 only)",
    "max": "every value inside",
    "percentile": "a given share of the values inside",
    "mse": "the least mean squared error",
}

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Sample:
    """A distribution to quantize or to prune.

    Attributes
    ----------
    pairs, magnitude_pairs
        As of `Sketch.pairs` and `Sketch.magnitude_pairs`.
    """

    pairs: tuple[Floats, Counts]
    magnitude_pairs: tuple[Floats, Counts]

    @classmethod
    def of(cls, sketch: Sketch) -> Sample:
        """Return the finite values of a sketch."""
        return cls(sketch.pairs(), sketch.magnitude_pairs())

    @cached_property
    def count(self) -> int:
        """Number of finite values."""
        return int(self.magnitude_pairs[1].sum())

    @cached_property
    def folded(self) -> Magnitudes:
        """The magnitudes of all values."""
        return _side(*self.magnitude_pairs)

    @cached_property
    def signed(self) -> tuple[Magnitudes, Magnitudes]:
        """The positive values, and the magnitudes of the negative values."""
        values, counts = self.pairs
        return _side(values, counts), _side(-values[::-1], counts[::-1])

    @cached_property
    def left(self) -> Floats:
        """The share of the values of each magnitude that are not among the largest 0.01 %."""
        return shares_left(self.magnitude_pairs[1])

    @cached_property
    def left_signed(self) -> Floats:
        """The same for each value of `pairs`."""
        places = np.searchsorted(self.magnitude_pairs[0], np.abs(self.pairs[0]))
        found: Floats = self.left[places]
        return found

    @cached_property
    def energy_shares(self) -> tuple[float, float]:
        """The shares of sum(x^2) of the largest 0.01 % and of the largest value alone."""
        return energy_shares(*self.magnitude_pairs)

    def measure(self, quantizer: Quantizer) -> Losses:
        """Return the losses of a quantizer."""
        if quantizer.format.is_asymmetric:
            return losses(*self.pairs, quantizer, self.left_signed)
        return losses(*self.magnitude_pairs, quantizer, self.left)

    def prune(self, threshold: float) -> Pruned:
        """Return the effect of setting magnitudes up to a threshold to zero."""
        return prune(*self.magnitude_pairs, threshold, self.left)


def _side(values: Floats, counts: Counts) -> Magnitudes:
    return Magnitudes(values[values > 0], counts[values > 0].astype(np.float64))


def fit(sample: Sample, of: NumberFormat, range_: str, percentile: float = 99.9) -> Quantizer:
    """Choose the scale, and the zero point of an asymmetric format.

    Parameters
    ----------
    sample
        The values.
    of
        The format.
    range_
        A name of `RANGES`; ``none`` for floating-point formats only.
    percentile
        Percentage of values inside the range ``percentile``: abs(x) up to that percentile, or for
        asymmetric formats x without (100 - percentile) / 2 on either side; linear interpolation.
    """
    if range_ == "none":
        return Quantizer(of, 1.0)
    share = percentile / 100 if range_ == "percentile" else 1.0
    spanning = _spanning(of, *_ends(sample, of, share))
    if range_ != "mse" or not spanning.scale:
        return spanning
    known = sample.measure(spanning).mse
    if known == 0:
        return spanning
    spread = Spread(of, sample.folded, sample.signed)
    found = least_error(spread, spanning, known * sample.count)
    return found if sample.measure(found).mse < known else spanning


def _ends(sample: Sample, of: NumberFormat, share: float) -> tuple[float, float]:
    """Return the ends of the range with a share of the values."""
    if not of.is_asymmetric:
        reach = float(interpolate_quantiles(*sample.magnitude_pairs, np.array([share]))[0])
        return -reach, reach
    outside = (1 - share) / 2
    low, high = interpolate_quantiles(*sample.pairs, np.array([outside, 1 - outside]))
    return float(low), float(high)


def _spanning(of: NumberFormat, low: float, high: float) -> Quantizer:
    """Return the quantizer of a range, extended to zero; scale 0 for an empty range."""
    if not of.is_asymmetric:
        return Quantizer(of, high / of.levels[-1] if high > 0 else 0.0)
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / of.levels[-1]
    if not scale > 0:
        return Quantizer(of, 0.0)
    return Quantizer(of, scale, int(np.clip(np.rint(-low / scale), 0, of.levels[-1])))
