"""One HTML file from folders of results."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from distviz.errors import RequestError
from distviz.interrupts import deferred, note_written
from distviz.reports.comparison import comparison_part
from distviz.reports.filler import filler_part
from distviz.reports.page import Page, Part
from distviz.reports.rendering import render
from distviz.reports.run import run_part
from distviz.reports.sweep import sweep_part
from distviz.reports.whatif import whatif_part
from distviz.results import (
    Comparison,
    FillerStudy,
    Run,
    Sweep,
    check_name,
    check_replaceable,
    check_writable,
    load,
    replacing,
)

_HEAD = 1 << 16
"""Bytes in which a page has its title."""


def report_folders(places: Sequence[Path], out: Path | None = None, *, force: bool = False) -> Path:
    """Write one HTML page from folders of results and return the file.

    Parameters
    ----------
    places
        Folders that distviz wrote, of any kind.
    out
        The file; None is ``report.html`` in the first folder, which is always replaced.
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
    return write_page(page_of(places), target)


def _is_page(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(_HEAD)
    return start.lstrip().startswith(b"<!DOCTYPE html>") and " · distviz</title>".encode() in start


def page_of(places: Sequence[Path]) -> Page:
    """Read folders and return their page, one part each."""
    parts = [_part(Path(place)) for place in places]
    if len(parts) == 1:
        return Page(parts[0].title, parts)
    named = [
        replace(part, title=f"{part.title} · {Path(place).resolve().name}")
        for part, place in zip(parts, places, strict=True)
    ]
    return Page(f"{named[0].title} and {len(parts) - 1} more", named)


def _part(folder: Path) -> Part:
    """Read a folder of any kind and return its part of the page."""
    result = load(folder)
    if isinstance(result, Sweep):
        return sweep_part(result)
    if isinstance(result, Comparison):
        return comparison_part(result, str(folder))
    if isinstance(result, Run):
        return run_part(result, _documents(folder))
    if isinstance(result, FillerStudy):
        return filler_part(result, _documents(folder / "count_000"))
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
