"""Which place gets how many zeros, or which number format: greedy by cost per zero or bit.

As TEAL (arXiv 2408.14690) does with the error of a block, here with the KL divergence of the output
that each level costs in each place alone. Costs of places are added up to find the order; what the
whole costs must be measured.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from distviz.errors import RequestError
from distviz.option import check_choice
from distviz.output import counted
from distviz.parsing import amount, word_list
from distviz.settings import NUMBER_FORMATS
from distviz.stats import GRANULAR_FORMATS, Sketch, exact_threshold

NO_FORMAT = "none"
"""A place that stays as it is."""
FREE = (0.0, NO_FORMAT)
"""Values of levels that change nothing."""
_STEPS = 10
"""Levels of zeros are multiples of one over this."""


@dataclass(frozen=True)
class Asked:
    """What ``--allocate`` asks for.

    Attributes
    ----------
    text
        As given.
    target
        The share of zeros; None where formats are allocated.
    formats
        Number formats; empty where zeros are allocated.
    """

    text: str
    target: Fraction | None = None
    formats: tuple[str, ...] = ()

    @property
    def column(self) -> str:
        """The column of the file: ``threshold`` or ``format``."""
        return "format" if self.formats else "threshold"

    @property
    def shares(self) -> list[Fraction]:
        """Levels of zeros whose cost is measured in each place."""
        if self.target is None:
            return []
        shares = {Fraction(step, _STEPS) for step in range(1, _STEPS)}
        if self.target >= max(shares):
            shares |= {self.target, (1 + self.target) / 2}
        return sorted(shares)


def parse_allocation(text: str) -> Asked:
    """Parse ``0.5``, ``50%`` or ``nvfp4,fp8-token``.

    Raises
    ------
    RequestError
        If it is neither a share between 0 and 1 nor a list of formats of different bits.
    """
    if re.match(r"\s*[-+.\d]", text):
        share = amount(text, "--allocate", "share")
        if not 0 < share < 1:
            raise RequestError(
                f"--allocate {text}: the mean share of zeros must lie between 0 and 1",
                "such as 0.5; or number formats, such as nvfp4,fp8-token",
            )
        return Asked(text, target=share)
    names = word_list(text, "--allocate")
    for name in names:
        check_choice("--allocate: the format", name, (*NUMBER_FORMATS, NO_FORMAT))
    if len(names) < 2:
        raise RequestError(
            f"--allocate {text}: one format leaves nothing to allocate",
            f"such as {NO_FORMAT},{text}: every place gets it or stays as it is",
        )
    if len({_bits(name) for name in names}) == 1:
        bits = counted(f"{_bits(names[0]):g}", "bit")
        raise RequestError(
            f"--allocate {text}: all of these have {bits}, none saves any",
            "what each costs in each layer: --by-layer --redistribution quantize:FORMAT",
        )
    return Asked(text, formats=tuple(names))


def _bits(name: str) -> float:
    return math.inf if name == NO_FORMAT else GRANULAR_FORMATS[name].bits


@dataclass(frozen=True)
class Level:
    """What a place can get.

    Attributes
    ----------
    value
        The largest magnitude that becomes zero, or a format.
    amount
        Share of zeros, or bits of a value.
    saved
        Zeros, or bits fewer than with the widest format, of all values of the place.
    cost
        KL divergence with it in this place alone, nats.
    """

    value: float | str
    amount: float
    saved: float
    cost: float = 0.0


@dataclass(frozen=True)
class Zeros:
    """How many values of a place become zero, by threshold.

    Attributes
    ----------
    magnitudes, running
        Ascending, float64; and int64, how many values are at most as large.
    is_rounded
        Whether the values were float32 and counted as their nearest bfloat16.
    """

    magnitudes: NDArray[np.float64]
    running: NDArray[np.int64]
    is_rounded: bool

    @classmethod
    def of(cls, sketches: Sequence[Sketch]) -> Zeros:
        """Return those of the values in some sketches."""
        whole = Sketch()
        for one in sketches:
            whole += one
        magnitudes, counts = whole.magnitude_pairs()
        return cls(magnitudes, np.cumsum(counts), whole.is_rounded)

    @property
    def values(self) -> int:
        """How many values there are."""
        return int(self.running[-1]) if self.running.size else 0

    @property
    def least(self) -> Level:
        """The level that changes nothing: values that are zero already."""
        is_zero = self.running.size and self.magnitudes[0] == 0
        return self._level(0.0, int(self.running[0]) if is_zero else 0)

    def reaching(self, zeros: float | Fraction) -> Level:
        """Return the smallest threshold with at least so many zeros."""
        needed = min(math.ceil(zeros), self.values)
        if needed <= self.least.saved:
            return self.least
        return self._at(int(np.searchsorted(self.running, needed, side="left")))

    def within(self, zeros: float) -> Level:
        """Return the largest threshold with at most so many zeros."""
        index = int(np.searchsorted(self.running, math.floor(zeros), side="right")) - 1
        return self.least if index < 0 or zeros <= self.least.saved else self._at(index)

    def level(self, threshold: float | str) -> Level:
        """Return the zeros of a threshold of another `Zeros`."""
        index = int(np.searchsorted(self.magnitudes, float(threshold), side="right"))
        return self._level(float(threshold), int(self.running[index - 1]) if index else 0)

    def _at(self, index: int) -> Level:
        threshold = float(self.magnitudes[index])
        limit = exact_threshold(threshold) if self.is_rounded else threshold
        return self._level(limit, int(self.running[index]))

    def _level(self, threshold: float, zeros: int) -> Level:
        return Level(threshold, zeros / max(self.values, 1), zeros)


@dataclass(frozen=True)
class Place:
    """A site of a layer, and what it can get.

    Attributes
    ----------
    layer, site
        Where.
    values
        How many values of the text pass there.
    levels
        Ascending by what they save.
    zeros
        Where zeros are allocated.
    """

    layer: int
    site: str
    values: int
    levels: tuple[Level, ...] = ()
    zeros: Zeros | None = None

    def with_costs(self, costs: Sequence[float]) -> Place:
        """Return the place with the cost of each level."""
        pairs = zip(self.levels, costs, strict=True)
        return replace(self, levels=tuple(replace(level, cost=cost) for level, cost in pairs))


def place_of_zeros(layer: int, site: str, sketches: Sequence[Sketch], asked: Asked) -> Place:
    """Return a place whose levels are those of `Asked.shares`, without equal ones."""
    zeros = Zeros.of(sketches)
    found = [zeros.least, *(zeros.reaching(share * zeros.values) for share in asked.shares)]
    levels = {level.saved: level for level in reversed(found)}
    return Place(layer, site, zeros.values, tuple(levels[n] for n in sorted(levels)), zeros)


def place_of_formats(layer: int, site: str, values: int, asked: Asked, plain_bits: int) -> Place:
    """Return a place whose levels are formats; ``plain_bits`` are those of a value as it is."""
    bits = {name: plain_bits if name == NO_FORMAT else _bits(name) for name in asked.formats}
    most = max(bits.values())
    levels = [Level(name, own, values * (most - own)) for name, own in bits.items()]
    return Place(layer, site, values, tuple(sorted(levels, key=lambda level: level.saved)))


Assignment = tuple[Level, ...]
"""A level for every place."""
Pair = tuple[Assignment, Assignment]
"""What is allocated, and what is uniform with the same mean."""


@dataclass(frozen=True)
class Step:
    """One place gets another level."""

    place: int
    level: Level


@dataclass(frozen=True)
class Path:
    """From the level that saves least in every place, step by step."""

    places: Sequence[Place]
    start: Assignment
    steps: Sequence[Step]

    def after(self, steps: int) -> Assignment:
        """Return the levels after so many steps."""
        found = list(self.start)
        for step in self.steps[:steps]:
            found[step.place] = step.level
        return tuple(found)


def find_path(places: Sequence[Place], wanted: float = math.inf) -> Path:
    """Return the greedy path to the levels that save the most, or ``wanted`` in all.

    Each step raises the place and to the level with the least additional cost per zero or bit, any
    of its higher levels (a cheap one may lie behind one that costs too much). The first place wins
    a tie. The last step takes what is wanted and no more, where zeros are allocated.
    """
    held = [min(place.levels, key=lambda level: (level.saved, level.cost)) for place in places]
    start, steps = tuple(held), []
    saved = sum(level.saved for level in held)
    while saved < wanted and (step := _next(places, held)) is not None:
        missing, zeros = wanted - saved, places[step.place].zeros
        before = held[step.place].saved
        if zeros is not None and step.level.saved - before > missing:
            step = replace(step, level=zeros.reaching(before + missing))
        saved += step.level.saved - before
        held[step.place] = step.level
        steps.append(step)
    return Path(places, start, steps)


def _next(places: Sequence[Place], held: Sequence[Level]) -> Step | None:
    """Return the cheapest step, None where every place saves the most."""
    found, least = None, math.inf
    for number, (place, own) in enumerate(zip(places, held, strict=True)):
        for level in place.levels:
            if level.saved > own.saved:
                price = (level.cost - own.cost) / (level.saved - own.saved)
                if price < least:
                    found, least = Step(number, level), price
    return found


def saved_by(levels: Assignment) -> float:
    """Return what an assignment saves in all."""
    return math.fsum(level.saved for level in levels)


def mean_of(places: Sequence[Place], levels: Assignment) -> float:
    """Return the share of zeros, or the bits of a value, over the values of all places."""
    pairs = zip(places, levels, strict=True)
    whole = math.fsum(place.values * level.amount for place, level in pairs)
    return whole / sum(place.values for place in places)


def uniform(places: Sequence[Place], levels: Assignment) -> Assignment:
    """Return what saves as much without regard to cost.

    Of zeros the same share in every place, at most as many in all; of formats each as often at each
    site, evenly spread over its layers.
    """
    if places[0].zeros is not None:
        return _same_share(places, saved_by(levels))
    found: dict[int, Level] = {}
    for site in dict.fromkeys(place.site for place in places):
        here = [number for number, place in enumerate(places) if place.site == site]
        spread = _spread([str(levels[number].value) for number in here])
        for number, name in zip(here, spread, strict=True):
            found[number] = next(one for one in places[number].levels if one.value == name)
    return tuple(found[number] for number in range(len(places)))


def _same_share(places: Sequence[Place], zeros: float) -> Assignment:
    """Return the largest common share with at most so many zeros, found by bisection."""

    def at(share: float) -> Assignment:
        return tuple(p.zeros.within(share * p.values) for p in places if p.zeros is not None)

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if saved_by(at(middle)) <= zeros else (low, middle)
    return at(low)


def _spread(names: Sequence[str]) -> list[str]:
    """Return the same names evenly mixed: the one that is most behind its share comes next."""
    counts = {name: names.count(name) for name in sorted(set(names))}
    left, found = dict(counts), list[str]()
    for number in range(1, len(names) + 1):
        behind = {
            name: number * counts[name] / len(names) - (counts[name] - rest)
            for name, rest in left.items()
            if rest
        }
        found.append(max(behind, key=lambda name: behind[name]))
        left[found[-1]] -= 1
    return found
