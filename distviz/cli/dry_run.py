"""`--dry-run`: what a measuring command would do, after every check that it would make itself."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distviz.cli.checks import (
    SweepRequest,
    check_sweep,
    checked_output,
    parse_counts,
    presets_of,
    short_name,
    state_folder,
)
from distviz.errors import RequestError
from distviz.settings import RunSettings, build_settings

if TYPE_CHECKING:
    from distviz.cli.estimate import Measurement
    from distviz.cli.opening import Opening

__all__ = ["Estimate", "plan_compare", "plan_filler", "plan_run", "plan_sweep"]

_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Estimate:
    """What a command would do.

    Attributes
    ----------
    command
        ``"run"``, ``"compare"``, ``"filler"`` or ``"sweep"``.
    out
        The folder that it would write.
    measurements
        By title (``"A"``, ``"B"`` where two sides are measured, else empty).
    ready
        Sides of a comparison that are measured already.
    free_bytes
        Memory that is free now where the model would be loaded.
    """

    command: str
    out: Path
    measurements: dict[str, Measurement]
    ready: list[str] = field(default_factory=list)
    free_bytes: int = 0

    @property
    def seconds(self) -> tuple[float, float]:
        """From about, to about, all together."""
        spans = [
            (sum(one.seconds.values()), one.spread, one.seconds["start"])
            for one in self.measurements.values()
        ]
        started = sum(start for _, _, start in spans[1:])  # the process starts once
        low = sum(total * spread[0] for total, spread, _ in spans) - started
        high = sum(total * spread[1] for total, spread, _ in spans) - started
        return max(low, 0.0), max(high, 0.0)

    @property
    def memory_bytes(self) -> int:
        """At a time: one model after the other."""
        totals = [sum(one.memory_bytes.values()) for one in self.measurements.values()]
        return max(totals, default=0)

    @property
    def library_bytes(self) -> int:
        """What the imported libraries take beside it."""
        return max((one.library_bytes for one in self.measurements.values()), default=0)

    @property
    def processes(self) -> int:
        """How many share the work."""
        return max((one.processes for one in self.measurements.values()), default=1)

    @property
    def disk_bytes(self) -> int:
        """Of everything written."""
        return sum(one.disk_bytes for one in self.measurements.values())

    @property
    def notes(self) -> list[str]:
        """What has to be said."""
        found = [note for one in self.measurements.values() for note in one.notes]
        if self.memory_bytes > self.free_bytes > 0:
            found.append(
                f"{self.memory_bytes / 1e9:.1f} GB are needed, {self.free_bytes / 1e9:.1f} GB are "
                "free"
            )
        return list(dict.fromkeys(found))

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for ``--json``."""
        return {
            "schema_version": _SCHEMA_VERSION,
            "kind": "plan",
            "command": self.command,
            "folder": str(self.out),
            "seconds": dict(zip(("low", "high"), self.seconds, strict=True)),
            "processes": self.processes,
            "memory_bytes": self.memory_bytes,
            "library_bytes": self.library_bytes,
            "free_bytes": self.free_bytes,
            "disk_bytes": self.disk_bytes,
            "ready": self.ready,
            "measurements": [
                {"side": title or None, **one.as_dict()} for title, one in self.measurements.items()
            ],
            "warnings": self.notes,
        }


def plan_run(model: str | None, flags: dict[str, Any], config: Path | None) -> Estimate:
    """Say what `measuring.run_to_folder` would do with the same arguments.

    Raises
    ------
    RequestError
        Where the command itself would, before its first forward pass.
    """
    settings = build_settings(flags, config, model)
    out = checked_output(settings, short_name(model or settings.model or "demo"))
    state_folder(out, settings)
    measurement, free = _measure_once(settings, None)
    return Estimate("run", out, {"": measurement}, free_bytes=free)


def _measure_once(settings: RunSettings, texts: list[Any] | None) -> tuple[Measurement, int]:
    from distviz.cli.estimate import estimate
    from distviz.cli.opening import open_empty
    from distviz.cli.walk import Task
    from distviz.data import read_documents
    from distviz.measure import corpus_of

    sources = [Path(name) for name in settings.text] if texts is None else texts
    documents = read_documents(sources) if settings.layer is None else []
    opening = open_empty(settings)
    corpus = corpus_of(documents, opening.opened, settings)
    paired = settings.ripple and _has_arm(opening, settings)
    return estimate(opening, settings, [Task(corpus, 1 + paired, paired)]), _free(opening)


