"""Files of a result: its folder with figures, and exports in other formats.

Equal results give equal bytes: no file has a date or a random identifier.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distviz.errors import RequestError, nearest
from distviz.option import no_effect
from distviz.parsing import word_list
from distviz.plots import AxisChoice, FigureSpecs, figure_specs
from distviz.results import Result, check_replaceable, check_writable, load, records, staging
from distviz.settings import FIGURE_FORMATS, OPTIONS, TABLE_FORMATS
from distviz.sites import parse_layers, parse_sites

if TYPE_CHECKING:
    import pandas as pd

_SAVED: dict[str, dict[str, Any]] = {
    # At the usual level 6, a file is 1 % smaller and takes a quarter longer.
    "png": {"metadata": {"Software": None}, "pil_kwargs": {"compress_level": 4}},
    "svg": {"metadata": {"Date": None, "Creator": None}},
    "pdf": {"metadata": {"CreationDate": None, "Creator": None, "Producer": None}},
}


def write_folder(
    result: Result,
    out: Path,
    *,
    figures: Sequence[str] = ("png",),
    width: str | None = None,
    axes: AxisChoice | None = None,
    force: bool = False,
) -> Path:
    """Write the folder of a result with its figures, atomically, and return it.

    Parameters
    ----------
    result
        A run, a comparison or the result of another study.
    out
        The folder.
    figures
        Formats, of `FIGURE_FORMATS`; none leaves the figures out.
    width
        ``"single"`` or ``"double"``, the columns of a paper; None is for a screen.
    axes
        Of distributions; None decides for each site.
    force
        Replace an existing result.

    Raises
    ------
    RequestError
        If the folder may not be written, or a format is unknown.
    """
    _check_formats("figures", figures, FIGURE_FORMATS)
    OPTIONS["figure_width"].check(width)
    with staging(Path(out), force=force) as place:
        result.write(place)
        if figures:
            (place / "figures").mkdir()
            _draw(figure_specs(result, axes), place / "figures", figures, width)
    return Path(out)


def export_folder(
    folder: Path,
    out: Path | None = None,
    *,
    figure: Sequence[str] | None = None,
    figures: str | None = None,
    tables: str | None = None,
    width: str | None = None,
    layers: str | None = None,
    sites: str | None = None,
    log: bool | None = None,
    x_axis: str = "auto",
    centred: bool = False,
    force: bool = False,
) -> list[Path]:
    """Read a folder and write its figures and tables into one folder; return the files.

    Parameters
    ----------
    folder
        A folder that distviz wrote, of any kind.
    out
        Where to write; None is ``<folder>-export`` beside it.
    figure
        Kinds, such as ``paired``; tables are then written only if given. None means all figures.
    figures, tables
        Formats, comma-separated, or ``none``; None means png and csv.
    width
        ``"single"`` or ``"double"``, the columns of a paper; None is for a screen.
    layers, sites
        As for ``distviz run`` (layers of A in a comparison); None means all.
    log, x_axis, centred
        As of `AxisChoice`.
    force
        Replace existing files.

    Raises
    ------
    RequestError
        If the folder is not a result, or an option does not fit it.
    """
    kinds = _parse_formats("figures", "png" if figures is None else figures, FIGURE_FORMATS)
    forms = _parse_formats(
        "tables", ("none" if figure else "csv") if tables is None else tables, TABLE_FORMATS
    )
    result = load(folder)
    return export(
        result,
        Path(out or Path(folder).parent / f"{Path(folder).resolve().name}-export"),
        only=figure or None,
        figures=kinds,
        tables=forms,
        width=width,
        layers=None if layers is None else parse_layers(layers, result.n_layers),
        sites=None if sites is None else parse_sites(sites, known=result.sites),
        log=log,
        x_axis=x_axis,
        centred=centred,
        force=force,
    )


def export(
    result: Result,
    out: Path,
    *,
    only: Sequence[str] | None = None,
    figures: Sequence[str] = ("png",),
    tables: Sequence[str] = ("csv",),
    width: str | None = None,
    layers: Iterable[int] | None = None,
    sites: Iterable[str] | None = None,
    log: bool | None = None,
    x_axis: str = "auto",
    centred: bool = False,
    force: bool = False,
) -> list[Path]:
    """Write figures and tables of a result into one folder, which may hold other files.

    After an error nothing is written. Arguments are those of `export_folder`, parsed; ``only`` are
    the kinds of figures.

    Raises
    ------
    RequestError
        If a file exists and ``force`` is off, the result has nothing of what is requested, or
        there is nothing to write.
    """
    _check_formats("figures", figures, FIGURE_FORMATS)
    _check_formats("tables", tables, TABLE_FORMATS)
    OPTIONS["figure_width"].check(width)
    if not figures:
        _refuse_of_figures(only, width, log, x_axis, centred=centred)
    if not figures and not tables:
        raise RequestError("there is nothing to write", "give --figures or --tables a format")
    part = result.select(layers, sites)
    drawn = (
        _chosen(figure_specs(part, AxisChoice.of(log, x_axis, centred=centred), result), only)
        if figures
        else {}
    )
    place = Path(out)
    if place.exists() and not place.is_dir():
        raise RequestError(f"{place} is a file", "give another folder with --out")
    check_writable(place)
    if force and place.is_symlink():
        raise RequestError(
            f"{place} is a link, its files are not replaced", "give the folder itself"
        )
    written = part.tables() if tables else {}
    planned = [f"{name}.{kind}" for kind in figures for name in drawn]
    planned += [f"{name}.{kind}" for kind in tables for name in written]
    for path in (place / name for name in planned if os.path.lexists(place / name)):
        if not force:
            raise RequestError(f"{path} exists", "give another --out, or --force to replace it")
        check_replaceable(path)
    with staging(place, merges=True) as new:
        _draw(drawn, new, figures, width)
        for name, table in written.items():
            for kind in tables:
                _write_table(table, new / f"{name}.{kind}")
    return [place / name for name in planned]


def _refuse_of_figures(
    only: Any, width: str | None, log: bool | None, x_axis: str, *, centred: bool
) -> None:
    """Raise a RequestError for an option of figures where none is drawn."""
    if only:
        raise RequestError("--figure needs a format for the figure", "give --format pdf")
    drawing = {"--log": log is True, "--linear": log is False, "--centred": centred}
    drawing |= {"--figure-width": width is not None, "--x-axis": x_axis != "auto"}
    for label, is_given in drawing.items():
        if is_given:
            raise no_effect(label, "without figures")


def _chosen(drawn: FigureSpecs, only: Sequence[str] | None) -> FigureSpecs:
    """Return the figures of some kinds; None means all."""
    if only is None:
        return drawn
    known = list(dict.fromkeys(drawing.kind for drawing in drawn.values()))
    for kind in only:
        if kind not in known:
            raise RequestError(
                f"--figure {kind}: this result has no such figure{nearest(kind, known)}",
                f"it has {', '.join(known)}",
            )
    return {name: drawing for name, drawing in drawn.items() if drawing.kind in only}


def _write_table(table: pd.DataFrame, path: Path) -> None:
    if path.suffix == ".csv":
        table.to_csv(path, index=False, lineterminator="\n")
    elif path.suffix == ".parquet":
        table.to_parquet(path, index=False)
    else:
        text = json.dumps(records(table), indent=1, ensure_ascii=False, allow_nan=False)
        path.write_text(f"{text}\n", encoding="utf-8")


def _draw(
    figures: FigureSpecs, place: Path, formats: Sequence[str], width: str | None = None
) -> None:
    """Draw every figure once and save it in every format."""
    for name, draw in figures.items():
        save_figure(draw(width), place, name, formats, width)


def save_figure(
    figure: Any, place: Path, name: str, formats: Sequence[str], width: str | None = None
) -> None:
    """Save a figure in every format; equal figures give equal bytes."""
    from distviz.plots import styled

    with styled(width):
        for kind in formats:
            figure.savefig(place / f"{name}.{kind}", **_SAVED[kind])


def _parse_formats(option: str, text: str, allowed: Sequence[str]) -> list[str]:
    if text.strip().lower() == "none":
        return []
    names = word_list(text.lower(), f"--{option}")
    _check_formats(option, names, allowed)
    return names


def _check_formats(option: str, names: Sequence[str], allowed: Sequence[str]) -> None:
    for name in names:
        if name not in allowed:
            raise RequestError(
                f"--{option} {name}: unknown format{nearest(name, allowed)}",
                f"allowed: {', '.join(allowed)}, or none",
            )
