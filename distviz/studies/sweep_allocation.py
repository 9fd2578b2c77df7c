"""The study of `distviz sweep --allocate`: costs of every place, the greedy path, the whole.

The text that is measured is the text that calibrates: thresholds come from its values, and the
costs are costs on it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from distviz.data import Corpus, make_batches
from distviz.errors import RequestError
from distviz.measure import CheckpointFolder, describe, note_truncated
from distviz.models import LoadedModel
from distviz.models.architectures import find_points
from distviz.progress import Progress
from distviz.results import SCHEMA_VERSION, Allocation
from distviz.settings import RunSettings
from distviz.sites import HookPoint, join_layers, parse_sites
from distviz.studies.allocation import NO_FORMAT, Asked, Place, find_path, saved_by
from distviz.studies.allocation_curve import BETWEEN, BLOCKS, ROUNDS, Curve, evenly
from distviz.studies.allocation_passes import AllocationPasses
from distviz.studies.sweep import layers_with


@dataclass(frozen=True)
class AllocationRequest:
    """What to allocate where.

    Attributes
    ----------
    asked
        Zeros or formats.
    budget_kl
        The largest KL divergence of the whole, nats; None for no limit.
    layers
        As ``--arm-layers``; None for all that have the site.
    """

    asked: Asked
    budget_kl: float | None
    layers: str | None

    def as_dict(self) -> dict[str, Any]:
        """Return what was asked for, as ``allocation.json`` records it."""
        return {"allocate": self.asked.text, "arm_layers": self.layers}

    @property
    def stated(self) -> dict[str, Any]:
        """The entries of the manifest."""
        target = self.asked.target
        return {
            "asked": self.as_dict(),
            "unit": "zeros" if target is not None else "bits",
            "target": None if target is None else float(target),
            "budget_kl": self.budget_kl,
        }

    def places(self, opened: LoadedModel, at: str) -> dict[tuple[int, str], list[HookPoint]]:
        """Return the points of every place.

        Raises
        ------
        RequestError
            If there are fewer than two places, a site is missing, or the model has no output.
        """
        if not opened.has_head:
            raise RequestError(
                "the model predicts no next token, so no level has a cost",
                "take a causal language model",
            )
        found: dict[tuple[int, str], list[HookPoint]] = {}
        for site in parse_sites(at, "--at"):
            for layer in layers_with(opened, site, self.layers):
                found[layer, site] = find_points(opened.mlps, opened.model, [site], [layer])
        if len(found) < 2:
            where = "".join(f": {site} in layer {layer}" for layer, site in found)
            raise RequestError(
                f"--allocate needs at least two places to choose between{where}",
                "give more layers to --arm-layers or more sites to --at",
            )
        return dict(sorted(found.items()))

    def passes(self, places: Iterable[tuple[int, str]], n_layers: int) -> float:
        """Return the passes through the model, at most; one from a later layer is a part of one."""
        known = list(places)
        levels = len(self.asked.shares or [one for one in self.asked.formats if one != NO_FORMAT])
        alone = levels * sum(1 - layer / n_layers for layer, _ in known)
        whole = 1 - min((layer for layer, _ in known), default=0) / n_layers
        found = 2 + alone + 1 + 2 * whole * (BLOCKS + bool(self.asked.formats))
        found += (1 + 2 * whole * BETWEEN) * (self.budget_kl is not None)
        return found + ROUNDS * (1 + 2 * whole) * (self.asked.target is not None)


def allocate(
    opened: LoadedModel,
    corpus: Corpus,
    settings: RunSettings,
    request: AllocationRequest,
    progress: Progress,
    states: CheckpointFolder | None = None,
) -> Allocation:
    """Measure what each place costs, allocate, and measure the whole.

    Parameters
    ----------
    opened, corpus, settings
        The model, its input, and the settings of the measurement; ``settings.at`` names the sites.
    request
        What to allocate.
    progress, states
        As of `distviz.studies.sweep_model`.

    Raises
    ------
    RequestError
        If the places are too few, have too many zeros already, or the model has no output.
    """
    started = time.perf_counter()
    note_truncated(corpus, settings, progress)
    points = request.places(opened, settings.at)
    batches = make_batches(corpus, settings.batch_size, skip_special=settings.skip_special)
    study = AllocationPasses(
        opened, corpus, settings, request.asked, points, batches, states, progress
    )
    places, costs = study.measure_costs(study.find_places())
    path = find_path(places, _wanted(places, request.asked))
    curve = Curve(study, path)
    blocks = evenly(0, len(path.steps), BLOCKS)
    curve.measure("curve", blocks if request.asked.formats else blocks[1:])  # no zeros, no cost
    if request.budget_kl is not None:
        curve.measure("between", curve.beyond(request.budget_kl))
    chosen = curve.settled(request.budget_kl)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "kind": "allocation",
        "settings": settings.as_dict(),
        **request.stated,
        "layers": join_layers(study.layers),
        "at": settings.at,
        "places": len(places),
        **describe(opened, corpus, batches, [settings]),
        "seconds": {"measure": round(time.perf_counter() - started, 3)},
        "warnings": list(corpus.notes),
    }
    steps = {(step.place, step.level.value): number for number, step in enumerate(path.steps, 1)}
    taken = zip(costs.pop("place"), costs.pop("value"), strict=True)
    costs["step"] = [steps.get(key, math.nan) for key in taken]
    table, even = (
        study.table(places, *two) for two in zip(chosen.levels, chosen.found, strict=True)
    )
    return Allocation(manifest, table, even, costs, curve.table(chosen))


def _wanted(places: Sequence[Place], asked: Asked) -> float:
    """Return the number of zeros that the target asks for; infinite for formats."""
    if asked.target is None:
        return math.inf
    wanted: int = math.ceil(asked.target * sum(place.values for place in places))
    known = saved_by(tuple(place.levels[0] for place in places))
    if known >= wanted:
        share = known / sum(place.values for place in places)
        raise RequestError(
            f"--allocate {asked.text}: {100 * share:.3g} % of the values are zero already",
            "ask for more, or at another site",
        )
    return wanted
