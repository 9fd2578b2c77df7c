"""How far the values of one tensor are from those of another, element by element.

The sums of one place: of each document and of each channel, the largest difference, and the rows
with the largest share of the error. Memory does not grow with the number of rows.
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

if TYPE_CHECKING:
    from distviz.stats.kernels import PairSums

MOST_ROWS = 50
"""How many rows with the largest error are kept."""


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
    errors, squares
        float64 (channels,): sums of d^2 and of first^2.
    tokens
        Number of rows.
    cosines, n_cosines
        Sum of the cosines of single rows, and how many have one.
    most, most_token, most_channel
        The largest abs(d) and where it is, the first of equals.
    left_out
        Pairs that were left out, because a value is not finite.
    """

    documents: dict[int, Difference] = field(default_factory=dict)
    errors: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    squares: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    tokens: int = 0
    cosines: float = 0.0
    n_cosines: int = 0
    most: float = 0.0
    most_token: Token | None = None
    most_channel: int = -1
    left_out: int = 0
    _worst: list[tuple[float, tuple[int, ...], float, float]] = field(default_factory=list)

    def add(self, found: PairSums, tokens: NDArray[np.int64]) -> None:
        """Add rows; ``tokens`` is int64 (rows, 4), a `Token` each."""
        width = found.errors.size
        if not self.errors.size:
            self.errors, self.squares = np.zeros(width), np.zeros(width)
        self.errors += found.errors
        self.squares += found.squares
        self.tokens += len(tokens)
        self.left_out += int(len(tokens) * width - found.counts.sum())
        owners, inverse = np.unique(tokens[:, 0], return_inverse=True)
        for number, document in enumerate(owners.tolist()):
            rows = inverse == number
            sums: Any = [*map(math.fsum, found.sums[rows].T), int(found.counts[rows].sum())]
            here = Difference(*sums)
            self.documents[document] = self.documents.get(document, Difference()) + here
        self._add_cosines(found.sums)
        self._add_worst(found.sums, tokens)
        if found.row >= 0:
            self.most, self.most_channel = found.most, found.channel
            self.most_token = Token(*tokens[found.row].tolist())

    def _add_cosines(self, sums: NDArray[np.float64]) -> None:
        _, first, second, product, _ = sums.T
        size = np.sqrt(first) * np.sqrt(second)
        size = np.where((first == second) & (second == product), first, size)
        known = size > 0
        self.cosines += math.fsum(np.clip(product[known] / size[known], -1, 1))
        self.n_cosines += int(known.sum())

    def _add_worst(self, sums: NDArray[np.float64], tokens: NDArray[np.int64]) -> None:
        error = sums[:, 0]
        least = self._worst[0][0] if len(self._worst) == MOST_ROWS else 0.0
        for row in np.flatnonzero((error > 0) & (error >= least)).tolist():
            # Of equal errors the token that stands first is kept.
            place = tuple(-number for number in tokens[row].tolist())
            one = (float(error[row]), place, float(sums[row, 1]), float(_cosine(sums[row])))
            if len(self._worst) < MOST_ROWS:
                heapq.heappush(self._worst, one)
            else:
                heapq.heappushpop(self._worst, one)

    @property
    def total(self) -> Difference:
        """The sums of all documents."""
        return functools.reduce(operator.add, self.documents.values(), Difference())

    @property
    def mean_cosine(self) -> float:
        """The mean of the cosines of single rows; NaN without any."""
        return self.cosines / self.n_cosines if self.n_cosines else math.nan

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
        error, energy = float(self.errors.sum()), float(self.squares.sum())
        order = np.argsort(-self.errors, kind="stable")[:MOST_ROWS]
        for channel in order[self.errors[order] > 0].tolist():
            own, first = float(self.errors[channel]), float(self.squares[channel])
            relative = math.sqrt(own / first) if first else math.nan
            yield channel, own / error, first / energy if energy else 0.0, relative


def _cosine(sums: NDArray[np.float64]) -> float:
    return Difference(*sums.tolist()).cosine
