"""``distviz sweep --allocate``: the checked request, how to measure and estimate it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distviz.arm import KL_BUDGET
from distviz.cli.checks import checked_budget, has_settings, refuse_layers, short_name
from distviz.cli.commands import Study, open_with_text, repeated_flags
from distviz.option import no_effect
from distviz.results import ALLOCATION, read_manifest
from distviz.settings import OPTIONS, RunSettings, build_settings
from distviz.sites import join_layers, join_sites

if TYPE_CHECKING:
    from distviz.cli.dry_run import Estimate
    from distviz.measure import CheckpointFolder
    from distviz.progress import Progress
    from distviz.results import Allocation
    from distviz.studies import AllocationRequest

_IDLE = (
    *("redistribution", "c", "p1", "fraction", "arm_mode", "p_min", "p_max", "percentile_of"),
    *("passes", "preset"),
)
"""Settings of a grid that say nothing about an allocation."""


@dataclass(frozen=True)
class _Request:
    """The settings, and what `allocation_study` takes."""

    settings: RunSettings
    allocation: AllocationRequest

    def is_answered(self, folder: Path) -> bool:
        """Whether a finished allocation was asked for the same."""
        known = read_manifest(folder, ALLOCATION, "allocation folder")
        own = {"asked": self.allocation.as_dict(), "budget_kl": self.allocation.budget_kl}
        return has_settings(self.settings, ALLOCATION, folder) and all(
            known.get(name) == value for name, value in own.items()
        )

    def measure(self, progress: Progress, states: CheckpointFolder | None) -> Allocation:
        """Measure costs, allocate, and measure the whole."""
        from distviz import studies

        settings, allocation = self.settings, self.allocation
        opened, corpus = open_with_text(
            settings, progress, lambda empty: allocation.places(empty, settings.at)
        )
        found = studies.allocate(opened, corpus, settings, allocation, progress, states)
        found.manifest["flags"] = repeated_flags(settings)
        return found

    def estimate(self) -> dict[str, Estimate | str]:
        """Estimate all passes, at most; one that begins at a later layer counts as a part."""
        from distviz.cli.estimate import Part, estimate
        from distviz.measure import corpus_of, documents_of, open_empty
        from distviz.studies import layer_count

        settings = self.settings
        documents = documents_of(settings)
        empty = open_empty(settings, is_for_measure=False)
        places = self.allocation.places(empty.opened, settings.at)
        corpus = corpus_of(documents, empty.opened, settings)
        passes = self.allocation.passes(places, layer_count(empty.opened))
        layers = join_layers(layer for layer, _ in places)
        at = join_sites(site for _, site in places)
        observed = replace(settings, at=at, sites=at, layers=layers, arm_layers="none")
        return {"": estimate(empty, observed, [Part(corpus, passes, is_paired=True)])}


def allocation_study(
    model: str | None,
    text: str,
    lists: dict[str, Any],
    seeds: int,
    budget_kl: float | None,
    by_layer: bool,
    flags: dict[str, Any],
    config: Path | None,
) -> Study:
    """Check ``distviz sweep --allocate``.

    Parameters
    ----------
    text
        What to allocate.
    lists, seeds, by_layer
        As of `distviz.cli.commands.sweep_study`; only sites and layers have a meaning here.
    budget_kl
        The largest KL divergence of the whole, nats. Where it is not given, zeros have no budget,
        as their mean is given; formats have that of a sweep.
    """
    from distviz.studies import AllocationRequest, parse_allocation

    asked = parse_allocation(text)
    at = None if lists["at"] is None else str(lists["at"]).replace("+", ",")
    settings = build_settings(flags, config, model, command="sweep")
    refuse_layers(settings, "sweep")
    for name in _IDLE:
        if lists.get(name) is not None or name in settings.explicit:
            raise no_effect(OPTIONS[name].label_of(settings), "with --allocate")
    for label, is_given in (("--by-layer", by_layer), ("--seeds", seeds != 1)):
        if is_given:
            raise no_effect(label, "with --allocate")
    if at is not None:
        settings = replace(settings, at=at, sites=at)
    if budget_kl is not None:
        checked_budget(budget_kl)
    elif asked.formats:
        budget_kl = KL_BUDGET
    layers = ";".join(lists["arm_layers"] or []) or None
    if layers is None and "arm_layers" in settings.explicit:
        layers = settings.arm_layers
    request = _Request(settings, AllocationRequest(asked, budget_kl, layers))
    name = f"{short_name(model or settings.model or 'demo')}-allocation"
    how = (request.measure, request.estimate, request.is_answered)
    return Study("sweep", ALLOCATION, settings, name, *how, has_parts=True)
