"""A whole measuring command: from flags to a folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distviz.cli.checks import (
    GRID,
    PROPOSED,
    SweepRequest,
    check_sweep,
    checked_output,
    is_published,
    parse_counts,
    presets_of,
    short_name,
    state_folder,
)
from distviz.cli.interruption import kept_work
from distviz.errors import RequestError
from distviz.measure import agree, current
from distviz.results import COMPARISON, FILLER, RUN, SWEEP, Run, Sweep, check_output, read_manifest
from distviz.settings import OPTIONS, RunSettings, build_settings

if TYPE_CHECKING:
    from distviz.progress import Progress
    from distviz.results import Comparison, FillerStudy, Result, WhatIf
    from distviz.studies import Continuations

__all__ = [
    "GRID",
    "SweepRequest",
    "compare_to_folder",
    "continuations",
    "filler_to_folder",
    "run_to_folder",
    "sweep_to_folder",
    "whatif_to_folder",
]


def run_to_folder(
    model: str | None, flags: dict[str, Any], config: Path | None, progress: Progress
) -> tuple[Run, Path]:
    """Measure as the flags and files say, and write the run folder with its figures.

    Returns
    -------
    The run, and the folder.
    """
    settings = build_settings(flags, config, model)
    _agree_on(settings)
    if current().exchange("finished", _is_finished(settings))[0]:
        folder = _note_finished(settings, progress)
        return Run.load(folder), folder
    out = checked_output(settings, short_name(model or settings.model or "demo"))
    from distviz import measure

    with kept_work(out, settings, progress) as states:
        measured = measure.run(settings=settings, progress=progress, states=states)
        _deliver(measured, out, settings, progress)
    return measured, out


def _deliver(result: Result, out: Path, settings: RunSettings, progress: Progress) -> None:
    """Write the folder, in the first process; the others wait until it is there."""
    from distviz import reports

    progress.stop()
    if current().is_first:
        if settings.figures:
            progress.stage("drawing figures")
        reports.write_folder(
            result,
            out,
            figures=tuple(settings.figures),
            width=settings.figure_width,
            force=settings.force,
        )
    current().finish()


def _agree_on(settings: RunSettings) -> None:
    """Refuse processes that were not started alike, before anything is read."""
    facts = {f"--{n.replace('_', '-')}": str(v) for n, v in settings.as_dict().items()}
    agree(current(), "settings", facts)
    if current().size > 1 and "-" in settings.text:
        raise RequestError(
            "--text - cannot be read by several processes", "write the text to a file first"
        )
    if current().size > 1 and settings.device_map is not None:
        raise RequestError(
            "--device-map spreads one process's model over all devices, "
            f"{current().size} processes would be in each other's way",
            "start it without torchrun or accelerate",
        )


def _is_finished(settings: RunSettings, name: str = RUN) -> bool:
    """Whether ``--resume`` finds the result of the same command complete."""
    if not _may_be_finished(settings, name):
        return False
    known = dict(read_manifest(Path(str(settings.out)), name).get("settings") or {})
    return settings.asks_the_same(known)


def _may_be_finished(settings: RunSettings, name: str) -> bool:
    is_there = (Path(str(settings.out)) / name).exists()
    return settings.resume and not settings.force and is_there


def _note_finished(settings: RunSettings, progress: Progress) -> Path:
    progress.note(f"{settings.out} is complete, nothing is left to measure")
    folder = Path(str(settings.out))
    state_folder(folder, settings).remove()  # it may have been killed before it did so
    return folder


def compare_to_folder(
    a: str,
    b: str,
    phase_a: str,
    phase_b: str,
    flags: dict[str, Any],
    config: Path | None,
    progress: Progress,
) -> tuple[Comparison, Path]:
    """Compare as the flags say, and write the comparison folder with its figures.

    Returns
    -------
    The comparison, and the folder.
    """
    settings = build_settings(flags, config)
    _agree_on(settings)
    from distviz import studies

    asked: dict[str, Any] = {"phase_a": phase_a, "phase_b": phase_b, "settings": settings}
    asked["given"] = frozenset(name for name, value in flags.items() if value is not None)
    asked["sites"] = flags.get("sites")
    if current().exchange("finished", _may_be_finished(settings, COMPARISON))[0]:
        finished = studies.finished_comparison(Path(str(settings.out)), a, b, **asked)
        if finished is not None:
            return finished, _note_finished(settings, progress)
    out = checked_output(settings, f"{short_name(a)}-vs-{short_name(b)}")
    with kept_work(out, settings, progress, of_parts=True) as states:
        compared = studies.compare(a, b, **asked, progress=progress, states=states)
        _deliver(compared, out, settings, progress)
    return compared, out


def filler_to_folder(
    model: str, counts: str | None, flags: dict[str, Any], config: Path | None, progress: Progress
) -> tuple[FillerStudy, Path]:
    """Measure prompts with and without filler as the flags say, and write the folder.

    Returns
    -------
    The study, and the folder.
    """
    settings = build_settings(flags, config, model)
    numbers = parse_counts(counts, settings.filler_count)
    if settings.layer is not None:
        raise RequestError("distviz filler needs a checkpoint, not layers built from a TOML")
    from distviz import studies

    if _may_be_finished(settings, FILLER):
        finished = studies.finished_study(Path(str(settings.out)), settings, numbers)
        if finished is not None:
            return finished, _note_finished(settings, progress)
    out = checked_output(settings, f"{short_name(model)}-filler")
    from distviz import measure

    with kept_work(out, settings, progress, of_parts=True) as states:
        documents = studies.read_prompts([Path(name) for name in settings.text])
        opened = measure.open_from(settings, progress)
        study = studies.study_filler(opened, documents, settings, numbers, progress, states)
        _deliver(study, out, settings, progress)
    return study, out


def sweep_to_folder(
    model: str | None,
    asked: SweepRequest,
    flags: dict[str, Any],
    config: Path | None,
    progress: Progress,
) -> tuple[Sweep, Path]:
    """Try the settings as the flags say, and write the folder.

    Returns
    -------
    The sweep, and the folder.
    """
    settings = check_sweep(model, asked, flags, config)
    grid, presets = asked.grid(settings.preset), presets_of(settings)
    if _is_finished(settings, SWEEP) and asked.is_of(Path(str(settings.out))):
        folder = _note_finished(settings, progress)
        return Sweep.load(folder), folder
    out = checked_output(settings, f"{short_name(model or settings.model or 'demo')}-sweep")
    from distviz import measure, studies
    from distviz.data import read_documents

    with kept_work(out, settings, progress) as states:
        documents = read_documents([Path(name) for name in settings.text])
        opened = measure.open_from(settings, progress)
        corpus = measure.corpus_of(documents, opened, settings)
        if not is_published(settings):
            place = studies.first_place(opened, grid, settings, is_by_layer=asked.by_layer)
            looking = replace(settings, arm_layers=place)
            proposal = measure.pilot_run(opened, corpus, looking, progress)
            presets[PROPOSED] = proposal.settings
        chosen = studies.every_setting(
            opened, grid, settings, is_by_layer=asked.by_layer, presets=presets
        )
        swept = studies.sweep_model(
            opened,
            corpus,
            settings,
            chosen,
            range(settings.seed, settings.seed + asked.seeds),
            asked.budget_kl,
            progress,
            is_by_layer=asked.by_layer,
            states=states,
        )
        swept.manifest["grid"] = asked.lists
        swept.manifest["presets"] = presets
        swept.manifest["flags"] = _arm_flags(settings)
        if PROPOSED in presets:
            swept.manifest["evidence"] = proposal.evidence
        _deliver(swept, out, settings, progress)
    return swept, out


def _arm_flags(settings: RunSettings) -> list[str]:
    """Return the options of ARM that no list varies, as a command needs them to repeat a row."""
    usual = RunSettings()
    words: list[str] = []
    for name in ("p_min", "p_max", "percentile_of", "passes"):
        value = getattr(settings, name)
        if name in settings.explicit and value != getattr(usual, name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def whatif_to_folder(
    run: Path,
    flags: dict[str, Any],
    figures: Sequence[str],
    out: Path | None,
    *,
    width: str | None = None,
    force: bool,
) -> tuple[WhatIf, Path]:
    """Answer what the flags ask about a saved run, and write the folder; no model, no torch.

    Parameters
    ----------
    run
        A run folder.
    flags
        Arguments of `questions.parse_whatif`.
    figures
        Formats; none draws nothing.
    out
        The folder; None is ``<run>-whatif`` beside the run.
    width
        ``"single"`` or ``"double"``: the columns of a paper; None: for a screen.
    force
        Whether a result that is there already is replaced.

    Returns
    -------
    The answers, and the folder.
    """
    from distviz import reports, studies

    OPTIONS["figure_width"].check(width)
    asked = studies.parse_whatif(**flags)
    folder = run.parent / f"{run.resolve().name}-whatif" if out is None else out
    check_output(folder, force=force)
    answers = studies.evaluate_whatif(studies.read_run(run), asked, run.resolve().name)
    answers.manifest["asked"] = {"run": str(run)} | {
        name: value for name, value in flags.items() if value is not None
    }
    reports.write_folder(answers, folder, figures=figures, width=width, force=force)
    return answers, folder


def continuations(
    model: str | None,
    prompt: str,
    flags: dict[str, Any],
    config: Path | None,
    progress: Progress,
    *,
    system: str = "",
    decoding: dict[str, Any],
) -> Continuations:
    """Write on from a prompt with ARM off and on, as the flags say; nothing is saved.

    ``decoding`` holds the fields of `distviz.studies.generation.Decoding`; the prompt ``-`` is
    read from standard input.
    """
    settings = build_settings(flags, config, model)
    if settings.layer is not None:
        raise RequestError("distviz generate needs a checkpoint, not layers built from a TOML")
    if settings.arm_layers == "none":
        raise RequestError("--arm-layers none leaves nothing to set side by side")
    text = sys.stdin.read() if prompt == "-" else prompt
    if not (text + system).strip():
        raise RequestError("--prompt is empty, there is nothing to go on from")
    from distviz import measure, studies
    from distviz.data import read_documents

    chosen = studies.Decoding(**decoding)
    try:
        opened = measure.open_from(settings, progress)
        preset = None
        if not is_published(settings):
            # The rule of thumb is asked of the prompt: nothing else will be read.
            parts = {"system": system, "question": text}
            source = parts if settings.chat_template else {"text": system + text}
            corpus = measure.corpus_of(read_documents([source]), opened, settings)
            found = measure.pilot_run(opened, corpus, settings, progress)
            settings = settings.with_proposal(found.settings)
            preset = {"name": PROPOSED, "evidence": found.evidence}
        written = studies.generate(opened, text, settings, chosen, progress, system=system)
        written.manifest["preset"] = preset
        return written
    finally:
        progress.stop()
