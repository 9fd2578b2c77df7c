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
    from distviz.studies import Continuations, Inspection

_WHATIF = (
    *("sparsity", "thresholds", "formats", "ranges", "phases", "layers", "sites"),
    "percentile",
)
"""Options of ``distviz whatif`` that say what is evaluated."""


def execute(
    study: Study, progress: Progress, typed: Sequence[str] | None = None
) -> tuple[Result, Path]:
    """Measure, and return the result with its folder, written with its figures.

    ``typed`` are the words of the command line; None for a call in Python.

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
    with _checkpoints(out, study, progress, typed) as states:
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
def _checkpoints(
    out: Path, study: Study, progress: Progress, typed: Sequence[str] | None
) -> Iterator[CheckpointFolder]:
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
            f"resume with: {_resume_command(out, typed)}",
            exit_code(error),
        ) from None
    except Exception as error:
        progress.stop()
        if states.exists() and not isinstance(error, RequestError):
            progress.note(f"{_saved(states)}; resume with: {_resume_command(out, typed)}")
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


def _resume_command(out: Path, typed: Sequence[str] | None) -> str:
    if typed is None or current().size > 1:
        return f"the same {'call' if typed is None else 'command'} and --resume"
    words = ["distviz", *typed]
    if not any(re.match(r"(--out|-o)(=|$)", word) for word in words):
        words += ["--out", str(out)]
    return shlex.join(words + ["--resume"] * ("--resume" not in words))


def execute_whatif(given: Any, folder: Path | None) -> WhatIf:
    """Evaluate what-if questions about a run, and write the result if a folder is given.

    No model is loaded, and torch is not imported. ``given`` has the options of ``distviz whatif``;
    its run is a folder or, in Python, a `Run`.
    """
    from distviz import reports, studies
    from distviz.results import Run

    OPTIONS["figure_width"].check(given.figure_width)
    asked = {name: value for name in _WHATIF if (value := getattr(given, name)) is not None}
    request = studies.parse_whatif(**asked)
    figures = options.flags_of("whatif", given)["figures"]
    if given.figure_width is not None and figures == []:
        raise no_effect("--figure-width", "without figures")
    if folder is not None:
        check_output(folder, force=bool(given.force))
    is_open = isinstance(given.run, Run)
    run = given.run if is_open else studies.read_run(given.run)
    result = studies.evaluate_whatif(run, request, "" if is_open else given.run.resolve().name)
    if not is_open:
        result.manifest["asked"] = {"run": str(given.run)} | asked
    if folder is not None:
        drawn = {"figures": ["png"] if figures is None else figures, "width": given.figure_width}
        reports.write_folder(result, folder, force=bool(given.force), **drawn)
    return result


def execute_inspect(given: Any) -> Inspection:
    """Describe a layer of a model; ``given`` has the options of ``distviz inspect``."""
    from distviz import studies

    own = {"revision": given.revision, "trust_remote_code": bool(given.trust_remote_code)}
    return studies.inspect(given.model, given.layer or 0, **own)


def execute_generate(given: Any, progress: Progress) -> Continuations:
    """Continue a prompt with ARM off and on; nothing is written.

    ``given`` has the options of ``distviz generate``; the prompt ``-`` is read from standard input.
    """
    model, prompt, system = given.model, given.prompt, given.system
    settings = build_settings(options.flags_of("generate", given), given.config, model)
    if settings.layer is not None:
        raise RequestError("distviz generate needs a checkpoint, not layers built from a TOML")
    if settings.arm_layers == "none":
        raise RequestError("--arm-layers none leaves nothing to compare")
    text = sys.stdin.read() if prompt == "-" else prompt
    if not (text + system).strip():
        raise RequestError("--prompt is empty, there is nothing to continue")
    from distviz import measure, studies

    is_warm = given.sample and given.temperature is None
    chosen = studies.Decoding(
        max_new_tokens=given.max_new_tokens,
        samples=given.num_samples,
        temperature=1.0 if is_warm else given.temperature,
        top_p=given.top_p,
        on=given.on,
    )
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
