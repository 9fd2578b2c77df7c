"""Record what number formats lose at every place: errors, zeros, clipped values, block maxima.

Guarantee: sums of errors are float64 by token and exact beyond, so that they do not depend on
batches, processes or the order of adding. Memory: some KiB per layer, site, phase, format.
On a device, sums of all calls are float64, and are taken when everything is counted: 256 KiB there
per layer, site, phase and kind of block.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distviz.sites import SiteKey, key_order
from distviz.stats import (
    GRANULAR_FORMATS,
    ExactSum,
    float_grid,
    interpolate_quantiles,
    kernels,
)

if TYPE_CHECKING:
    import torch

    from distviz.hooks.tokens import Tokens
    from distviz.stats.kernels import DeviceLosses, FormatWindows, QuantizationSums

PERCENTILES = (1, 50, 99)
"""Of the largest magnitudes of blocks."""

Place = tuple[SiteKey, str]
Counts = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class Losses:
    """What one format loses at a place; two of them add.

    Attributes
    ----------
    error, shares
        Sums of squared errors, and over tokens of their share in the token's sum of squares.
    zeroed, clipped
        Values that become zero, and clipped values.
    maxima
        int64 codes of bf16, ascending, and how often each occurs among the largest magnitudes of
        blocks.
    """

    error: ExactSum = field(default_factory=ExactSum)
    shares: ExactSum = field(default_factory=ExactSum)
    zeroed: int = 0
    clipped: int = 0
    maxima: Counts = field(default_factory=lambda: (np.empty(0, np.int64), np.empty(0, np.int64)))

    def __add__(self, other: Losses) -> Losses:
        codes, inverse = np.unique(
            np.concatenate([self.maxima[0], other.maxima[0]]), return_inverse=True
        )
        counts = np.zeros(codes.size, np.int64)
        np.add.at(counts, inverse, np.concatenate([self.maxima[1], other.maxima[1]]))
        return Losses(
            self.error + other.error,
            self.shares + other.shares,
            self.zeroed + other.zeroed,
            self.clipped + other.clipped,
            (codes, counts),
        )


@dataclass(frozen=True)
class PlaceLosses:
    """What formats lose at one place; two of them add.

    Attributes
    ----------
    count, tokens
        Finite values, and tokens with a value that is not zero.
    squares
        Sum of squares.
    formats
        Of each format.
    """

    count: int
    tokens: int
    squares: ExactSum
    formats: tuple[Losses, ...]

    @classmethod
    def of(cls, found: QuantizationSums, windows: NDArray[np.int64]) -> PlaceLosses:
        """Add up rows by window (int64, that of each row), then exactly."""
        squares, errors = found.sums[0], found.sums[1:]
        known = squares > 0
        shares = np.divide(errors, squares, out=np.zeros_like(errors), where=known)
        terms = np.concatenate([found.sums, shares])
        totals = [ExactSum() for _ in terms]
        for window in np.unique(windows).tolist():
            of_window = np.ascontiguousarray(terms[:, windows == window]).sum(axis=1)
            totals = [one.plus(term) for one, term in zip(totals, of_window.tolist(), strict=True)]
        return cls.of_totals(totals, (found.count, int(known.sum())), found.losses, found.maxima)

    @classmethod
    def of_totals(
        cls,
        totals: Sequence[ExactSum],
        counts: Sequence[int],
        losses: NDArray[np.int64],
        maxima: NDArray[np.int64],
    ) -> PlaceLosses:
        """Return the losses by sums of squares, of the errors of each format, and of shares."""
        number, formats = len(losses), []
        for index, (zeroed, clipped) in enumerate(losses.tolist()):
            codes = np.flatnonzero(maxima[index])
            sums = totals[1 + index], totals[1 + number + index]
            formats.append(Losses(*sums, zeroed, clipped, (codes, maxima[index, codes])))
        count, tokens = counts
        return cls(count, tokens, totals[0], tuple(formats))

    def __add__(self, other: PlaceLosses) -> PlaceLosses:
        formats = (mine + theirs for mine, theirs in zip(self.formats, other.formats, strict=True))
        squares = self.squares + other.squares
        return PlaceLosses(
            self.count + other.count, self.tokens + other.tokens, squares, tuple(formats)
        )


@dataclass
class FormatLosses:
    """What formats lose at every layer, site and phase; two of them add.

    Parameters
    ----------
    formats
        Names of `GRANULAR_FORMATS`.
    rotations
        ``none``, ``hadamard`` or both: what is done to each token before it is quantized.
    """

    formats: tuple[str, ...] = ()
    rotations: tuple[str, ...] = ("none",)
    found: dict[Place, PlaceLosses] = field(default_factory=dict)
    _on_device: dict[tuple[Place, torch.device], DeviceLosses] = field(
        default_factory=dict, repr=False
    )

    def see(self, key: SiteKey, values: torch.Tensor, tokens: Tokens) -> None:
        """Quantize (rows, channels) of one call."""
        if not self.formats:
            return
        windows = tokens.once("windows", partial(_windows, tokens))
        formats = [GRANULAR_FORMATS[name] for name in self.formats]
        for rotation in self.rotations:
            given, place = values if rotation == "none" else kernels.rotate(values), (key, rotation)
            if not kernels.counts_on_device(values):
                sums = kernels.quantization_sums(given, windows, formats)
                self._add(place, PlaceLosses.of(sums, windows.owners[windows.counted]))
                continue
            there = tokens.once(("windows", values.device), partial(windows.on, values.device))
            losses = kernels.losses_on_device(given, there, formats)
            if losses is not None:
                own = place, values.device
                self._on_device[own] = losses.plus(self._on_device.get(own))

    def _add(self, place: Place, own: PlaceLosses) -> None:
        before = self.found.get(place)
        self.found[place] = own if before is None else before + own

    def flush(self) -> None:
        """Take what was summed on devices; waits for it."""
        losses, self._on_device = self._on_device, {}
        units = kernels.units_of([GRANULAR_FORMATS[name] for name in self.formats])[1]
        found = iter(kernels.to_host([tensor for one in losses.values() for tensor in one]))
        for (place, _), sums, counts, maxima in zip(losses, found, found, found, strict=True):
            totals = [ExactSum().plus(one) for one in sums.tolist()]
            rest = counts[0].tolist(), counts[1:], maxima[units]
            self._add(place, PlaceLosses.of_totals(totals, *rest))

    def __add__(self, other: FormatLosses) -> FormatLosses:
        total = dict(self.found)
        for place, losses in other.found.items():
            total[place] = total[place] + losses if place in total else losses
        return FormatLosses(self.formats, self.rotations, total)

    def state(self) -> dict[str, Any]:
        """Return everything as a tree for `distviz.stats.encode`."""
        return {
            "formats": list(self.formats),
            "rotations": list(self.rotations),
            "found": [
                [
                    *(list(key), rotation, one.count, one.tokens),
                    *(*_plain(one.squares), [*map(_state_of, one.formats)]),
                ]
                for (key, rotation), one in self.found.items()
            ],
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> FormatLosses:
        """Return the losses of a `state`."""
        found = {
            (SiteKey(*key), rotation): PlaceLosses(
                count, tokens, ExactSum(units, rest), tuple(map(_from_state, formats))
            )
            for key, rotation, count, tokens, units, rest, formats in state["found"]
        }
        return cls(tuple(state["formats"]), tuple(state["rotations"]), found)

    def frame(self) -> pd.DataFrame:
        """Return ``formats.csv``."""
        order = sorted(
            self.found,
            key=lambda place: (key_order(place[0]), self.rotations.index(place[1])),
        )
        rows = [
            {"layer": key.layer, "site": key.site, "phase": key.phase}
            | {"format": name, "rotation": rotation}
            | _row(self.found[key, rotation], losses)
            | {"module": key.module, "stack": key.stack}
            for key, rotation in order
            for name, losses in zip(self.formats, self.found[key, rotation].formats, strict=True)
        ]
        return pd.DataFrame(rows)


def _windows(tokens: Tokens) -> FormatWindows:
    """Return the windows of the rows of a call."""
    lengths = tokens.lengths or (tokens.valid.shape[1],) * len(tokens.valid)
    owners = np.repeat(np.arange(len(lengths)), lengths)
    windows = np.where(tokens.valid.ravel(), owners, -1)
    if tokens.routed is not None:
        windows = tokens.routed.spread(windows)
    return kernels.FormatWindows.of(windows, tokens.rows_that_count())


def _row(place: PlaceLosses, losses: Losses) -> dict[str, Any]:
    energy, error = float(place.squares), float(losses.error)
    codes, counts = losses.maxima
    magnitudes = float_grid.magnitudes("bf16")[codes]
    shares = np.array([*PERCENTILES, 100]) / 100
    maxima = np.full(shares.size, math.nan)
    if codes.size:
        maxima = interpolate_quantiles(magnitudes, counts, shares)
    percentiles = dict(zip((*_MAXIMA, "max_p100"), maxima.tolist(), strict=True))
    tokens = max(place.tokens, 1)
    return {
        "sqnr_db": _decibels(energy, error),
        "error_share": error / energy if energy else math.nan,
        "token_error_share": float(losses.shares) / tokens if energy else math.nan,
        "zeroed": losses.zeroed / place.count if place.count else math.nan,
        "clipped": losses.clipped / place.count if place.count else math.nan,
        **percentiles,
        "count": place.count,
        "error": error,
    }


_MAXIMA = tuple(f"max_p{percentile}" for percentile in PERCENTILES)


def _decibels(energy: float, error: float) -> float:
    if not energy:
        return math.nan
    return 10 * math.log10(energy / error) if error else math.inf


def _plain(total: ExactSum) -> tuple[int, float]:
    return total.units, total.rest


def _state_of(one: Losses) -> list[Any]:
    sums = (*_plain(one.error), *_plain(one.shares))
    return [*sums, one.zeroed, one.clipped, *one.maxima]


def _from_state(state: Iterable[Any]) -> Losses:
    units, rest, share_units, share_rest, zeroed, clipped, codes, counts = state
    sums = ExactSum(units, rest), ExactSum(share_units, share_rest)
    return Losses(*sums, zeroed, clipped, (codes, counts))
