"""What the whole costs along the path of an allocation, and uniform with the same mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pandas as pd

from distviz.output import counted
from distviz.studies.allocation import (
    FREE,
    Assignment,
    Pair,
    Path,
    Zeros,
    mean_of,
    uniform,
)
from distviz.studies.allocation_passes import AllocationPasses
from distviz.studies.sweep_intervals import costs_of, saved_of
from distviz.studies.sweep_passes import Trial

BLOCKS, BETWEEN, ROUNDS = 10, 8, 4
"""Points of the path that are measured; then, where a budget ends it, points between two of them;
and how often thresholds are adapted to the values that arrive in the changed model."""
_NEAR = 1e-3
"""Difference of a mean share of zeros from the promised one at which that ends."""


@dataclass(frozen=True)
class CurvePoint:
    """A measured point of the path: its trials, allocated and uniform."""

    steps: int
    levels: Pair
    trials: tuple[Trial, Trial]
    found: Pair

    @property
    def kl(self) -> float:
        """Of the allocation, nats."""
        return float(costs_of(self.trials[:1], 1)["kl"].iloc[0])


@dataclass
class Curve:
    """The measured points of a path."""

    study: AllocationPasses
    path: Path
    points: dict[int, CurvePoint] = field(default_factory=dict)

    def pair(self, steps: int) -> Pair:
        """Return what is allocated after so many steps, and what is uniform."""
        levels = self.path.after(steps)
        return levels, uniform(self.path.places, levels)

    def measure(self, name: str, steps: Sequence[int]) -> None:
        """Measure the whole after some numbers of steps."""
        new = [number for number in steps if number not in self.points]
        if not new:
            return
        pairs = [self.pair(number) for number in new]
        grid = [one for pair in pairs for one in self.study.whole(self.path.places, pair)]
        total = counted(len(self.path.steps), "step")
        stage = f"measuring the whole after {new[0]} to {new[-1]} of {total}, and uniform"
        trials = self.study.passes(name, stage, grid).trials
        for number, pair, first in zip(new, pairs, range(0, len(trials), 2), strict=True):
            own = (trials[first], trials[first + 1])
            self.points[number] = CurvePoint(number, pair, own, pair)

    def beyond(self, budget: float) -> list[int]:
        """Return the steps between the last point within the budget and the next one."""
        fitting = [point.steps for point in self.points.values() if point.kl <= budget]
        low = max(fitting, default=0)
        high = min((steps for steps in self.points if steps > low), default=low)
        inside = evenly(low, high, BETWEEN + 1)[1:-1]
        return inside if high > low + 1 else []

    def settled(self, budget: float | None) -> CurvePoint:
        """Return the last point within the budget; the cheapest where none is.

        Its thresholds are adapted to the values that arrive in the changed model.
        """
        order = [self.points[steps] for steps in sorted(self.points)]
        fitting = [one for one in order if budget is None or one.kl <= budget] or order[:1]
        while True:
            point = self._adapted(fitting.pop())
            if budget is None or point.kl <= budget or not fitting:
                self.points[point.steps] = point
                return point

    def _adapted(self, point: CurvePoint) -> CurvePoint:
        """Return a point whose thresholds give the promised zeros in the changed model.

        Where a place is changed, other values arrive at those behind it. Each round finds the
        thresholds again from the values of the round before, until the means agree.
        """
        if self.study.asked.formats:
            return point
        places, levels = self.path.places, point.levels
        for number in range(ROUNDS):
            stage = f"measuring zeros in the whole, round {number + 1} of at most {ROUNDS}"
            name = f"whole-{point.steps}-{number}"
            grid = self.study.whole(places, levels)
            trials = self.study.passes(name, stage, grid, "arrivals").trials
            arrived = [self.study.arrivals(trial) for trial in trials]
            found = [
                tuple(zeros.level(one.value) for zeros, one in zip(own, side, strict=True))
                for own, side in zip(arrived, levels, strict=True)
            ]
            point = replace(point, trials=(trials[0], trials[1]), found=(found[0], found[1]))
            if all(map(self._is_near, point.found, point.levels)):
                break
            adapted = [_adapt(*two) for two in zip(arrived, point.levels, strict=True)]
            if _values(adapted) == _values(levels):
                break  # so many values are equal that no threshold comes nearer
            levels = (adapted[0], adapted[1])
        return point

    def _is_near(self, found: Assignment, promised: Assignment) -> bool:
        means = [mean_of(self.path.places, levels) for levels in (found, promised)]
        return bool(abs(means[0] - means[1]) <= _NEAR)

    def table(self, chosen: CurvePoint) -> pd.DataFrame:
        """Return ``allocation_curve.csv``."""
        points = [self.points[steps] for steps in sorted(self.points)]
        sides = []
        for side, kind in enumerate(("allocated", "uniform")):
            costs = costs_of([point.trials[side] for point in points], len(points))
            before = [one.trials[side].effect.result(is_paired=True) or {} for one in points]
            own = {
                "kind": kind,
                "steps": [point.steps for point in points],
                "mean": [mean_of(self.path.places, point.levels[side]) for point in points],
                "is_chosen": [point is chosen for point in points],
                "loss_before": [one.get("loss_before", math.nan) for one in before],
            }
            sides.append(pd.concat([pd.DataFrame(own), costs], axis=1))
        saved = saved_of([p.trials[0] for p in points], [p.trials[1] for p in points])
        sides[0] = pd.concat([sides[0], saved], axis=1)
        return pd.concat(sides, ignore_index=True)


def _values(sides: Sequence[Assignment]) -> list[list[float | str]]:
    return [[level.value for level in side] for side in sides]


def _adapt(arrived: Sequence[Zeros], promised: Assignment) -> Assignment:
    """Return the thresholds that come nearest to the promised zeros among the values that arrive.

    What a place has too many, because many values are equal, the next one has less.
    """
    found, carry = [], 0.0
    for zeros, level in zip(arrived, promised, strict=True):
        if level.value in FREE:
            found.append(level)
            continue
        wanted = level.saved + carry
        around = (zeros.within(wanted), zeros.reaching(wanted))
        found.append(min(around, key=lambda one: abs(one.saved - wanted)))
        carry = wanted - found[-1].saved
    return tuple(found)


def evenly(first: int, last: int, most: int) -> list[int]:
    """Return at most about so many whole numbers, evenly spread, both ends included."""
    size = max(min(most, last - first), 1)
    return sorted({first + round(n * (last - first) / size) for n in range(size + 1)})
