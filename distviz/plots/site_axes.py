"""The axes of a site's distributions: one choice for all layers, or one layer's own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from distviz.results import Comparison
from distviz.settings import OPTIONS
from distviz.stats import LINEAR, ValueScale, bin_edges, mass_ends, statistics

if TYPE_CHECKING:
    from distviz.results import Run
    from distviz.sites import SiteKey
    from distviz.stats import Sketch

_DRAWN = ("before", "arm_input", "after")
_LOW = 0.02
"""Bars below this fraction of the tallest are hard to read on a linear scale."""
_MOST_LOW = 0.1
"""Fraction of the values that may be in low bars before a logarithmic scale is used."""
_MOST_LAYERS = 0.25
"""Fraction of the layers that may have too many low bars."""
_MOST_ENERGY = 0.1
"""Fraction of a layer's sum of squares that one value may hold on a linear axis."""
_MOST_UNLIKE = 10.0
"""Ratio of the widest to the narrowest layer that one linear axis can show."""
_BALANCED = 1 / 3
"""From this ratio of the shorter to the longer side, an axis is symmetric."""
_SPARE = 0.03
"""Fraction of an axis that stays free at either end."""
_BAND = 1.5
"""Half widths of the near-zero band that an axis has at least on either side."""


@dataclass(frozen=True)
class AxisChoice:
    """What the reader asked for.

    Attributes
    ----------
    x_axis
        ``"linear"``, ``"symlog"``, or ``"auto"``: symlog where one value holds more than a tenth of
        a layer's sum of squares, or the layers are too unlike for one linear axis.
    centred
        Whether zero is in the middle of the axis in any case.
    log
        Whether counts have a logarithmic scale; None: where otherwise many bars are too low, and
        with symlog, because outliers are few.
    """

    x_axis: str = "auto"
    centred: bool = False
    log: bool | None = None

    @classmethod
    def of(cls, log: bool | str | None, x_axis: str = "auto", *, centred: bool = False) -> Self:
        """Return a choice where ``log`` can be ``"auto"``; a RequestError names other axes."""
        OPTIONS["x_axis"].check(x_axis)
        return cls(x_axis, centred, None if log is None or log == "auto" else bool(log))


@dataclass(frozen=True)
class SiteAxes:
    """The axes of a histogram.

    Attributes
    ----------
    left, right
        The ends of the axis of values; zero is inside.
    scale
        Of the values.
    log
        Whether the counts have a logarithmic scale.
    strip
        The whole range of all layers, symmetric logarithmic; None where these axes show it.
    """

    left: float
    right: float
    scale: ValueScale
    log: bool
    strip: SiteAxes | None = None

    @property
    def window(self) -> tuple[float, float]:
        """Both ends."""
        return self.left, self.right

    @property
    def x_axis(self) -> str:
        """``"linear"`` or ``"symlog"``."""
        return "linear" if self.scale.constant is None else "symlog"


@dataclass(frozen=True)
class _Layer:
    """What the axes must show of one layer: its distributions, and numbers of all of them."""

    sketches: Sequence[Sketch]
    left: float
    right: float
    low: float
    high: float
    eps: float
    typical: float
    top_energy: float

    @property
    def reach(self) -> float:
        return max(-self.left, self.right)


def axes_of(
    result: Run | Comparison, place: SiteKey, choice: AxisChoice | None = None, *, own: bool = False
) -> SiteAxes:
    """Return the axes of a place's distributions; they are computed once for a result.

    Parameters
    ----------
    result
        A run, or a comparison, whose places are those of A.
    place
        The place.
    choice
        What the reader asked for; None decides everything.
    own
        Whether the axes suit this place alone, not all layers at its site and in its stack.
    """
    asked = choice or AxisChoice()
    known: dict[Any, SiteAxes] = result.derived
    name = (asked, place if own else (place.site, place.stack))
    if name not in known:
        places = [place] if own else _alike(result, place)
        layers = [_layer_of(result, key) for key in places]
        known[name] = _decide([layer for layer in layers if layer is not None], asked)
    return known[name]


def _alike(result: Run | Comparison, place: SiteKey) -> list[SiteKey]:
    """Return the places of a result at the same site and in the same stack."""
    if isinstance(result, Comparison):
        places = [pair.a for pair in result.pairs]
    else:
        places = list(result.places())
    return [key for key in places if (key.site, key.stack) == (place.site, place.stack)]


