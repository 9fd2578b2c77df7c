"""One HTML file from folders of results."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from distviz.errors import RequestError
from distviz.interrupts import deferred, note_written
from distviz.reports.allocation import allocation_part
from distviz.reports.comparison import comparison_part
from distviz.reports.filler import filler_part
from distviz.reports.overlay import overlay_part
from distviz.reports.page import Page, Part
from distviz.reports.rendering import render
from distviz.reports.run import run_part
from distviz.reports.sweep import sweep_part
from distviz.reports.training import training_part
from distviz.reports.whatif import whatif_part
from distviz.results import (
    Allocation,
    Comparison,
    FillerStudy,
    Result,
    Run,
    Sweep,
    Training,
    WhatIf,
    check_name,
    check_replaceable,
    check_writable,
    load,
    replacing,
)

if TYPE_CHECKING:
    from distviz.plots import AxisChoice

_HEAD = 1 << 16
"""Bytes in which a page has its title."""


def report_folders(
    places: Sequence[Path],
    out: Path | None = None,
    *,
    axes: AxisChoice | None = None,
    force: bool = False,
) -> Path:
    """Write one HTML page from folders of results and return the file.

    Parameters
    ----------
    places
        Folders that distviz wrote, of any kind.
    out
        The file; None is ``report.html`` in the first folder, which is always replaced.
    axes
        Of the distributions, as they are shown first; None decides by the values of each site.
    force
        Replace an existing ``out``.

    Raises
    ------
    RequestError
        If a folder cannot be read, or the file may not be written.
    """
    target = places[0] / "report.html" if out is None else Path(out)
    check_name(target)
    if out is not None:
        check_writable(target)
    if target.is_dir():
        raise RequestError(f"{target} is a folder", "give the name of a file with --out")
    if os.path.lexists(target):
        if out is not None and not force:
            raise RequestError(f"{target} exists", "give another --out, or --force to replace it")
        check_replaceable(target)
        if not _is_page(target):
            raise RequestError(
                f"{target} is no report of distviz and is not replaced", "give another --out"
            )
    return write_page(page_of(places, axes), target)


def _is_page(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(_HEAD)
    return start.lstrip().startswith(b"<!DOCTYPE html>") and " · distviz</title>".encode() in start


def page_of(places: Sequence[Path], axes: AxisChoice | None = None) -> Page:
    """Read folders and return their page, one part each; ``axes`` as of `report_folders`."""
    results = [load(Path(place)) for place in places]
    parts = [_part(one, Path(place), axes) for one, place in zip(results, places, strict=True)]
    if len(parts) == 1:
        return Page(parts[0].title, parts)
    named = [
        replace(part, title=f"{part.title} · {Path(place).resolve().name}")
        for part, place in zip(parts, places, strict=True)
    ]
    runs = _named_runs(results, places)
    together = [overlay_part(runs)] if len(runs) > 1 else []
    return Page(f"{named[0].title} and {len(parts) - 1} more", [*together, *named])


def _named_runs(results: Sequence[Result], places: Sequence[Path]) -> dict[str, Run]:
    """Return the runs that have values, each once, by folder; those of one name are numbered."""
    runs: dict[str, Run] = {}
    found = {Path(place).resolve(): one for one, place in zip(results, places, strict=True)}
    for folder, result in found.items():
        if isinstance(result, Run) and result.keys:
            is_known = folder.name in runs
            runs[f"{folder.name} ({len(runs) + 1})" if is_known else folder.name] = result
    return runs


def _part(result: Result, folder: Path, axes: AxisChoice | None) -> Part:
    """Return the part of a result of any kind."""
    if isinstance(result, Sweep):
        return sweep_part(result)
    if isinstance(result, Allocation):
        return allocation_part(result)
    if isinstance(result, Training):
        return training_part(result, axes)
    if isinstance(result, Comparison):
        return comparison_part(result, str(folder), axes)
    if isinstance(result, Run):
        return run_part(result, _documents(folder), axes)
    if isinstance(result, FillerStudy):
        return filler_part(result, _documents(folder / "count_000"))
    assert isinstance(result, WhatIf)
    return whatif_part(result)


def _documents(folder: Path) -> str | None:
    path = folder / "documents.jsonl"
    return str(path) if path.exists() else None


def write_page(page: Page, target: Path) -> Path:
    """Write a page atomically.

    Raises
    ------
    RequestError
        If the file cannot be written.
    """
    text = render(page)
    try:
        with deferred():
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target) as temporary:
                temporary.write_text(text, encoding="utf-8", newline="\n")
            note_written(target)
    except OSError as error:
        raise RequestError(f"cannot write {target}: {error.strerror or error}") from error
    return target
