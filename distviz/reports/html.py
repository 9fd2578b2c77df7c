"""From folders to one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distviz.errors import RequestError
from distviz.reports.comparison import comparison_part
from distviz.reports.filler import filler_part
from distviz.reports.page import Page, Part
from distviz.reports.rendering import render
from distviz.reports.run import run_part
from distviz.reports.sweep import sweep_part
from distviz.reports.whatif import whatif_part
from distviz.results import Comparison, FillerStudy, Run, Sweep, load, replacing

__all__ = ["page_of", "report_folders", "write_page"]


def report_folders(places: Sequence[Path], out: Path | None = None, *, force: bool = False) -> Path:
    """Do what ``distviz report`` says: read folders, write one page.

    Parameters
    ----------
    places
        Folders that distviz wrote, of any kind.
    out
        The file; None is ``report.html`` in the first folder.
    force
        Whether a file that is there already is replaced; one inside a folder always is.

    Returns
    -------
    The file.

    Raises
    ------
    RequestError
        If a folder cannot be read, or the file may not be written.
    """
    target = places[0] / "report.html" if out is None else Path(out)
    if target.is_dir():
        raise RequestError(f"{target} is a folder", "give the name of a file with --out")
    if out is not None and target.exists() and not force:
        raise RequestError(f"{target} exists", "give another --out, or --force to replace it")
    return write_page(page_of(places), target)


def page_of(places: Sequence[Path]) -> Page:
    """Read folders and return what the page says of them, one part each."""
    parts = [_part(Path(place), len(places) > 1) for place in places]
    title = parts[0].title if len(parts) == 1 else f"{parts[0].title} and {len(parts) - 1} more"
    return Page(title, parts)


def _part(folder: Path, is_one_of_several: bool) -> Part:
    """Read a folder of any kind and say what is in it."""
    name = folder.resolve().name if is_one_of_several else ""
    measured = load(folder)
    if isinstance(measured, Sweep):
        return sweep_part(measured, name)
    if isinstance(measured, Comparison):
        return comparison_part(measured, name, str(folder))
    if isinstance(measured, Run):
        return run_part(measured, name, _texts(folder))
    if isinstance(measured, FillerStudy):
        return filler_part(measured, name, _texts(folder / "count_000"))
    return whatif_part(measured, name)


def _texts(folder: Path) -> str | None:
    kept = folder / "documents.jsonl"
    return str(kept) if kept.exists() else None


def write_page(page: Page, target: Path) -> Path:
    """Write a page: complete, or not at all.

    Raises
    ------
    RequestError
        If the file cannot be written.
    """
    text = render(page)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise RequestError(f"cannot write {target}: {error.strerror or error}") from error
    return target
