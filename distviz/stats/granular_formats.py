"""Number formats with one scale per block, token, channel or tensor.

Scales come from the values themselves, window by window: padding and values that are not finite
have no part in them. All arithmetic is float32, to which bf16 and fp16 are converted without loss;
elements round to nearest, ties to even, and saturate. docs/maths.md compares libraries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from distviz.stats.number_formats import FORMATS, FP4, NumberFormat

Unit = Literal["block", "token", "channel", "tensor"]
ScaleKind = Literal["float32", "power of two", "e4m3"]

LEAST_SCALE = 2.0**-126
"""The smallest float32 scale: that of zeros, whose inverse is finite."""
LEAST_EXPONENT = -127
"""Of a scale that is a power of two (E8M0)."""


@dataclass(frozen=True)
class GranularFormat:
    """The elements of a format, and what shares a scale.

    Attributes
    ----------
    name
        As on the command line.
    element
        The numbers at scale 1.
    unit
        The values of one scale: a block of neighbouring channels of a token, a token, a channel of
        a window, or a window (``tensor``).
    block
        Number of channels of a block; the last block of a token may be shorter. 0: no blocks.
    scale
        ``float32``: the largest magnitude of the unit over that of the element, at least 2^-126;
        with a zero point the range over 2^bits - 1. ``power of two``: 2^(floor(log2(largest
        magnitude)) - exponent of the largest element), at least 2^-127 (OCP MX 1.0, 6.3).
        ``e4m3``: with g = 6 * 448 * (1 / largest magnitude of the window), g * (largest
        magnitude / 6) rounded to e4m3 and divided by g; a block where that rounds to 0 becomes 0.
    """

    name: str
    element: NumberFormat
    unit: Unit
    block: int = 0
    scale: ScaleKind = "float32"

    @property
    def top(self) -> float:
        """The largest element."""
        return float(self.element.levels[-1])

    @property
    def bits(self) -> float:
        """Bits of a value, with its share of the scale of a block.

        Scales of a token or more are left out, and so is the one of a window of ``e4m3`` scales.
        """
        levels, is_signed = len(self.element.levels), not self.element.is_asymmetric
        own = math.ceil(math.log2(levels)) + is_signed
        return own + (_SCALE_BITS[self.scale] / self.block if self.block else 0)


_SCALE_BITS: dict[ScaleKind, int] = {"float32": 32, "power of two": 8, "e4m3": 8}
_TENSOR: tuple[GranularFormat, ...] = tuple(
    GranularFormat(name, element, "tensor") for name, element in FORMATS.items()
)

GRANULAR_FORMATS: dict[str, GranularFormat] = {
    made.name: made
    for made in (
        GranularFormat("nvfp4", FP4, "block", 16, "e4m3"),
        GranularFormat("mxfp4", FP4, "block", 32, "power of two"),
        GranularFormat("mxfp8", FORMATS["fp8-e4m3"], "block", 32, "power of two"),
        GranularFormat("mxfp8-e5m2", FORMATS["fp8-e5m2"], "block", 32, "power of two"),
        GranularFormat("int8-token", FORMATS["int8"], "token"),
        GranularFormat("fp8-token", FORMATS["fp8-e4m3"], "token"),
        GranularFormat("int8-channel", FORMATS["int8"], "channel"),
        GranularFormat("int4-group128", FORMATS["int4"], "block", 128),
        *_TENSOR,
    )
}
"""By name; those of `FORMATS` have one scale per window, the range at the largest magnitude."""
