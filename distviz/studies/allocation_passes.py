"""The passes of an allocation: values of every place, each level alone, and the whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch

from distviz.arm import PlaceTable
from distviz.data import Batch, Corpus
from distviz.measure import CheckpointFolder
from distviz.models import LoadedModel
from distviz.output import counted
from distviz.progress import Progress
from distviz.settings import RunSettings
from distviz.sites import HookPoint, join_layers, join_sites
from distviz.stats import Sketch
from distviz.studies.allocation import (
    FREE,
    Asked,
    Assignment,
    Level,
    Pair,
    Place,
    Zeros,
    place_of_formats,
    place_of_zeros,
)
from distviz.studies.sweep import make_passes
from distviz.studies.sweep_grid import Setting
from distviz.studies.sweep_intervals import costs_of
from distviz.studies.sweep_passes import Counts, SweepPasses, Trial


@dataclass
class AllocationPasses:
    """What all passes of an allocation share."""

    opened: LoadedModel
    corpus: Corpus
    settings: RunSettings
    asked: Asked
    points: dict[tuple[int, str], list[HookPoint]]
    batches: list[Batch]
    states: CheckpointFolder | None
    progress: Progress

    @property
    def layers(self) -> list[int]:
        """The layers of all places."""
        return sorted({layer for layer, _ in self.points})

    def passes(
        self,
        name: str,
        stage: str,
        grid: Sequence[Setting],
        counts: Counts = "nothing",
        watched: Sequence[HookPoint] = (),
    ) -> SweepPasses:
        """Make some passes, with checkpoints of their own under ``name``."""
        work = SweepPasses.prepare(self.opened, grid, [self.settings.seed], counts, watched)
        states = None if self.states is None else self.states.part(name)
        make_passes(work, self.corpus, self.settings, self.batches, states, self.progress, stage)
        return work

    def find_places(self) -> list[Place]:
        """Count the values of every place in the unchanged model, for its levels."""
        watched = list(dict.fromkeys(point for here in self.points.values() for point in here))
        work = self.passes("values", "counting the values of every place", [], watched=watched)
        plain_bits = 8 * getattr(torch, self.opened.details["dtype"]).itemsize
        places = []
        for (layer, site), points in self.points.items():
            sketches = [work.before.get(point, Sketch()) for point in points]
            if self.asked.target is not None:
                places.append(place_of_zeros(layer, site, sketches, self.asked))
            else:
                values = sum(one.count for one in sketches)
                places.append(place_of_formats(layer, site, values, self.asked, plain_bits))
        return places

    def measure_costs(self, places: Sequence[Place]) -> tuple[list[Place], pd.DataFrame]:
        """Measure every level in its place alone; return the places with it, and its table."""
        levels = [
            (number, level)
            for number, place in enumerate(places)
            for level in place.levels
            if level.value not in FREE
        ]
        grid = [self._alone(places[number], level.value) for number, level in levels]
        stage = f"measuring {counted(len(grid), 'level')} of {counted(len(places), 'place')}"
        table = costs_of(self.passes("costs", stage, grid).trials, len(grid))
        what = [
            {"place": number, "value": level.value, **_where(places[number]), **self._named(level)}
            for number, level in levels
        ]
        known = dict(zip(((n, level.value) for n, level in levels), table["kl"], strict=True))
        found = [
            place.with_costs([_cost(known.get((number, one.value), 0.0)) for one in place.levels])
            for number, place in enumerate(places)
        ]
        return found, pd.concat([pd.DataFrame(what), table], axis=1)

    def _alone(self, place: Place, value: float | str) -> Setting:
        name = f"quantize:{value}" if isinstance(value, str) else f"threshold:{value!r}"
        own = replace(self.settings, redistribution=name, at=place.site, sites=place.site)
        return Setting((place.layer,), str(place.layer), own)

    def _named(self, level: Level) -> dict[str, Any]:
        """Return the columns that say what a place gets."""
        return {
            self.asked.column: level.value,
            "bits" if self.asked.formats else "zeros": level.amount,
        }

    def whole(self, places: Sequence[Place], pair: Pair) -> list[Setting]:
        """Return the settings that give every place its level, as allocated and uniform."""
        at = join_sites(place.site for place in places)
        own = replace(self.settings, redistribution="threshold:0", at=at, sites=at)
        found = []
        for name, levels in zip(("allocation.csv", "uniform.csv"), pair, strict=True):
            rows = tuple(
                (place.layer, (("site", place.site),), level.value)
                for place, level in zip(places, levels, strict=True)
            )
            table = PlaceTable(name, self.asked.column, rows)
            found.append(Setting(tuple(self.layers), join_layers(self.layers), own, table=table))
        return found

    def arrivals(self, trial: Trial) -> list[Zeros]:
        """Return what arrives at every place in the changed model."""
        return [
            Zeros.of([trial.after.get(point, Sketch()) for point in points])
            for points in self.points.values()
        ]

    def table(
        self, places: Sequence[Place], levels: Assignment, measured: Assignment
    ) -> pd.DataFrame:
        """Return ``allocation.csv``: what each place gets, and what it has in the whole."""
        rows = []
        for place, promised, found in zip(places, levels, measured, strict=True):
            own = self._named(found) | ({} if self.asked.formats else {"promised": promised.amount})
            known = {level.value: level.cost for level in place.levels}
            alone = known.get(promised.value, math.nan)
            rows.append(_where(place) | {"values": place.values} | own | {"kl_alone": alone})
        return pd.DataFrame(rows)


def _where(place: Place) -> dict[str, Any]:
    return {"layer": place.layer, "site": place.site}


def _cost(kl: float) -> float:
    return math.inf if math.isnan(kl) else kl
