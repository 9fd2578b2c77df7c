"""The mean movement of values: ``|after - before|`` of the same token and channel.

The values of a batch without ARM are held until the same batch passes with ARM, place by place.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from distviz.sites import SiteKey
from distviz.stats import ExactSum, kernels

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

HELD_BYTES = 1 << 29
"""Limit of the values held; places beyond it are not measured."""
Reason = Literal["memory", "tokens"]
"""Why a place is not measured: its values exceed the limit, or the rows of both passes are not the
same tokens (routed experts)."""


@dataclass(frozen=True)
class _Total:
    """Sum of ``|after - before|`` and number of pairs of finite values."""

    sum: ExactSum = field(default_factory=ExactSum)
    count: int = 0

    def __add__(self, other: _Total) -> _Total:
        return _Total(self.sum + other.sum, self.count + other.count)


@dataclass
class PairedChanges:
    """Accumulates the movement of values by place (a key of phase ``after``); two can be added.

    Parameters
    ----------
    is_on
        Whether two passes of every batch are paired.
    most_bytes
        Limit of the values of one batch that are held.

    Attributes
    ----------
    missing
        Places that were not measured, and why.
    """

    is_on: bool = False
    most_bytes: int = HELD_BYTES
    totals: dict[SiteKey, _Total] = field(default_factory=dict)
    missing: dict[SiteKey, Reason] = field(default_factory=dict)
    _held: dict[SiteKey, deque[torch.Tensor]] = field(default_factory=dict)
    _bytes: int = 0
    _on_device: dict[SiteKey, torch.Tensor] = field(default_factory=dict, repr=False)

    def see(self, key: SiteKey, values: torch.Tensor, rows: NDArray[np.bool_] | None) -> None:
        """Hold the values of phase ``before``, or compare those of ``after`` with them.

        ``rows`` marks the counted rows; None if rows cannot be paired.
        """
        place = key._replace(phase="after")
        if not self.is_on or key.phase not in ("before", "after") or place in self.missing:
            return
        held = self._held.setdefault(place, deque())
        if rows is None or (key.phase == "after" and not held):
            self._leave_out(place, "tokens")
        elif key.phase == "before":
            # Selecting rows copies; the model may write into the values themselves.
            kept = values.clone() if rows.all() else _counted(values, rows)
            self._bytes += kept.nbytes
            held.append(kept)
            if self._bytes > self.most_bytes:
                self._leave_out(place, "memory")
        else:
            before = held.popleft()
            self._bytes -= before.nbytes
            self.compare(place, before, _counted(values, rows))

    def see_both(
        self, key: SiteKey, old: torch.Tensor, new: torch.Tensor, rows: NDArray[np.bool_]
    ) -> None:
        """Compare rows of one pass before and after ARM."""
        self.compare(key._replace(phase="after"), _counted(old, rows), _counted(new, rows))

    def compare(self, place: SiteKey, before: torch.Tensor, after: torch.Tensor) -> None:
        """Add pairs of values; a pair with NaN or an infinite value is left out."""
        if before.shape != after.shape:
            self._leave_out(place, "tokens")
            return
        if kernels.counts_on_device(after):
            moved, known = kernels.movement_on_device(before, after), self._on_device.get(place)
            self._on_device[place] = moved if known is None else known + moved
            return
        found = kernels.compare(before, after, math.inf)
        self._add(place, float(found.sums[:, 4].sum()), int(found.counts.sum()))

    def _add(self, place: SiteKey, total: float, count: int) -> None:
        own = _Total(ExactSum().plus(total), count)
        self.totals[place] = self.totals.get(place, _Total()) + own

    def flush(self) -> None:
        """Take what was summed on devices; waits for it."""
        sums, self._on_device = self._on_device, {}
        for place, found in zip(sums, kernels.to_host([*sums.values()]), strict=True):
            self._add(place, float(found[0]), int(found[1]))

    def _leave_out(self, place: SiteKey, why: Reason) -> None:
        self.missing[place] = why
        self._bytes -= sum(one.nbytes for one in self._held.pop(place, ()))

    def means(self) -> dict[SiteKey, float]:
        """Return the mean ``|after - before|`` of every place that was measured completely."""
        incomplete = self.incomplete
        return {
            place: float(total.sum) / total.count
            for place, total in self.totals.items()
            if place not in incomplete and total.count
        }

    @property
    def incomplete(self) -> dict[SiteKey, Reason]:
        """`missing`, with places whose values without ARM still wait for their pair."""
        waiting: dict[SiteKey, Reason] = {key: "tokens" for key, held in self._held.items() if held}
        return waiting | self.missing

    def __add__(self, other: Self) -> Self:
        """Return the pairs of both."""
        totals = dict(self.totals)
        for place, total in other.totals.items():
            totals[place] = totals.get(place, _Total()) + total
        kind = type(self)
        missing = self.incomplete | other.incomplete
        return kind(self.is_on or other.is_on, self.most_bytes, totals, missing)

    def state(self) -> dict[str, Any]:
        """Return plain data, without the values held."""
        return {
            "is_on": self.is_on,
            "totals": [[list(k), t.sum.units, t.sum.rest, t.count] for k, t in self._sorted()],
            "missing": [[list(place), why] for place, why in sorted(self.incomplete.items())],
        }

    def _sorted(self) -> Iterable[tuple[SiteKey, _Total]]:
        return sorted(self.totals.items())

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Return what `state` describes."""
        totals = {
            SiteKey(*key): _Total(ExactSum(units, rest), count)
            for key, units, rest, count in state["totals"]
        }
        missing = {SiteKey(*place): why for place, why in state["missing"]}
        return cls(state["is_on"], totals=totals, missing=missing)


def _counted(values: torch.Tensor, rows: NDArray[np.bool_]) -> torch.Tensor:
    """Return the counted rows."""
    return values if rows.all() else values[kernels.to_device(np.flatnonzero(rows), values.device)]
