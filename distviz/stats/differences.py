"""How far the values of one tensor are from those of another, element by element.

The sums of one place: of each document and of each channel, the largest difference, and the rows
with the largest share of the error. Memory does not grow with the number of rows. Sums of documents
are exact, those of channels have twice the digits of float64: however rows are divided, and in
whatever order the parts are added, the result is the same.
"""

from __future__ import annotations

import functools
import heapq
import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distviz.stats.double_double import DoubleDouble
from distviz.stats.moments import ExactSum

if TYPE_CHECKING:
    from distviz.stats.kernels import PairSums

MOST_ROWS = 50
"""How many rows with the largest error are kept."""
_SUMS = 5


class Token(NamedTuple):
    """A token of the text; tokens sort as they stand in it."""

    document: int
    window: int
    position: int
    id: int


@dataclass(frozen=True, slots=True)
class Difference:
    """Sums over pairs of finite values, d = second - first.

    Attributes
    ----------
    error, first, second, product, absolute
        Sums of d^2, first^2, second^2, first * second and abs(d).
    count
        Number of pairs.
    """

    error: float = 0.0
    first: float = 0.0
    second: float = 0.0
    product: float = 0.0
    absolute: float = 0.0
    count: int = 0

    def __add__(self, other: Difference) -> Difference:
        return Difference(
            self.error + other.error,
            self.first + other.first,
            self.second + other.second,
            self.product + other.product,
            self.absolute + other.absolute,
            self.count + other.count,
        )

    @property
    def sqnr_db(self) -> float:
        """10 log10 of the sum of first^2 over that of d^2: infinite without error."""
        if not self.error:
            return math.inf if self.count else math.nan
        return 10 * math.log10(self.first / self.error) if self.first else -math.inf

    @property
    def relative_error(self) -> float:
        """The norm of d over that of first; NaN if first is zero and d is not."""
        if not self.error:
            return 0.0 if self.count else math.nan
        return math.sqrt(self.error / self.first) if self.first else math.nan

    @property
    def cosine(self) -> float:
        """The cosine of both; NaN if one is zero."""
        size = math.sqrt(self.first) * math.sqrt(self.second)
        if self.first == self.second == self.product:
            size = self.first  # the root of a square may differ from it in the last bit
        return max(-1.0, min(1.0, self.product / size)) if size else math.nan

    @property
    def mean_abs(self) -> float:
        """The mean of abs(d)."""
        return self.absolute / self.count if self.count else math.nan


def difference_of(found: PairSums) -> Difference:
    """Return the sums over all rows."""
    error, first, second, product, absolute = found.sums.sum(axis=0).tolist()
    return Difference(error, first, second, product, absolute, int(found.counts.sum()))