def _has_arm(opening: Opening, settings: RunSettings) -> bool:
    from distviz.measure import choose_points

    return bool(choose_points(settings, opening.opened.model, opening.opened.mlps)[1])


def _free(opening: Opening) -> int:
    from distviz.models import free_bytes

    return free_bytes(opening.options.device)


def plan_compare(
    a: str, b: str, phase_a: str, phase_b: str, flags: dict[str, Any], config: Path | None
) -> Estimate:
    """Say what `measuring.compare_to_folder` would do; raises as `plan_run`."""
    settings = replace(build_settings(flags, config), layer=None)
    out = checked_output(settings, f"{short_name(a)}-vs-{short_name(b)}")
    state_folder(out, settings)
    from distviz.studies import find_sides

    given = frozenset(name for name, value in flags.items() if value is not None)
    sides = find_sides(a, b, (phase_a, phase_b), settings, given)
    found, ready, free = {}, [], 0
    for title, name, side in zip("AB", (a, b), sides, strict=True):
        if side.run is not None:
            ready.append(name)
        else:
            found[title], free = _measure_once(side.settings, side.texts)
    return Estimate("compare", out, found, ready, free)


def plan_filler(
    model: str, counts: str | None, flags: dict[str, Any], config: Path | None
) -> Estimate:
    """Say what `measuring.filler_to_folder` would do; raises as `plan_run`."""
    settings = build_settings(flags, config, model)
    numbers = parse_counts(counts, settings.filler_count)
    if settings.layer is not None:
        raise RequestError("distviz filler needs a checkpoint, not layers built from a TOML")
    out = checked_output(settings, f"{short_name(model)}-filler")
    state_folder(out, settings)
    from distviz.cli.estimate import estimate
    from distviz.cli.opening import open_empty
    from distviz.cli.walk import Task
    from distviz.studies import filled_corpus, read_prompts

    documents = read_prompts([Path(name) for name in settings.text])
    chosen = replace(settings, arm_layers="none", classes="all")
    opening = open_empty(chosen, is_for_measure=False)
    tasks = [
        Task(filled_corpus(opening.opened, documents, chosen, count), 1, paired=False)
        for count in sorted({0, *numbers})
    ]
    return Estimate(
        "filler", out, {"": estimate(opening, chosen, tasks)}, free_bytes=_free(opening)
    )


def plan_sweep(
    model: str | None, asked: SweepRequest, flags: dict[str, Any], config: Path | None
) -> Estimate:
    """Say what `measuring.sweep_to_folder` would do; raises as `plan_run`."""
    settings = check_sweep(model, asked, flags, config)
    out = checked_output(settings, f"{short_name(model or settings.model or 'demo')}-sweep")
    state_folder(out, settings)
    from distviz.cli.estimate import estimate
    from distviz.cli.opening import open_empty
    from distviz.cli.walk import Task
    from distviz.data import read_documents
    from distviz.measure import corpus_of
    from distviz.sites import join_layers
    from distviz.studies import every_setting, layer_count

    documents = read_documents([Path(name) for name in settings.text])
    opening = open_empty(settings, is_for_measure=False)
    corpus = corpus_of(documents, opening.opened, settings)
    opened, lists = opening.opened, asked.grid(settings.preset)
    presets = presets_of(settings)
    grid = every_setting(opened, lists, settings, is_by_layer=asked.by_layer, presets=presets)
    n_layers = layer_count(opened)
    # A pass with a setting begins at the first layer that it changes.
    passes = 1 + asked.seeds * sum(1 - min(one.layers, default=0) / n_layers for one in grid)
    moved = {layer for one in grid for layer in one.layers}
    shown = replace(
        settings,
        sites="act",
        layers=join_layers({*moved, n_layers - 1}),
        arm_layers=join_layers(moved),
    )
    measurement = estimate(opening, shown, [Task(corpus, passes, paired=True)])
    return Estimate("sweep", out, {"": measurement}, free_bytes=_free(opening))
