"""Execute a command: check, measure or resume, write the folder."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distviz.cli import options
from distviz.cli.checks import PROPOSED, checked_output, checkpoint_folder, is_published
from distviz.cli.commands import Study
from distviz.errors import InterruptedRunError, RequestError
from distviz.interrupts import describe, exit_code, written
from distviz.measure import CheckpointFolder, agree, current
from distviz.option import no_effect
from distviz.results import check_output, load
from distviz.settings import OPTIONS, RunSettings, build_settings

if TYPE_CHECKING:
    from distviz.progress import Progress
    from distviz.results import Result, WhatIf
    from distviz.studies import Continuations


def execute(study: Study, progress: Progress) -> tuple[Result, Path]:
    """Measure, and return the result with its folder, written with its figures.

    Raises
    ------
    RequestError
        If the request cannot be carried out.
    InterruptedRunError
        If it is interrupted and a checkpoint is left.
    """
    settings = study.settings
    _agree_on(settings)
    if current().exchange("finished", _is_finished(study))[0]:
        folder = Path(str(settings.out))
        progress.note(f"{folder} is complete, nothing is left to measure")
        # The process may have been killed before it removed them.
        checkpoint_folder(folder, settings).remove()
        return load(folder), folder
    out = checked_output(settings, study.name)
    with _checkpoints(out, study, progress) as states:
        result = study.measure(progress, states)
        _write(result, out, settings, progress)
    return result, out


def _agree_on(settings: RunSettings) -> None:
    """Refuse processes whose settings differ or that cannot share the work."""
    options = {f"--{n.replace('_', '-')}": str(v) for n, v in settings.as_dict().items()}
    agree(current(), "settings", options)
    size = current().size
    if size > 1 and "-" in settings.text:
        raise RequestError(
            "--text - cannot be read by several processes", "write the text to a file first"
        )


def _is_finished(study: Study) -> bool:
    """Whether ``--resume`` finds the complete result of the same study."""
    settings = study.settings
    if not settings.resume or settings.force or not current().is_first:
        return False
    folder = Path(str(settings.out))
    return (folder / study.manifest).exists() and study.is_answered(folder)


def _write(result: Result, out: Path, settings: RunSettings, progress: Progress) -> None:
    """Write the folder in the first process; the others wait for it."""
    from distviz import plots, reports

    progress.stop()
    if current().is_first:
        if settings.figures:
            progress.stage("drawing figures")
        reports.write_folder(
            result,
            out,
            figures=tuple(settings.figures),
            width=settings.figure_width,
            axes=plots.AxisChoice(settings.x_axis, settings.centred),
            force=settings.force,
        )
    current().finish()


@contextmanager
def _checkpoints(out: Path, study: Study, progress: Progress) -> Iterator[CheckpointFolder]:
    """Yield where checkpoints are saved, and remove them after success.

    After an interruption or a failure the user reads what is saved and how to resume.
    """
    states = checkpoint_folder(out, study.settings)
    if states.exists() and not states.resumes:
        states.remove()
    had_states = states.exists()
    try:
        # A measurement in several parts begins each of them without this note.
        if study.has_parts and states.resumes and not states.exists() and current().is_first:
            progress.note(f"no checkpoint in {states.folder}; starting from the beginning")
        yield states
        states.remove()
    except KeyboardInterrupt as error:
        progress.stop()
        if out in written:
            states.remove()
        if not states.exists():
            raise
        raise InterruptedRunError(
            f"{describe(error)}; {_saved(states)}",
            f"resume with: {_resume_command(out)}",
            exit_code(error),
        ) from None
    except Exception as error:
        progress.stop()
        if states.exists() and not isinstance(error, RequestError):
            progress.note(_how_to_resume(states, out))
        elif states.exists() and not had_states:
            progress.note(f"{_saved(states)}; a command that can be carried out takes it: --resume")
        raise
    finally:
        progress.stop()
        if not states.exists():
            states.remove()


def _saved(states: CheckpointFolder) -> str:
    part = f"{100 * states.share:.0f} %" if states.share else "a part of the work"
    return f"{part} is saved in {states.folder}"


def _how_to_resume(states: CheckpointFolder, out: Path) -> str:
    return f"{_saved(states)}; resume with: {_resume_command(out)}" if states.exists() else ""


def _resume_command(out: Path) -> str:
    words = ["distviz", *sys.argv[1:]]
    if current().size > 1:
        return "the same command and --resume"
    if not any(re.match(r"(--out|-o)(=|$)", word) for word in words):
        words += ["--out", str(out)]
    return shlex.join(words + ["--resume"] * ("--resume" not in words))


def execute_whatif(
    run: Path,
    flags: dict[str, Any],
    figures: Sequence[str],
    out: Path | None,
    *,
    width: str | None = None,
    force: bool,
) -> tuple[WhatIf, Path]:
    """Evaluate what-if questions about a run folder; return the result with its folder.

    No model is loaded, and torch is not imported. ``flags`` are arguments of
    `distviz.studies.parse_whatif`; ``out`` is by default ``<run>-whatif``.
    """
    from distviz import reports, studies

    OPTIONS["figure_width"].check(width)
    request = studies.parse_whatif(**flags)
    if width is not None and not figures:
        raise no_effect("--figure-width", "without figures")
    folder = run.parent / f"{run.resolve().name}-whatif" if out is None else out
    check_output(folder, force=force)
    result = studies.evaluate_whatif(studies.read_run(run), request, run.resolve().name)
    given = {name: value for name, value in flags.items() if value is not None}
    result.manifest["asked"] = {"run": str(run)} | given
    reports.write_folder(result, folder, figures=figures, width=width, force=force)
    return result, folder


def execute_generate(
    model: str | None,
    prompt: str,
    flags: dict[str, Any],
    config: Path | None,
    progress: Progress,
    *,
    system: str = "",
    decoding: dict[str, Any],
) -> Continuations:
    """Continue a prompt with ARM off and on; nothing is written.

    ``decoding`` holds the fields of `distviz.studies.Decoding`; the prompt ``-`` is read from
    standard input.
    """
    settings = build_settings(flags, config, model)
    if settings.layer is not None:
        raise RequestError("distviz generate needs a checkpoint, not layers built from a TOML")
    if settings.arm_layers == "none":
        raise RequestError("--arm-layers none leaves nothing to compare")
    text = sys.stdin.read() if prompt == "-" else prompt
    if not (text + system).strip():
        raise RequestError("--prompt is empty, there is nothing to continue")
    from distviz import measure, studies

    chosen = studies.Decoding(**decoding)
    try:
        tokens = partial(studies.prompt_corpus, prompt=text, system=system, settings=settings)
        opened = measure.open_from(settings, progress, tokens)
        preset = None
        if not is_published(settings):
            # Settings are proposed from the prompt: nothing else will be read.
            found = measure.pilot_run(opened, tokens(opened), settings, progress)
            settings = settings.with_proposal(found.settings)
            preset = {"name": PROPOSED, "evidence": found.evidence}
        written = studies.generate(opened, text, settings, chosen, progress, system=system)
        written.manifest["preset"] = preset
        return written
    finally:
        progress.stop()


def execute_export(given: Any) -> tuple[Path, list[Path], list[str]]:
    """Export a folder; return where it was written, the files, and warnings.

    ``given`` has the options of ``distviz export``. Neither a model nor torch is loaded, but for
    files that torch writes.
    """
    out = None if given.out is None else Path(given.out)
    if given.tool is not None:
        from distviz.integrations import export_for

        drawing = ("figure", "figures", "tables", "figure_width", "log", "x_axis", "centred")
        options.refuse_given(given, (*drawing, "sites"), "--for", command="export")
        out = out or given.run.parent / f"{given.run.resolve().name}-export"
        chosen = {"layers": given.layers, "force": bool(given.force)}
        return out, *export_for(given.run, given.tool, out, **chosen)
    from distviz.reports import export_folder

    written = export_folder(
        given.run,
        out,
        figure=given.figure,
        figures=given.figures,
        tables=given.tables,
        width=given.figure_width,
        layers=given.layers,
        sites=given.sites,
        log=given.log,
        x_axis=given.x_axis or "auto",
        centred=bool(given.centred),
        force=bool(given.force),
    )
    return written[0].parent, written, []
