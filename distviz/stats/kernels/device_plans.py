"""The plan of a redistribution and its new values on a device, without waiting.

Ranks are found by histograms of 16 bits of the patterns, and every number of the plan stays a
tensor. Plans, what moves and the new values are those of :mod:`distviz.stats.kernels.plans`, to the
bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distviz.stats import float_grid
from distviz.stats.kernels.device_types import DeviceRows, has_float64
from distviz.stats.kernels.host_copies import HostCopies, to_device
from distviz.stats.kernels.types import Request
from distviz.stats.statistics import MAD_TO_SIGMA, SMALLEST_MAD

_DIGIT = 16
_TYPES = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_WHOLE = (0, 6, 10, 11)
"""What is a whole number in a plan: n, k and both numbers of ties."""

Items = Iterator[tuple[torch.Tensor, torch.Tensor]]
"""Values, each with the number of times it counts, int64; 0 for what is not finite."""


@dataclass(frozen=True)
class DeviceDecision:
    """The plan of a sequence, on its device.

    Attributes
    ----------
    rows
        Its rows.
    plan
        float64 (12,): see `Decision`.
    pattern
        int64 (): the bit pattern of the largest magnitude that moves.
    """

    rows: DeviceRows
    plan: torch.Tensor
    pattern: torch.Tensor
    _copies: HostCopies = field(default_factory=HostCopies, repr=False)
    _found: list[Any] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        self._copies.put([self.plan], lambda arrays: self._found.extend(arrays[0].tolist()))

    def numbers(self) -> tuple[Any, ...]:
        """Return the plan as Python numbers; waits until it was found."""
        self._copies.flush()
        return tuple(int(one) if n in _WHOLE else one for n, one in enumerate(self._found))

    def moves(self, values: torch.Tensor) -> Iterator[tuple[Any, torch.Tensor, torch.Tensor]]:
        """Yield (places of rows, values, mask of those that move) of some million at a time."""
        device = values.device
        pattern, ties = self.pattern.to(device), self.plan[10].to(device).long()
        seen = torch.zeros_like(ties)
        for place, picked in _pieces(values, self.rows):
            bits = _bits(picked)
            is_tie = (bits == pattern).flatten()
            running = is_tie.cumsum(0) + seen
            seen = seen + is_tie.sum()
            moves = (bits < pattern) | (is_tie & (running <= ties)).view(bits.shape)
            yield place, picked, moves


def _pieces(values: torch.Tensor, rows: DeviceRows) -> Iterator[tuple[Any, torch.Tensor]]:
    start = 0
    for slots, picked, _ in rows.pieces(values, None):
        span = slice(start, start + len(slots))
        yield span if rows.index is None else rows.index[span], picked
        start = span.stop


def _bits(values: torch.Tensor) -> torch.Tensor:
    """Return magnitudes as integers of the same order, int64."""
    return values.abs().contiguous().view(_TYPES[values.element_size()]).long()


def _ordered(values: torch.Tensor) -> torch.Tensor:
    """Return values as integers of the same order, not negative below 64 bits, int64."""
    width = 8 * values.element_size()
    bits = values.contiguous().view(_TYPES[values.element_size()]).long()
    return torch.where(bits < 0, ~bits, bits ^ -(1 << (width - 1))) & ((1 << width) - 1)


def _items(values: torch.Tensor, rows: DeviceRows) -> Callable[[], Items]:
    """Return what yields the values; those of 16 bits are read once, and counted."""
    if values.element_size() > 2:

        def all_values() -> Items:
            for _, picked in _pieces(values, rows):
                flat = picked.flatten()
                yield flat, flat.isfinite().long()

        return all_values
    table = torch.zeros(float_grid.CELLS, dtype=torch.int64, device=values.device)
    one = torch.ones((), dtype=torch.int64, device=values.device)
    for _, picked in _pieces(values, rows):
        codes = picked.contiguous().view(torch.int16).flatten().long() & 0xFFFF
        table.scatter_add_(0, codes, one.expand(codes.shape))
    codes = torch.arange(float_grid.CELLS, device=values.device)
    every = (codes - (codes >> 15 << 16)).to(torch.int16).view(values.dtype)
    weights = torch.where(every.isfinite(), table, 0)
    return lambda: iter([(every, weights)])


def _at_rank(
    items: Callable[[], Items],
    key: Callable[[torch.Tensor], torch.Tensor],
    bits: int,
    rank: torch.Tensor,
) -> torch.Tensor:
    """Return the key of a rank, int64 (1,), by histograms of 16 bits from the highest on."""
    found = torch.zeros_like(rank)
    for shift in range(bits - _DIGIT, -1, -_DIGIT):
        table = torch.zeros(1 << _DIGIT, dtype=torch.int64, device=rank.device)
        above = shift + _DIGIT
        for values, weights in items():
            keys, own = key(values), weights
            if above < bits:
                own = own * ((keys >> above) & ((1 << (bits - above)) - 1) == found)
            table.scatter_add_(0, (keys >> shift) & 0xFFFF, own)
        running = table.cumsum(0)
        digit = (running <= rank).sum().clamp(max=0xFFFF).view(1)
        rank = rank - (running - table).gather(0, digit)
        found = (found << _DIGIT) | digit
    return found


def decide(values: torch.Tensor, rows: NDArray[np.int64], request: Request) -> DeviceDecision:
    """See `distviz.stats.kernels.plans.decide`; on the CPU where a device has no float64."""
    zeros = np.zeros(values.shape[0], np.int64)
    chosen = DeviceRows.of(rows, zeros, 1, values.device)
    if not has_float64(values.device.type):
        on_host = decide(values.cpu(), rows, request)
        return DeviceDecision(chosen, on_host.plan, on_host.pattern)
    items, bits = _items(values, chosen), 8 * values.element_size()

    def total(condition: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        counts = [(weights * condition(own)).sum() for own, weights in items()]
        return torch.stack(counts).sum().view(1) if counts else empty

    def real(patterns: torch.Tensor) -> torch.Tensor:
        return patterns.to(_TYPES[values.element_size()]).view(values.dtype).double()

    def size_of(own: torch.Tensor) -> torch.Tensor:
        return own.double().abs()

    empty = torch.zeros(1, dtype=torch.int64, device=values.device)
    n = total(lambda own: torch.ones_like(own, dtype=torch.bool))
    last = (n - 1).clamp(min=0)
    center = real(_at_rank(items, _bits, bits, last // 2))
    far = _at_rank(items, lambda own: _bits(size_of(own) - center), 64, last // 2)
    mad = far.view(torch.float64)
    eps = MAD_TO_SIGMA * mad.clamp(min=SMALLEST_MAD) * request.c
    near = total(lambda own: size_of(own) < eps).double() / n.clamp(min=1)
    fraction = near.clamp(request.least, request.most)
    k = (fraction * n).round().long().clamp(min=1)
    pattern = torch.where(n > 0, _at_rank(items, _bits, bits, k - 1), 0)
    ties = k - total(lambda own: _bits(own) < pattern)
    upper = _percentile(items, bits, real, last, request)
    least = [torch.where(weights > 0, own.double(), 0.0).amin() for own, weights in items()]
    lower = torch.stack([*least, empty[0].double()]).amin().view(1)
    lower = torch.where(lower < 0, lower, 0.0)
    in_all = total(lambda own: _bits(own) == pattern)
    plan = [n, center, mad, eps, near, fraction, k, upper, lower, real(pattern), ties, in_all]
    found = torch.cat([one.double() for one in plan])
    return DeviceDecision(chosen, torch.where(n > 0, found, 0.0), pattern[0])


def _percentile(
    items: Callable[[], Items],
    bits: int,
    real: Callable[[torch.Tensor], torch.Tensor],
    last: torch.Tensor,
    request: Request,
) -> torch.Tensor:
    """Return the upper bound: the percentile as numpy interpolates it, at least 0."""
    of_size = request.of_magnitude
    key = _bits if of_size else _ordered

    def value(rank: torch.Tensor) -> torch.Tensor:
        found = _at_rank(items, key, bits, rank)
        if not of_size:
            top = -(1 << (bits - 1))
            found = torch.where((found & top) != 0, found ^ top, ~found)
        return real(found)

    place = request.percentile * last.double()
    floor = torch.minimum(place.long(), last)
    low, high = value(floor), value(torch.minimum(floor + 1, last))
    weight = place - floor
    span = high - low
    upper = torch.where(weight < 0.5, low + span * weight, high - span * (1 - weight))
    return torch.where(upper > 0, upper, 0.0)


def random_bits(keys: torch.Tensor, channels: int) -> torch.Tensor:
    """The channel stage of `distviz.stats.kernels.rng` before its last product, 24 bits.

    All is int32, ``keys`` (rows, 2), too: sums and products are modulo 2^32.
    """

    def fold(word: torch.Tensor, shift: int) -> torch.Tensor:
        return word.bitwise_xor_((word >> shift).bitwise_and_((1 << (32 - shift)) - 1))

    word = torch.arange(channels, dtype=torch.int32, device=keys.device) * _signed(0x9E3779B9)
    word = fold(word + keys[:, :1], 16).mul_(_signed(0x21F0AAAD))
    word = fold(word, 15).add_(keys[:, 1:]).mul_(_signed(0xD35A2D97))
    word = fold(fold(word, 15).mul_(_signed(0x735A2D97)), 15)
    return word.bitwise_right_shift_(8).bitwise_and_(0xFFFFFF)


def _signed(word: int) -> int:
    return (word ^ (1 << 31)) - (1 << 31)


def uniforms(keys: torch.Tensor, channels: int) -> torch.Tensor:
    """Return `distviz.stats.kernels.rng.uniforms` of the int32 keys of rows."""
    return random_bits(keys, channels).to(torch.float32) * (2.0**-24)


def apply(
    values: torch.Tensor,
    out: torch.Tensor,
    rows: NDArray[np.int64],  # noqa: ARG001
    keys: NDArray[np.uint32],
    decision: DeviceDecision,
    bounds: tuple[float, float] | None = None,
    *,
    adds: bool = False,
) -> None:
    """See `distviz.stats.kernels.plans.apply`."""
    device, start = values.device, 0
    words = to_device(keys.view(np.int32), device)
    if bounds is None:
        upper, lower = decision.plan[7:9].to(device, torch.float32).unbind(0)
    else:
        lower, upper = (torch.full((), one, device=device) for one in bounds)
    wide = torch.float64 if values.dtype == torch.float64 else torch.float32
    for place, picked, moves in decision.moves(values):
        shares = uniforms(words[start : start + len(picked)], values.shape[1])
        start += len(picked)
        new = shares * torch.where(picked < 0, lower, upper)
        if adds:
            new = picked.to(wide) + new.to(wide)
        out[place] = torch.where(moves, new.to(values.dtype), picked)


def find_moved(
    values: torch.Tensor,
    rows: NDArray[np.int64],  # noqa: ARG001
    decision: DeviceDecision,
    moved: torch.Tensor,
) -> None:
    """See `distviz.stats.kernels.plans.find_moved`."""
    for place, _, moves in decision.moves(values):
        moved[place] = moves.to(torch.uint8)
