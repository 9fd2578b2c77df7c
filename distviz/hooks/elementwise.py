"""Compare the values of two models element by element, batch by batch.

The values of a batch at the chosen points of a layer of A are held until the batch passes the same
layer of B.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from distviz.errors import RequestError
from distviz.output import counted
from distviz.sites import HookPoint
from distviz.stats import Differences, decode, encode

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from distviz.hooks.tokens import Tokens

Hold = Callable[["torch.Tensor"], Callable[[], "torch.Tensor"]]
"""Takes values that only the caller has, and returns what gives them back, any number of times."""

ROUTED = "rows of routed experts are other tokens in each model"
OTHER_ROWS = "its rows are not the tokens of the text"
REPEATED = "it runs a different number of times in each model"


def keep(values: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Hold values in memory."""
    return lambda: values


def of_widths(a: int, b: int) -> str:
    """Return the reason why a point is not compared that has other channels in each model."""
    return f"it has {counted(a, 'channel')} in A and {b:,} in B"


@dataclass
class PairRecorder:
    """Accumulates the differences of the points of two models.

    Parameters
    ----------
    partners
        Point of B -> the point of A that its values are compared with.

    Attributes
    ----------
    places
        Point of A -> its differences.
    own
        The same where each layer of B reads what the layer of A reads: the error that it makes.
    left_out
        Point of A -> why it is not compared.
    holds
        Keeps the values of A, see `Hold`; by default in memory.
    """

    partners: Mapping[HookPoint, HookPoint]
    places: dict[HookPoint, Differences] = field(default_factory=dict)
    own: dict[HookPoint, Differences] = field(default_factory=dict)
    left_out: dict[HookPoint, str] = field(default_factory=dict)
    holds: Hold = keep
    _held: dict[tuple[int, HookPoint], list[Callable[[], torch.Tensor]]] = field(
        default_factory=dict
    )
    _seen: dict[tuple[int, HookPoint, bool], int] = field(default_factory=dict)

    def hold(self, number: int, point: HookPoint, values: torch.Tensor, tokens: Tokens) -> None:
        """Hold (rows, channels) of A for the batch of this number."""
        if point in self.left_out:
            return
        if tokens.routed is not None:
            self.left_out[point] = ROUTED
            return
        kept = self.holds(_counted(values, tokens))
        self._held.setdefault((number, point), []).append(kept)

    def compare(
        self,
        number: int,
        point: HookPoint,
        values: torch.Tensor,
        tokens: Tokens,
        ids: NDArray[np.int64],
        *,
        is_own: bool = False,
    ) -> None:
        """Compare (rows, channels) of B with what A has for the batch of this number.

        ``ids`` is int64 (counted rows, 4): document, window, position and token of each row.
        """
        from distviz.stats import kernels

        place = self.partners[point]
        if place in self.left_out:
            return
        turn = self._seen.get((number, place, is_own), 0)
        self._seen[number, place, is_own] = turn + 1
        held = self._held.get((number, place), [])
        if tokens.routed is not None or turn >= len(held):
            self.left_out[place] = ROUTED if tokens.routed is not None else REPEATED
            return
        # Counting makes the memory of values impossible to release, as streaming has to.
        first, second = held[turn](), _counted(values, tokens, copies=self.holds is not keep)
        if not len(first) == len(second) == len(ids):
            self.left_out[place] = OTHER_ROWS
            return
        if first.shape[1] != second.shape[1]:
            self.left_out[place] = of_widths(first.shape[1], second.shape[1])
            return
        found = (self.own if is_own else self.places).setdefault(place, Differences())
        found.add(kernels.compare(first, second.to(first.device), found.most), ids)

    def release(self, numbers: Sequence[int]) -> None:
        """Forget the values of A of some batches, which have passed through B."""
        for number, point in list(self._held):
            if number not in numbers:
                continue
            kept = self._held.pop((number, point))
            for restore in kept:  # what was not compared may still be on disk
                restore()
            if self._seen.pop((number, point, False), 0) != len(kept):
                self.left_out.setdefault(point, REPEATED)
            self._seen.pop((number, point, True), None)

    def state(self) -> dict[str, Any]:
        """Return what was found, as a tree for `encode`; points by their number."""
        numbers = {point: number for number, point in enumerate(self._points())}
        return {
            "places": [[numbers[point], one.state()] for point, one in self.places.items()],
            "own": [[numbers[point], one.state()] for point, one in self.own.items()],
            "left_out": [[numbers[point], reason] for point, reason in self.left_out.items()],
        }

    def add_state(self, state: dict[str, Any]) -> None:
        """Add the `state` of a recorder of the same points that has seen other batches."""
        points = self._points()
        for mine, others in ((self.places, state["places"]), (self.own, state["own"])):
            for number, one in others:
                point = points[number]
                mine[point] = mine.get(point, Differences()) + Differences.from_state(one)
        for number, reason in state["left_out"]:
            self.left_out.setdefault(points[number], reason)

    def gather(self, world: Any) -> None:
        """Add what the other processes have found; every process then has the same."""
        states = [decode(data) for data in world.broadcast(encode(self.state()))]
        self.places, self.own, self.left_out = {}, {}, {}
        for state in states:
            self.add_state(state)

    def _points(self) -> list[HookPoint]:
        return list(dict.fromkeys(self.partners.values()))

    def check(self) -> None:
        """Raise a RequestError if nothing can be compared."""
        if self.left_out and set(self.partners.values()) <= set(self.left_out):
            point, reason = next(iter(self.left_out.items()))
            raise RequestError(
                f"nothing can be compared element by element: at {point.module}, {reason}",
                "leave out --elementwise to compare the distributions",
            )


def _counted(values: torch.Tensor, tokens: Tokens, *, copies: bool = True) -> torch.Tensor:
    """Return the counted rows; a copy, because the model may write into the values."""
    import torch

    rows = tokens.counted.ravel()
    if rows.all():
        return values.clone() if copies else values
    return values[torch.from_numpy(np.flatnonzero(rows)).to(values.device)]
