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
    from distviz.progress import Progress
    from distviz.runs import Run

__all__ = ["run_to_folder"]


def run_to_folder(
    flags: dict[str, Any], config: Path | None, model: str | None, progress: Progress
) -> tuple[Run, Path]:
    """Measure as the flags and files say, and write the run folder with its figures.

    Returns
    -------
    The run, and the folder.
    """
    settings = build_settings(flags, config, model)
    out = _output(settings, model)
    check_output(out, force=settings.force)
    _check_files(settings)
    from distviz import collect, exports

    try:
        measured = collect.run(settings=settings, progress=progress)
    finally:
        progress.stop()
    if settings.figures:
        progress.stage("drawing figures")
    exports.write_run(measured, out, figures=tuple(settings.figures), force=settings.force)
    return measured, out


def _check_files(settings: RunSettings) -> None:
    """Refuse missing texts before torch is imported."""
    for name in settings.text:
        if name != "-" and not Path(name).is_file():
            raise RequestError(f"--text {name}: there is no such file")


def _output(settings: RunSettings, model: str | None) -> Path:
    if settings.out is not None:
        return Path(settings.out)
    source = model or settings.model or "demo"
    name = re.sub(r"[^\w.-]+", "-", Path(source.rstrip("/")).name) or "model"
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