@dataclass
class Differences:
    """What is known of one place.

    Attributes
    ----------
    documents
        Document -> its sums.
    channels
        (2, channels): sums of d^2 and of first^2; None before the first row.
    tokens
        Number of rows.
    cosines, n_cosines
        Sum of the cosines of single rows, and how many have one.
    most, most_token, most_channel
        The largest abs(d) and where it is, the first of equals in the text.
    left_out
        Pairs that were left out, because a value is not finite.
    """

    documents: dict[int, Difference] = field(default_factory=dict)
    channels: DoubleDouble | None = None
    tokens: int = 0
    cosines: ExactSum = field(default_factory=ExactSum)
    n_cosines: int = 0
    most: float = 0.0
    most_token: Token | None = None
    most_channel: int = -1
    left_out: int = 0
    _worst: list[tuple[float, tuple[int, ...], float, float]] = field(default_factory=list)
    _exact: dict[int, tuple[ExactSum, ...]] = field(default_factory=dict)

    def add(self, found: PairSums, tokens: NDArray[np.int64]) -> None:
        """Add rows; ``tokens`` is int64 (rows, 4), a `Token` each."""
        width = found.errors.size
        self._add_channels(DoubleDouble.of(np.stack([found.errors, found.squares])))
        self.tokens += len(tokens)
        self.left_out += int(len(tokens) * width - found.counts.sum())
        owners, inverse = np.unique(tokens[:, 0], return_inverse=True)
        for number, document in enumerate(owners.tolist()):
            rows = inverse == number
            sums = tuple(ExactSum().plus(math.fsum(one)) for one in found.sums[rows].T)
            self._add_document(document, sums, int(found.counts[rows].sum()))
        self._add_cosines(found.sums)
        self._add_worst(found.sums, tokens)
        if found.row >= 0:
            self.most, self.most_channel = found.most, found.channel
            self.most_token = Token(*tokens[found.row].tolist())

    def _add_channels(self, more: DoubleDouble) -> None:
        self.channels = more if self.channels is None else self.channels + more

    def _add_document(self, document: int, sums: tuple[ExactSum, ...], count: int) -> None:
        known = self._exact.get(document, (ExactSum(),) * _SUMS)
        exact = tuple(one + more for one, more in zip(known, sums, strict=True))
        count += self.documents[document].count if document in self.documents else 0
        self._exact[document] = exact
        numbers: Any = [*map(float, exact), count]
        self.documents[document] = Difference(*numbers)

    def _add_cosines(self, sums: NDArray[np.float64]) -> None:
        _, first, second, product, _ = sums.T
        size = np.sqrt(first) * np.sqrt(second)
        size = np.where((first == second) & (second == product), first, size)
        known = size > 0
        self.cosines = self.cosines.plus(math.fsum(np.clip(product[known] / size[known], -1, 1)))
        self.n_cosines += int(known.sum())

    def _add_worst(self, sums: NDArray[np.float64], tokens: NDArray[np.int64]) -> None:
        error = sums[:, 0]
        least = self._worst[0][0] if len(self._worst) == MOST_ROWS else 0.0
        for row in np.flatnonzero((error > 0) & (error >= least)).tolist():
            # Of equal errors the token that stands first is kept.
            place = tuple(-number for number in tokens[row].tolist())
            self._keep((float(error[row]), place, float(sums[row, 1]), float(_cosine(sums[row]))))

    def _keep(self, row: tuple[float, tuple[int, ...], float, float]) -> None:
        if len(self._worst) < MOST_ROWS:
            heapq.heappush(self._worst, row)
        else:
            heapq.heappushpop(self._worst, row)

    def __add__(self, other: Differences) -> Differences:
        """Return the sum over the rows of both; neither may be used afterwards."""
        if other.channels is not None:
            self._add_channels(other.channels)
        for document, sums in other._exact.items():
            self._add_document(document, sums, other.documents[document].count)
        for row in other._worst:
            self._keep(row)
        self.tokens += other.tokens
        self.left_out += other.left_out
        self.cosines, self.n_cosines = (
            self.cosines + other.cosines,
            self.n_cosines + other.n_cosines,
        )
        if other._is_before(self):
            self.most, self.most_token = other.most, other.most_token
            self.most_channel = other.most_channel
        return self

    def _is_before(self, other: Differences) -> bool:
        """Whether the largest difference is above the other's, or equal and before it."""
        if self.most_token is None or other.most_token is None:
            return other.most_token is None
        return (-self.most, self.most_token) < (-other.most, other.most_token)

    def state(self) -> dict[str, Any]:
        """Return everything as a tree for `encode`."""
        of_channels = None if self.channels is None else [self.channels.high, self.channels.low]
        return {
            "documents": [
                [number, [[one.units, one.rest] for one in sums], self.documents[number].count]
                for number, sums in self._exact.items()
            ],
            "channels": of_channels,
            "tokens": self.tokens,
            "cosines": [self.cosines.units, self.cosines.rest, self.n_cosines],
            "most": [self.most, self.most_token, self.most_channel],
            "left_out": self.left_out,
            "worst": self._worst,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Differences:
        """Return the differences whose `state` this is."""
        units, rest, n_cosines = state["cosines"]
        most, token, channel = state["most"]
        found = cls(
            channels=None if state["channels"] is None else DoubleDouble(*state["channels"]),
            tokens=state["tokens"],
            cosines=ExactSum(units, rest),
            n_cosines=n_cosines,
            most=most,
            most_token=None if token is None else Token(*token),
            most_channel=channel,
            left_out=state["left_out"],
            _worst=[(error, tuple(place), *more) for error, place, *more in state["worst"]],
        )
        for document, sums, count in state["documents"]:
            found._add_document(document, tuple(ExactSum(*one) for one in sums), count)
        return found

    @property
    def total(self) -> Difference:
        """The sums of all documents."""
        parts = (self.documents[number] for number in sorted(self.documents))
        return functools.reduce(operator.add, parts, Difference())

    @property
    def mean_cosine(self) -> float:
        """The mean of the cosines of single rows; NaN without any."""
        return float(self.cosines) / self.n_cosines if self.n_cosines else math.nan

    def worst_tokens(self) -> Iterator[tuple[Token, float, float, float]]:
        """Yield tokens with share of the error, relative error, cosine; the largest first."""
        whole = self.total.error
        for error, place, first, cosine in sorted(self._worst, reverse=True):
            relative = math.sqrt(error / first) if first else math.nan
            yield Token(*(-number for number in place)), error / whole, relative, cosine

    def worst_channels(self) -> Iterator[tuple[int, float, float, float]]:
        """Yield channels with share of the error, share of the energy of first, relative error.

        The largest error is the first.
        """
        errors, squares = np.zeros((2, 0)) if self.channels is None else self.channels.high
        error, energy = float(errors.sum()), float(squares.sum())
        order = np.argsort(-errors, kind="stable")[:MOST_ROWS]
        for channel in order[errors[order] > 0].tolist():
            own, first = float(errors[channel]), float(squares[channel])
            relative = math.sqrt(own / first) if first else math.nan
            yield channel, own / error, first / energy if energy else 0.0, relative


def _cosine(sums: NDArray[np.float64]) -> float:
    return Difference(*sums.tolist()).cosine