def _layer_of(result: Run | Comparison, place: SiteKey) -> _Layer | None:
    """Return the numbers of a place, kept with the result; None if it has no finite value."""
    known: dict[Any, _Layer | None] = result.derived
    name = place if isinstance(result, Comparison) else place._replace(phase="")
    if name not in known:
        sketches, eps = _distributions(result, place)
        known[name] = _measured([one for one in sketches if one.count], eps)
    return known[name]


def _distributions(result: Run | Comparison, place: SiteKey) -> tuple[list[Sketch], float]:
    """Return the distributions that are drawn at a place, and the near-zero band."""
    if isinstance(result, Comparison):
        pair = next(pair for pair in result.pairs if pair.a == place)
        return list(result.sketches(pair)), result.a.bands[pair.a]
    keys = [key for phase in _DRAWN if (key := place._replace(phase=phase)) in result.merged]
    return [result.merged[key] for key in keys], result.bands[keys[0]]


def _measured(sketches: Sequence[Sketch], eps: float) -> _Layer | None:
    if not sketches:
        return None
    left, right = mass_ends(sketches)
    return _Layer(
        sketches=sketches,
        left=left,
        right=right,
        low=min(sketch.min for sketch in sketches),
        high=max(sketch.max for sketch in sketches),
        eps=eps if math.isfinite(eps) else 0.0,
        typical=max(statistics.center_and_mad(sketch)[0] for sketch in sketches),
        top_energy=max(map(_top_energy, sketches)),
    )


def _top_energy(sketch: Sketch) -> float:
    """Return the part of the sum of squares that the value of largest magnitude holds."""
    largest, total = max(-sketch.min, sketch.max), statistics.l2(sketch)
    return (largest / total) ** 2 if total else 0.0


def _decide(layers: Sequence[_Layer], asked: AxisChoice) -> SiteAxes:
    if not layers:
        return SiteAxes(-0.5, 0.5, LINEAR, bool(asked.log))
    scale = _scale(layers, asked.x_axis)
    left, right = _window(layers, scale, is_centred=asked.centred)
    log = asked.log
    if log is None and scale.constant is not None:
        log = True
    if log is None:
        low = [_has_low_bars(layer.sketches, (left, right), scale) for layer in layers]
        log = sum(low) > _MOST_LAYERS * len(low)
    strip = None
    if scale.constant is None:
        whole = _scale(layers, "symlog")
        strip = SiteAxes(*_window(layers, whole, is_centred=False), whole, log=True)
    return SiteAxes(left, right, scale, log, strip)


def _scale(layers: Sequence[_Layer], x_axis: str) -> ValueScale:
    if x_axis == "auto":
        reaches = [layer.reach for layer in layers]
        is_unlike = max(reaches) > _MOST_UNLIKE * min(reaches)
        has_outlier = any(layer.top_energy > _MOST_ENERGY for layer in layers)
        x_axis = "symlog" if has_outlier or is_unlike else "linear"
    if x_axis == "linear":
        return LINEAR
    typical = float(np.median([layer.typical for layer in layers]))
    return ValueScale(typical or max(layer.reach for layer in layers) / 10)


def _window(
    layers: Sequence[_Layer], scale: ValueScale, *, is_centred: bool
) -> tuple[float, float]:
    """Return the ends of the axis: the mass of all layers if linear, else their whole range."""
    is_linear = scale.constant is None
    ends = [(one.left, one.right) for one in layers]
    if not is_linear:
        ends += [(one.low, one.high) for one in layers]
    band = _BAND * max(layer.eps for layer in layers)
    low = min(-band, *(end[0] for end in ends), 0.0)
    high = max(band, *(end[1] for end in ends), 0.0)
    left, right = scale.forward([low, high])
    spare = _SPARE * (right - left)
    left, right = left - spare, right + spare
    if is_centred or min(-left, right) >= _BALANCED * max(-left, right):
        left, right = -max(-left, right), max(-left, right)
    window = scale.inverse([left, right])
    return float(window[0]), float(window[1])


def _has_low_bars(
    sketches: Sequence[Sketch], window: tuple[float, float], scale: ValueScale
) -> bool:
    """Return whether many values beside the tallest bar would be in bars too low to be read."""
    edges = bin_edges(sketches, window=window, scale=scale)
    first, last = np.searchsorted(edges, window)
    widths = np.diff(scale.forward(edges[first : last + 1]))
    bars = [statistics.histogram(one, edges)[first:last] / widths for one in sketches]
    return any(_is_low(one, bars) for one in bars)


def _is_low(one: NDArray[Any], bars: Sequence[NDArray[Any]]) -> bool:
    others = np.delete(one, one.argmax())
    low = others[others < _LOW * max(bar.max() for bar in bars)]
    return bool(low.sum() > _MOST_LOW * others.sum())
