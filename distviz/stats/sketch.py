"""The sketch: an exact histogram of a whole distribution in 512 KiB; two sketches add.

Guarantee: for bf16 and fp16 data the counts are the data, so every statistic that does not depend
on the order of values is exact. Wider types are rounded to the nearest bf16 (each order statistic
within 2^-8 relative); their minimum, maximum, number of zeros and counts are exact. Cost: one pass,
one increment per value. Failure: sketches of fp16 and of bf16 data have different grids and cannot
be merged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distviz.errors import RequestError
from distviz.stats import float_grid
from distviz.stats.arguments import to_array, to_mask, to_tensor
from distviz.stats.moments import Moments, joined_moments

if TYPE_CHECKING:
    import torch

    from distviz.stats.kernels import Observation


class Sketch:
    """Counts of every value of a 16-bit grid.

    Parameters
    ----------
    grid
        ``"bf16"``, ``"fp16"``, or None: that of the first data (fp16 for float16, else bf16).

    Attributes
    ----------
    table
        int64 (65536,): count of each code of a finite value.
    nan, inf
        Counts of values that are not finite; no other statistic includes them.
    zeros
        Count of values that are exactly zero, before rounding.
    min, max
        Exact extremes of the finite values, NaN if there are none.
    moments
        Sums of powers, taken before rounding.
    is_rounded
        Whether data were wider than the grid; then mean, standard deviation, skewness, kurtosis
        and both norms are those of ``moments``, because rounding of outliers would change them.
    """

    __slots__ = ("grid", "inf", "is_rounded", "max", "min", "moments", "nan", "table", "zeros")

    def __init__(self, grid: str | None = None) -> None:
        if grid is not None and grid not in _GRIDS:
            raise RequestError(f"unknown grid '{grid}'", f"allowed: {', '.join(_GRIDS)}")
        self.grid = grid
        self.table = np.zeros(_CELLS, np.int64)
        self.nan = 0
        self.inf = 0
        self.zeros = 0
        self.min = math.nan
        self.max = math.nan
        self.moments = Moments()
        self.is_rounded = False

    def add(self, values: Any, mask: Any = None) -> Sketch:
        """Count the values of a tensor or array.

        Parameters
        ----------
        values
            torch tensor or NumPy array of any shape and floating-point type.
        mask
            Boolean, of the leading dimensions of ``values``; false excludes values.

        Returns
        -------
        Sketch
            The sketch itself.

        Raises
        ------
        RequestError
            If the data need another grid, or the mask has another shape.
        """
        from distviz.stats import kernels

        rows, slots = _as_rows(values, mask)
        self._agree(float_grid.grid_for_dtype(str(rows.dtype)))
        if rows.numel():
            seen = kernels.observe(rows, slots, 1, channels=False)
            self.absorb(seen, [0])
        return self

    def absorb(self, seen: Observation, slots: Iterable[int]) -> None:
        """Add some slots of an observation made by the kernels."""
        from distviz.stats import kernels

        self._agree(seen.grid)
        if seen.is_rounded != self.is_rounded and self.moments.count:
            other = Sketch(seen.grid)
            other.absorb(seen, slots)
            self._take(self + other)
            return
        for slot in slots:
            kernels.add_table(self.table, seen.tables[slot])
            self.zeros += int(seen.zeros[slot])
            self.moments += seen.moments[slot]
            if seen.low[slot] <= seen.high[slot]:
                self._stretch(seen.low[slot], seen.high[slot])
        self.is_rounded |= seen.is_rounded
        top = float_grid.first_nonfinite(seen.grid)
        for half in (self.table[: float_grid.SIGN], self.table[float_grid.SIGN :]):
            self.inf += int(half[top])
            self.nan += int(half[top + 1 :].sum())
            half[top:] = 0

    def _take(self, other: Sketch) -> None:
        for name in Sketch.__slots__:
            setattr(self, name, getattr(other, name))

    def _stretch(self, low: float, high: float) -> None:
        # Adding 0.0 turns -0.0 into 0.0, so that the order of merging does not matter.
        self.min = float(np.fmin(self.min, low)) + 0.0
        self.max = float(np.fmax(self.max, high)) + 0.0

    def _agree(self, other: str | None) -> None:
        if self.grid is not None and other is not None and self.grid != other:
            raise RequestError(
                f"a sketch on the {self.grid} grid cannot take data on the {other} grid",
                "only float16 data live on the fp16 grid; measure both sides in one type",
            )
        self.grid = self.grid or other

    def __add__(self, other: Sketch) -> Sketch:
        """Return the sketch of both data sets together; neither side changes."""
        if not isinstance(other, Sketch):
            return NotImplemented
        total = Sketch(self.grid)
        total._agree(other.grid)
        total.table = self.table + other.table
        total.nan = self.nan + other.nan
        total.inf = self.inf + other.inf
        total.zeros = self.zeros + other.zeros
        total.min, total.max = self.min, self.max
        total._stretch(other.min, other.max)
        total.is_rounded = self.is_rounded or other.is_rounded
        parts = (self.moments, self.table), (other.moments, other.table)
        total.moments = joined_moments(parts, total.grid or "bf16")
        return total

    def __eq__(self, other: object) -> bool:
        """Whether all counters and extremes agree (moments depend on how the data were cut)."""
        if not isinstance(other, Sketch):
            return NotImplemented
        mine, theirs = self._scalars(), other._scalars()
        return mine == theirs and bool(np.array_equal(self.table, other.table))

    __hash__ = None  # type: ignore[assignment]

    def _scalars(self) -> tuple[Any, ...]:
        extremes = (None, None) if math.isnan(self.min) else (self.min, self.max)
        return (self.grid, self.nan, self.inf, self.zeros, *extremes)

    def __repr__(self) -> str:
        return f"Sketch({self.grid}, count={self.count}, nan={self.nan}, inf={self.inf})"

    @property
    def count(self) -> int:
        """Finite values."""
        return int(self.table.sum())

    def pairs(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the values that occurred, ascending (-0.0 before 0.0), and how often each did."""
        name = self.grid or "bf16"
        top, sign = float_grid.first_nonfinite(name), float_grid.SIGN
        counts = np.concatenate([self.table[sign : sign + top][::-1], self.table[:top]])
        occupied = np.flatnonzero(counts != 0)  # of booleans it is several times as fast
        return float_grid.ordered_values(name)[occupied], counts[occupied]

    def magnitude_pairs(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the magnitudes that occurred, ascending, and their counts."""
        name = self.grid or "bf16"
        top = float_grid.first_nonfinite(name)
        counts = self.table[:top] + self.table[float_grid.SIGN : float_grid.SIGN + top]
        occupied = np.flatnonzero(counts)
        return float_grid.magnitudes(name)[occupied], counts[occupied]

    def mean(self) -> float:
        """Return the mean; NaN if the sketch is empty."""
        values, counts = self.pairs()
        if self.is_rounded and counts.size:
            return self.moments.mean
        return math.fsum(values * counts) / self.count if counts.size else math.nan

    def std(self) -> float:
        """Return the population standard deviation; NaN if the sketch is empty."""
        values, counts = self.pairs()
        if not counts.size:
            return math.nan
        if self.is_rounded:
            return math.sqrt(self.moments.m2 / self.count)
        return math.sqrt(math.fsum((values - self.mean()) ** 2 * counts) / self.count)

    def clip(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """Clip numbers to the exact extremes, which cells of wider data can exceed."""
        return numbers if math.isnan(self.min) else np.clip(numbers, self.min, self.max)

    def quantile(self, q: ArrayLike) -> Any:
        """Return quantiles by linear interpolation: a float, or an array of the shape of ``q``."""
        wanted = np.asarray(to_array(q, "q"), dtype=np.float64)
        if not ((wanted >= 0) & (wanted <= 1)).all():
            raise RequestError("quantiles lie between 0 and 1")
        found = self.clip(interpolate_quantiles(*self.pairs(), np.atleast_1d(wanted)))
        return float(found[0]) if wanted.ndim == 0 else found.reshape(wanted.shape)


class UnchangedSketch(Sketch):
    """A sketch that computes its pairs once; the original must not change while this is used."""

    def __init__(self, sketch: Sketch) -> None:
        self._take(sketch)
        vars(self).update(pairs=cache(sketch.pairs), magnitude_pairs=cache(sketch.magnitude_pairs))


_GRIDS = float_grid.GRIDS
_CELLS = float_grid.CELLS


def interpolate_quantiles(
    values: NDArray[np.float64], counts: NDArray[np.int64], q: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return quantiles of an ascending weighted sample, equal to numpy.quantile of the full one."""
    if not counts.size:
        return np.full(q.shape, np.nan)
    running = np.cumsum(counts)
    place = q * (running[-1] - 1)
    floor = np.floor(place)
    low = values[np.searchsorted(running, floor, side="right")]
    high = values[np.searchsorted(running, np.minimum(floor + 1, running[-1] - 1), side="right")]
    weight = place - floor
    span = high - low
    found: NDArray[np.float64] = np.where(
        weight < 0.5, low + span * weight, high - span * (1 - weight)
    )
    return found


def _as_rows(values: Any, mask: Any) -> tuple[torch.Tensor, NDArray[np.int64]]:
    """Return a tensor (rows, channels) and the slot of each row, 0 or -1."""
    tensor = to_tensor(values, "the values")
    if mask is None:
        width = tensor.shape[-1] if tensor.dim() else 1
        rows = tensor.reshape(-1, width) if tensor.numel() else tensor.reshape(0, 1)
        return rows.contiguous(), np.zeros(rows.shape[0], np.int64)
    array = to_mask(mask, "the mask")
    if not array.ndim or array.shape != tuple(tensor.shape[: array.ndim]):
        raise RequestError(
            f"the mask has shape {array.shape}, the values {tuple(tensor.shape)}",
            "a mask has the leading dimensions of the values",
        )
    if not tensor.numel():
        return tensor.reshape(0, 1), np.zeros(0, np.int64)
    rows = tensor.reshape(array.size, -1).contiguous()
    return rows, np.where(array.ravel(), 0, -1)
