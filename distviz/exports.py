"""Files from a result: its folder with figures, and exports in other formats.

Equal runs give equal bytes: no date, no random identifier goes into a file. Nothing here needs
torch.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distviz.drawings import Drawings, drawings, figure_names
from distviz.errors import RequestError, nearest
from distviz.folders import Result, load
from distviz.runs import records, staging
from distviz.sites import parse_layers, parse_sites

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "FIGURE_FORMATS",
    "TABLE_FORMATS",
    "export",
    "export_folder",
    "figure_names",
    "save_figure",
    "write_folder",
]

FIGURE_FORMATS = ("png", "svg", "pdf")
TABLE_FORMATS = ("csv", "parquet", "json")
_NO_DATES: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def write_folder(
    result: Result, out: Path, *, figures: Sequence[str] = ("png",), force: bool = False
) -> Path:
    """Write the folder of a result with its figures: complete, or not at all.

    Parameters
    ----------
    result
        A run, a comparison, a filler study.
    out
        The folder.
    figures
        Formats, of `FIGURE_FORMATS`; none leaves the figures out.
    force
        Whether a result that is there already is replaced.

    Returns
    -------
    ``out``.

    Raises
    ------
    RequestError
        If the folder may not be written, or a format is unknown.
    """
    _check_formats("figures", figures, FIGURE_FORMATS)
    with staging(Path(out), force=force) as place:
        result.write(place)
        if figures:
            (place / "figures").mkdir()
            _draw(drawings(result), place / "figures", figures)
    return Path(out)


def export_folder(
    folder: Path,
    out: Path | None = None,
    *,
    figures: str | None = None,
    tables: str | None = None,
    layers: str | None = None,
    sites: str | None = None,
    log: bool | None = None,
    force: bool = False,
) -> list[Path]:
    """Do what ``distviz export`` says: read a folder and write figures and tables.

    Parameters
    ----------
    folder
        A folder that distviz wrote, of any kind.
    out
        Where to write; None is ``<folder>-export`` beside it.
    figures, tables
        Formats, comma-separated, or ``none``; None means png, and csv.
    layers, sites
        Which to write, as for ``distviz run`` (layers of A in a comparison); None means all.
    log
        Scale of the counts; None decides figure by figure.
    force
        Whether files that are there already are replaced.

    Returns
    -------
    The files, all in one folder.

    Raises
    ------
    RequestError
        If the folder is no result, or an option does not fit it.
    """
    kinds = _parse_formats("figures", figures or "png", FIGURE_FORMATS)
    forms = _parse_formats("tables", tables or "csv", TABLE_FORMATS)
    result = load(folder)
    path = Path(folder)
    return export(
        result,
        path.parent / f"{path.resolve().name}-export" if out is None else Path(out),
        figures=kinds,
        tables=forms,
        layers=None if layers is None else parse_layers(layers, result.n_layers),
        sites=None if sites is None else parse_sites(sites),
        log=log,
        force=force,
    )


def export(
    result: Result,
    out: Path,
    *,
    figures: Sequence[str] = ("png",),
    tables: Sequence[str] = ("csv",),
    layers: Iterable[int] | None = None,
    sites: Iterable[str] | None = None,
    log: bool | None = None,
    force: bool = False,
) -> list[Path]:
    """Write figures and tables of a result into one folder, which may hold other files.

    Every file is complete, or not there. Arguments as of `export_folder`, already parsed.

    Raises
    ------
    RequestError
        If a file exists and ``force`` is off, if nothing of what is asked for is there, or if
        there is nothing to write.
    """
    _check_formats("figures", figures, FIGURE_FORMATS)
    _check_formats("tables", tables, TABLE_FORMATS)
    if not figures and not tables:
        raise RequestError("there is nothing to write", "give --figures or --tables a format")
    part = result.select(layers, sites)
    drawn = drawings(part, log, result) if figures else {}
    place = Path(out)
    if place.exists() and not place.is_dir():
        raise RequestError(f"{place} is a file", "give another folder with --out")
    written = part.tables() if tables else {}
    planned = [f"{name}.{kind}" for kind in figures for name in drawn]
    planned += [f"{name}.{kind}" for kind in tables for name in written]
    there = [name for name in planned if (place / name).exists()]
    if there and not force:
        raise RequestError(
            f"{place / there[0]} exists", "give another --out, or --force to replace it"
        )
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export.", dir=place) as beside:
            _draw(drawn, Path(beside), figures)
            for name, table in written.items():
                for kind in tables:
                    _WRITERS[kind](table, Path(beside) / f"{name}.{kind}")
            for name in planned:
                (Path(beside) / name).replace(place / name)
    except OSError as error:
        raise RequestError(f"cannot write to {place}: {error.strerror or error}") from error
    return [place / name for name in planned]


def _write_csv(table: pd.DataFrame, path: Path) -> None:
    table.to_csv(path, index=False, lineterminator="\n")


def _write_parquet(table: pd.DataFrame, path: Path) -> None:
    table.to_parquet(path, index=False)


def _write_json(table: pd.DataFrame, path: Path) -> None:
    text = json.dumps(records(table), indent=1, ensure_ascii=False, allow_nan=False)
    path.write_text(f"{text}\n", encoding="utf-8")


_WRITERS: dict[str, Callable[[Any, Path], None]] = {
    "csv": _write_csv,
    "parquet": _write_parquet,
    "json": _write_json,
}


def _draw(figures: Drawings, place: Path, formats: Sequence[str]) -> None:
    """Draw every figure once, save it in every format."""
    for name, draw in figures.items():
        save_figure(draw(), place, name, formats)


def save_figure(figure: Any, place: Path, name: str, formats: Sequence[str]) -> None:
    """Save a figure in every format; equal figures give equal bytes."""
    from distviz.plots import style

    with style.styled():
        for kind in formats:
            figure.savefig(place / f"{name}.{kind}", metadata=_NO_DATES[kind])


def _parse_formats(option: str, text: str, allowed: Sequence[str]) -> list[str]:
    if text.strip().lower() == "none":
        return []
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    _check_formats(option, names, allowed)
    return list(dict.fromkeys(names))


def _check_formats(option: str, names: Sequence[str], allowed: Sequence[str]) -> None:
    for name in names:
        if name not in allowed:
            raise RequestError(
                f"--{option} {name}: unknown format{nearest(name, allowed)}",
                f"allowed: {', '.join(allowed)}, or none",
            )
