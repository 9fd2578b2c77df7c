"""Writing the files of a run for another tool."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from distviz.errors import RequestError
from distviz.integrations import imatrix, smoothquant, teal, tensorboard
from distviz.option import check_choice
from distviz.output import counted
from distviz.results import Run, check_replaceable, check_writable, model_layers, staging
from distviz.sites import parse_layers


@dataclass(frozen=True)
class Tool:
    """How files for a tool are written, and the package that this needs; empty for none."""

    write: Callable[[Run, Path], list[str]]
    package: str = ""


TOOLS = {
    "imatrix": Tool(imatrix.write_imatrix, "gguf"),
    "smoothquant": Tool(smoothquant.write_scales),
    "teal": Tool(teal.write_histograms),
    "tensorboard": Tool(tensorboard.write_events, "tensorboard"),
}
"""By the name that ``distviz export --for`` knows."""


def export_for(
    folder: Path, tool: str, out: Path, *, layers: str | None = None, force: bool = False
) -> tuple[list[Path], list[str]]:
    """Write the files of a run for another tool into a folder, which may hold other files.

    Parameters
    ----------
    folder
        A run.
    tool
        A name of `TOOLS`.
    out
        Where to write.
    layers
        As for ``distviz run``; None means all of the run.
    force
        Replace existing files.

    Returns
    -------
    The files, and warnings.

    Raises
    ------
    RequestError
        If the folder is no run, lacks what the tool needs, a package is missing, or a file exists.
    """
    check_choice("--for", tool, TOOLS)
    needed = TOOLS[tool].package
    if needed and importlib.util.find_spec(needed) is None:
        raise RequestError(
            f"--for {tool} needs the package {needed}, which is not installed",
            f"pip install {needed}",
        )
    run = Run.load(folder)
    whole = len({key.layer for key in run.keys if key.layer >= 0})
    if layers is not None:
        run = run.select(parse_layers(layers, run.n_layers))
    if out.exists() and not out.is_dir():
        raise RequestError(f"{out} is a file", "give another folder with --out")
    check_writable(out)
    warnings = [*run.file_warnings]
    if layers is None and whole < model_layers(run.manifest):
        all_layers = counted(model_layers(run.manifest), "layer")
        warnings.append(f"the run holds {whole} of {all_layers}, so do the files")
    with staging(out, merges=True) as new:
        warnings += TOOLS[tool].write(run, new)
        names = sorted(path.relative_to(new) for path in new.rglob("*") if path.is_file())
        for path in (out / name for name in names if os.path.lexists(out / name)):
            if not force:
                raise RequestError(f"{path} exists", "give another --out, or --force to replace it")
            check_replaceable(path)
    return [out / name for name in names], warnings
