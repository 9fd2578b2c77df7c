"""Record where the largest values are: document, window, position, token and channel.

Guarantee: the places are exact and do not depend on batches, processes or the order of adding.
Cost: the extremes of the channels, which are known, decide whether a call holds larger values than
those kept; only the channels that do are looked at. Memory: 1 KiB per layer, site and phase.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distviz.output import visible
from distviz.results import is_massive
from distviz.sites import SiteKey, key_order
from distviz.stats import Sketch, kernels, statistics

if TYPE_CHECKING:
    import torch

    from distviz.hooks.tokens import Tokens
    from distviz.stats.kernels import ChannelSums

LARGEST = 20
"""Values kept per layer, site and phase."""


@dataclass(frozen=True)
class Largest:
    """The largest finite magnitudes of one place, the earliest of equal ones; two of them add.

    Attributes
    ----------
    values
        float64 (n,), with sign, n <= `LARGEST`, by descending magnitude.
    places
        int64 (5, n): document, 2^32 window + position, channel, expert, token id; the last two
        are -1 where there is none.
    """

    values: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    places: NDArray[np.int64] = field(default_factory=lambda: np.empty((5, 0), np.int64))

    def __add__(self, other: Largest) -> Largest:
        values = np.concatenate([self.values, other.values])
        places = np.concatenate([self.places, other.places], axis=1)
        document, index, channel, expert, _ = places
        order = np.lexsort((channel, expert, index, document, -np.abs(values)))[:LARGEST]
        return Largest(values[order], places[:, order])

    def could_change(self, largest: float, earliest: tuple[int, ...]) -> bool:
        """Whether a value of this magnitude, at this (document, index) or later, would be kept."""
        if len(self.values) < LARGEST:
            return largest >= 0
        least = abs(float(self.values[-1]))
        last = (int(self.places[0, -1]), int(self.places[1, -1]))
        return largest > least or (largest == least and earliest <= last)


@dataclass(frozen=True)
class CountedRows:
    """The counted rows of one call, by document, index and expert.

    Attributes
    ----------
    rows
        int64 (n,): their indices in the tensor.
    places
        int64 (4, n): document, index, expert and token id of each.
    """

    rows: NDArray[np.int64]
    places: NDArray[np.int64]

    @classmethod
    def of(cls, tokens: Tokens) -> CountedRows:
        """Return the rows of counted tokens."""
        rows = owners = np.flatnonzero(tokens.rows_that_count())
        experts = np.full(rows.size, -1)
        if tokens.routed is not None:
            owners, experts = tokens.routed.tokens[rows], tokens.routed.experts[rows]
        ids = np.full(rows.size, -1) if tokens.ids is None else tokens.ids.ravel()[owners]
        documents = tokens.documents[owners // tokens.valid.shape[1]]
        places = np.stack([documents, tokens.index.ravel()[owners], experts, ids])
        order = np.lexsort(places[2::-1])
        return cls(rows[order], places[:, order])

    def largest(self, values: torch.Tensor, channels: NDArray[np.int64], highest: float) -> Largest:
        """Return the largest values of some channels, none of which exceeds ``highest``."""
        return self.at(*kernels.find_largest(values, self.rows, channels, highest, LARGEST))

    def at(
        self, found: NDArray[np.float64], row: NDArray[np.int64], channel: NDArray[np.int64]
    ) -> Largest:
        """Return values, of which positions in ``rows`` and channels are known, as the largest."""
        document, index, expert, token = self.places[:, row]
        return Largest(found, np.stack([document, index, channel, expert, token]))


@dataclass
class Extremes:
    """The largest values of every layer, site and phase; two of them add."""

    found: dict[SiteKey, Largest] = field(default_factory=dict)

    def see(
        self,
        key: SiteKey,
        values: torch.Tensor,
        sums: ChannelSums,
        tokens: Tokens,
    ) -> None:
        """Look for larger values in (rows, channels), whose counted rows have these ``sums``."""
        largest = np.maximum(-sums.low, sums.high)
        before = self.found.get(key, Largest())
        highest = float(largest.max(initial=-np.inf))
        if not before.could_change(highest, (-1, -1)):
            return
        rows = tokens.counted_rows
        if not before.could_change(highest, tuple(rows.places[:2, 0].tolist())):
            return
        least = abs(float(before.values[-1])) if len(before.values) == LARGEST else 0.0
        if largest.size >= LARGEST:  # so many values are at least as large
            least = max(least, float(np.partition(largest, -LARGEST)[-LARGEST]))
        channels = np.flatnonzero(largest >= least)
        self.add(key, rows.largest(values, channels, highest))

    def add(self, key: SiteKey, found: Largest) -> None:
        """Add the largest values of other rows."""
        self.found[key] = self.found.get(key, Largest()) + found

    def __add__(self, other: Extremes) -> Extremes:
        keys = {**self.found, **other.found}
        pairs = {k: (self.found.get(k, Largest()), other.found.get(k, Largest())) for k in keys}
        return Extremes({key: mine + theirs for key, (mine, theirs) in pairs.items()})

    def state(self) -> list[Any]:
        """Return everything as a tree for `distviz.stats.encode`."""
        return [[list(key), one.values, one.places] for key, one in self.found.items()]

    @classmethod
    def from_state(cls, state: list[Any]) -> Extremes:
        """Return the extremes of a `state`."""
        return cls({SiteKey(*key): Largest(values, places) for key, values, places in state})

    def frame(self, sketches: Mapping[SiteKey, Sketch], tokenizer: Any = None) -> pd.DataFrame:
        """Return ``extremes.csv``.

        Parameters
        ----------
        sketches
            The distributions, which have the median magnitudes.
        tokenizer
            Decodes the tokens; None leaves their texts empty.
        """
        frames = [
            _rows(key, self.found[key], statistics.median_magnitude(sketches[key]))
            for key in sorted(self.found, key=key_order)
        ]
        if not frames:
            return pd.DataFrame()
        table = pd.concat(frames, ignore_index=True)
        table["massive"] = is_massive(table)
        known = table["token_id"].unique().tolist() if tokenizer is not None else []
        texts = {token: visible(tokenizer.decode([token])) for token in known if token >= 0}
        table["token"] = [texts.get(token, "") for token in table["token_id"]]
        for name in ("token_id", "expert"):
            has_one = table[name] >= 0
            if not has_one.any():
                table = table.drop(columns=name)
            elif not has_one.all():
                table[name] = table[name].astype("Int64").where(has_one)
        return table


def _rows(key: SiteKey, largest: Largest, median: float) -> pd.DataFrame:
    document, index, channel, expert, token = largest.places
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.abs(largest.values) / median
    return pd.DataFrame(
        {"layer": key.layer, "site": key.site, "phase": key.phase}
        | {"rank": np.arange(1, largest.values.size + 1), "value": largest.values}
        | {"document": document, "window": index >> 32, "position": index & 0xFFFFFFFF}
        | {"token": "", "channel": channel, "ratio": ratio, "massive": False}
        | {"token_id": token, "expert": expert}
        | {"module": key.module, "stack": key.stack}
    )
