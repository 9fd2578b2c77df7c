"""A whole measuring command: from flags to a folder."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distviz.config import RunSettings, build_settings
from distviz.errors import RequestError
from distviz.runs import check_output

if TYPE_CHECKING:
    from distviz.comparisons import Comparison
    from distviz.fillers import FillerStudy
    from distviz.progress import Progress
    from distviz.runs import Run

__all__ = ["compare_to_folder", "filler_to_folder", "run_to_folder"]


def run_to_folder(
    flags: dict[str, Any], config: Path | None, model: str | None, progress: Progress
) -> tuple[Run, Path]:
    """Measure as the flags and files say, and write the run folder with its figures.

    Returns
    -------
    The run, and the folder.
    """
    settings = build_settings(flags, config, model)
    out = _checked_output(settings, _short(model or settings.model or "demo"))
    from distviz import collect, exports

    try:
        measured = collect.run(settings=settings, progress=progress)
    finally:
        progress.stop()
    if settings.figures:
        progress.stage("drawing figures")
    exports.write_run(measured, out, figures=tuple(settings.figures), force=settings.force)
    return measured, out


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
    out = _checked_output(settings, f"{_short(a)}-vs-{_short(b)}")
    from distviz import comparing, exports

    given = frozenset(name for name, value in flags.items() if value is not None)
    try:
        compared = comparing.compare(
            a,
            b,
            phase_a=phase_a,
            phase_b=phase_b,
            sites=flags.get("sites"),
            settings=settings,
            given=given,
            progress=progress,
        )
    finally:
        progress.stop()
    if settings.figures:
        progress.stage("drawing figures")
    formats = tuple(settings.figures)
    exports.write_comparison(compared, out, figures=formats, force=settings.force)
    return compared, out


def filler_to_folder(
    model: str, counts: str | None, flags: dict[str, Any], config: Path | None, progress: Progress
) -> tuple[FillerStudy, Path]:
    """Measure prompts with and without filler as the flags say, and write the folder.

    Returns
    -------
    The study, and the folder.
    """
    if flags.get("attn_implementation") is None:
        flags["attn_implementation"] = "eager"  # the only one that tells attention weights
    settings = build_settings(flags, config, model)
    numbers = _parse_counts(counts, settings.filler_count)
    if settings.layer is not None:
        raise RequestError("distviz filler needs a checkpoint, not layers built from a TOML")
    out = _checked_output(settings, f"{_short(model)}-filler")
    from distviz import collect, filler_exports, fillers

    documents = fillers.read_prompts([Path(name) for name in settings.text])
    try:
        opened = collect.open_from(settings, progress)
        study = fillers.study_filler(opened, documents, settings, numbers, progress)
    finally:
        progress.stop()
    filler_exports.write_filler(study, out, figures=tuple(settings.figures), force=settings.force)
    return study, out


def _parse_counts(counts: str | None, default: int) -> list[int]:
    """Parse ``0,10,25``."""
    words = str(default) if counts is None else counts
    try:
        numbers = sorted({int(word) for word in words.split(",")})
    except ValueError:
        raise RequestError(
            f"--counts '{counts}' is not a list of numbers", "such as 0,10,25,40"
        ) from None
    if numbers[0] < 0 or numbers == [0]:
        raise RequestError(f"--counts {counts}: give at least one number above 0, none below")
    return numbers


def _checked_output(settings: RunSettings, name: str) -> Path:
    """Return the folder to write; it and the texts are checked before torch is imported."""
    dated = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    out = dated if settings.out is None else Path(settings.out)
    check_output(out, force=settings.force)
    for text in settings.text:
        if text != "-" and not Path(text).is_file():
            raise RequestError(f"--text {text}: there is no such file")
    return out


def _short(source: str) -> str:
    """Name a model or run in a folder's name."""
    return re.sub(r"[^\w.-]+", "-", Path(source.rstrip("/")).name) or "model"
