"""The commands that measure, one record each: checked settings, how to measure and estimate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distviz.arm import KL_BUDGET, every_preset, has_selection
from distviz.cli.checks import (
    PROPOSED,
    checked_budget,
    has_settings,
    is_published,
    parse_counts,
    refuse_layers,
    short_name,
)
from distviz.errors import RequestError
from distviz.option import no_effect
from distviz.parsing import word_list
from distviz.results import COMPARISON, FILLER, RUN, SWEEP, read_manifest
from distviz.settings import OPTIONS, RunSettings, build_settings, refuse_without_effect

if TYPE_CHECKING:
    from distviz.cli.dry_run import Estimate
    from distviz.cli.estimate import Compared
    from distviz.measure import Checked, CheckpointFolder
    from distviz.progress import Progress
    from distviz.results import Comparison, FillerStudy, Result, Run, Sweep

GRID = ("c", "p1", "fraction", "arm_mode", "redistribution", "at", "arm_layers")
"""Settings of which a sweep takes lists."""
_IN_ROWS = ("model", "preset", "keep_text", *GRID)
"""Settings that a row of a sweep names itself, or that a sweep does not have."""
_DEFAULT_GRID = {"c": "0.05,0.13,0.32,1", "p1": "75,90,99.5"}
_Presets = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Study:
    """A checked request of a measuring command.

    Attributes
    ----------
    command, manifest
        Its name, and the file that marks a finished result.
    settings
        Of the measurement.
    name
        Of the folder where ``--out`` is not given; the date follows it.
    measure
        Measures, or resumes from saved states, and returns the result; nothing is written.
    estimate
        Estimates each measurement by its side; a run that exists already is only named.
    is_answered
        Whether the finished result in a folder answers the same request.
    has_parts
        Whether several measurements are made, each with checkpoints of its own.
    is_together
        Whether all models are in memory at a time.
    """

    command: str
    manifest: str
    settings: RunSettings
    name: str
    measure: Callable[[Progress, CheckpointFolder | None], Result]
    estimate: Callable[[], dict[str, Estimate | str]]
    is_answered: Callable[[Path], bool]
    has_parts: bool = False
    is_together: bool = False


def run_study(
    model: str | None,
    flags: dict[str, Any],
    config: Path | None,
    settings: RunSettings | None = None,
) -> Study:
    """Check ``distviz run``; ``flags`` are settings as typed, None where not given.

    ``settings`` take the place of all others.
    """
    settings = settings or build_settings(flags, config, model)

    def measure(progress: Progress, states: CheckpointFolder | None) -> Run:
        from distviz import measure

        return measure.run(settings, progress=progress, states=states)

    def estimate() -> dict[str, Estimate | str]:
        from distviz.measure import check

        return {"": _estimate_run(settings, check(settings))}

    name, is_answered = (
        short_name(model or settings.model or "demo"),
        partial(has_settings, settings, RUN),
    )
    return Study("run", RUN, settings, name, measure, estimate, is_answered)


def compare_study(
    a: Run | str,
    b: Run | str,
    phase_a: str,
    phase_b: str | None,
    of_b: dict[str, Any],
    by_value: dict[str, bool],
    flags: dict[str, Any],
    config: Path | None,
    settings: RunSettings | None = None,
    given: frozenset[str] | None = None,
) -> Study:
    """Check ``distviz compare``; ``of_b`` are the options of `SIDE_B`.

    ``by_value`` holds ``elementwise`` and ``local``. ``settings`` take the place of all others;
    ``given`` names those of them that a run's own do not replace.
    """
    settings = settings or build_settings(flags, config, command="compare")
    settings = replace(settings, layer=None)
    if given is None:
        given = frozenset(name for name, value in flags.items() if value is not None)
    options: dict[str, Any] = {"phase_a": phase_a, "phase_b": phase_b, "settings": settings}
    options |= {"sites": flags.get("sites"), "given": given} | of_b | by_value

    def measure(progress: Progress, states: CheckpointFolder | None) -> Comparison:
        from distviz.studies import compare

        return compare(a, b, **options, progress=progress, states=states)

    def estimate() -> dict[str, Estimate | str]:
        from distviz.cli.estimate import of_comparison
        from distviz.studies import checked_sides

        sides = checked_sides(a, b, **options)
        found: dict[str, Estimate | str] = {}
        for number, (name, side) in enumerate(zip(map(str, (a, b)), sides, strict=True)):
            found["AB"[number]] = name
            if side.checked is not None:
                passes = by_value["elementwise"]
                compared = of_comparison(
                    sides, number, by_value, flags.get("sites"), found.get("A")
                )
                one = _estimate_run(side.settings, side.checked, compared)
                found["AB"[number]] = one.with_passes(passes + number * by_value["local"])
        return found

    def is_answered(folder: Path) -> bool:
        from distviz.studies import finished_comparison

        return finished_comparison(folder, a, b, **options) is not None

    name = "-vs-".join(short_name(side) if isinstance(side, str) else "run" for side in (a, b))
    how = (measure, estimate, is_answered)
    together = by_value["elementwise"]
    return Study("compare", COMPARISON, settings, name, *how, has_parts=True, is_together=together)


def filler_study(
    model: str, counts: str | None, flags: dict[str, Any], config: Path | None
) -> Study:
    """Check ``distviz filler``."""
    if counts is not None and flags.get("filler_count") is not None:
        raise no_effect("--filler-count", "with --counts")
    settings = build_settings(flags, config, model, command="filler")
    numbers = parse_counts(counts, settings.filler_count)
    refuse_layers(settings, "filler")

    def measure(progress: Progress, states: CheckpointFolder | None) -> FillerStudy:
        from distviz import measure, studies

        documents = studies.read_prompts(settings)

        def prepare(empty: Any) -> None:
            for count in sorted({0, *numbers}):
                studies.filled_corpus(empty, documents, settings, count)

        opened = measure.open_from(settings, progress, prepare)
        return studies.study_filler(opened, documents, settings, numbers, progress, states)

    def estimate() -> dict[str, Estimate | str]:
        from distviz.cli.estimate import Part, estimate
        from distviz.measure import open_empty
        from distviz.studies import filled_corpus, read_prompts

        documents = read_prompts(settings)
        chosen = replace(settings, arm_layers="none", classes="all")
        empty = open_empty(chosen, is_for_measure=False)
        corpora = [
            filled_corpus(empty.opened, documents, chosen, count) for count in sorted({0, *numbers})
        ]
        return {"": estimate(empty, chosen, list(map(Part, corpora)))}

    def is_answered(folder: Path) -> bool:
        from distviz.studies import finished_study

        return finished_study(folder, settings, numbers) is not None

    name, how = f"{short_name(model)}-filler", (measure, estimate, is_answered)
    return Study("filler", FILLER, settings, name, *how, has_parts=True)


@dataclass(frozen=True)
class _SweepRequest:
    """The settings of ``distviz sweep``, its lists by `GRID`, and what `sweep_study` takes."""

    settings: RunSettings
    lists: dict[str, Any]
    seeds: int
    budget_kl: float
    by_layer: bool

    def presets(self) -> _Presets:
        """Return the presets to try; ``proposed``, still empty, where none is published."""
        if self.settings.preset is None:
            return {}
        found = every_preset(self.settings.preset, self.settings.model)
        return found | ({} if is_published(self.settings) else {PROPOSED: {}})

    def grid(self) -> Any:
        """Return the `SweepGrid`; the default one where neither lists nor presets are given."""
        from distviz.studies import SweepGrid

        given = {name: value for name, value in self.lists.items() if value is not None}
        layers = given.pop("arm_layers", None)
        has_own = bool(
            self.by_layer
            or self.settings.preset
            or {"c", "p1", "fraction"} & set(given)
            or not any(map(has_selection, self._redistributions))
        )
        given = given if has_own else given | _DEFAULT_GRID
        return SweepGrid(**given, arm_layers=";".join(layers) if layers else None)

    @property
    def _redistributions(self) -> list[str]:
        return word_list(self.lists.get("redistribution") or self.settings.redistribution, "")

    def every_setting(self, opened: Any, presets: _Presets) -> list[Any]:
        """Return the settings to try on a model."""
        from distviz.studies import every_setting

        return every_setting(
            opened, self.grid(), self.settings, is_by_layer=self.by_layer, presets=presets
        )

    def is_answered(self, folder: Path) -> bool:
        """Whether settings, lists, seeds and budget of a finished sweep are the same."""
        known = read_manifest(folder, SWEEP, "sweep folder")
        own = {"grid": self.lists, "budget_kl": self.budget_kl, "by_layer": self.by_layer}
        return (
            len(known.get("seeds") or []) == self.seeds
            and all(known.get(name) == value for name, value in own.items())
            and has_settings(self.settings, SWEEP, folder, self._redistributions)
        )

    def measure(self, progress: Progress, states: CheckpointFolder | None) -> Sweep:
        """Propose settings where ``--preset auto`` finds none; measure every setting."""
        from distviz import measure, studies

        settings, presets, evidence = self.settings, self.presets(), {}
        opened, corpus = open_with_text(settings, progress)
        if not is_published(settings):
            first = studies.first_place(opened, self.grid(), settings, is_by_layer=self.by_layer)
            pilot = replace(settings, arm_layers=first)
            proposal = measure.pilot_run(opened, corpus, pilot, progress)
            presets[PROPOSED], evidence = proposal.settings, {"evidence": proposal.evidence}
        chosen = self.every_setting(opened, presets)
        seeds = range(settings.seed, settings.seed + self.seeds)
        swept = studies.sweep_model(
            *(opened, corpus, settings, chosen, seeds, self.budget_kl, progress),
            is_by_layer=self.by_layer,
            states=states,
        )
        asked = {"grid": self.lists, "presets": presets, "flags": repeated_flags(settings)}
        swept.manifest.update(asked | evidence)
        return swept

    def estimate(self) -> dict[str, Estimate | str]:
        """Estimate all passes; one that begins at a later layer counts as a part of a pass."""
        from distviz.cli.estimate import Part, estimate
        from distviz.measure import corpus_of, documents_of, open_empty
        from distviz.sites import join_layers, join_sites
        from distviz.studies import layer_count

        settings = self.settings
        documents = documents_of(settings)
        empty = open_empty(settings, is_for_measure=False)
        corpus = corpus_of(documents, empty.opened, settings)
        chosen, n_layers = (
            self.every_setting(empty.opened, self.presets()),
            layer_count(empty.opened),
        )
        passes = 1 + self.seeds * sum(1 - min(one.layers, default=0) / n_layers for one in chosen)
        moved = {layer for one in chosen for layer in one.layers}
        layers = join_layers({*moved, n_layers - 1})
        at = join_sites(one.settings.at for one in chosen)
        observed = replace(settings, at=at, sites=at, layers=layers, arm_layers=join_layers(moved))
        return {"": estimate(empty, observed, [Part(corpus, passes, is_paired=True)])}


def sweep_study(
    model: str | None,
    lists: dict[str, Any],
    seeds: int,
    budget_kl: float | None,
    by_layer: bool,
    flags: dict[str, Any],
    config: Path | None,
) -> Study:
    """Check ``distviz sweep``.

    Parameters
    ----------
    lists
        The values of `GRID` as typed, None where not given.
    seeds
        Number of seeds of the redistribution.
    budget_kl
        The largest KL divergence of a recommended setting, nats; `KL_BUDGET` where not given.
    by_layer
        Whether each setting is tried in each layer alone.
    """
    from distviz.studies import check

    settings = build_settings(flags, config, model, command="sweep")
    refuse_layers(settings, "sweep")
    if seeds < 1:
        raise RequestError(f"--seeds is {seeds}, it must be at least 1")
    budget_kl = checked_budget(KL_BUDGET if budget_kl is None else budget_kl)
    request = _SweepRequest(settings, lists, seeds, budget_kl, by_layer)
    rows = check(request.grid(), settings, request.presets())
    listed = {name for name in GRID if lists[name] is not None} - {"arm_layers"}
    refuse_without_effect(*rows, names=sorted(settings.explicit & OPTIONS.keys() | listed))
    name = f"{short_name(model or settings.model or 'demo')}-sweep"
    how = (request.measure, request.estimate, request.is_answered)
    return Study("sweep", SWEEP, settings, name, *how)


def _estimate_run(
    settings: RunSettings, checked: Checked, compared: Compared | None = None
) -> Estimate:
    """Estimate the measurement of one model."""
    from distviz.cli.estimate import Part, estimate

    is_paired = settings.ripple and bool(checked.moved)
    part = Part(checked.corpus, 1 + is_paired, is_paired)
    return estimate(checked.empty, settings, [part], compared)


def open_with_text(
    settings: RunSettings, progress: Progress, check: Callable[[Any], object] | None = None
) -> tuple[Any, Any]:
    """Open a model and its tokenized text; both are checked before weights are read.

    ``check`` also gets the model without weights, before the text.
    """
    from distviz import measure

    documents = measure.documents_of(settings)
    corpora: list[Any] = []

    def prepare(empty: Any) -> None:
        if check is not None:
            check(empty)
        corpora.append(measure.corpus_of(documents, empty, settings))

    opened = measure.open_from(settings, progress, prepare)
    return opened, corpora[0]


def repeated_flags(settings: RunSettings) -> list[str]:
    """Return the options, as words, that a run needs to repeat a row of a sweep exactly.

    These are all that may change its numbers, but for model, preset and what a list varies.
    """
    words = []
    for name, option in OPTIONS.items():
        value = getattr(settings, name)
        is_shared = {"run", "sweep"} <= set(option.commands) and name not in _IN_ROWS
        if is_shared and option.affects not in ("figures", "nothing") and value is not None:
            # An explicit value replaces that of a preset, even where it is the default.
            is_needed = option.affects == "arm" and name in settings.explicit
            words += option.words(value) if is_needed or value != option.default else []
    words += ["--text", "-"] * bool(settings.texts)  # which only Python has
    return words
