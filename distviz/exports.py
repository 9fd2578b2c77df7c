"""Files from a run or comparison: the folder with its figures, and exports in other formats.

Equal runs give equal bytes: no date, no random identifier goes into a file. Nothing here needs
torch.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distviz import comparisons
from distviz.comparisons import Comparison
from distviz.drawings import Drawings, drawings, figure_names, whatif_drawings
from distviz.errors import RequestError, nearest
from distviz.runs import Run, records, staging
from distviz.sites import parse_layers, parse_sites
from distviz.sweep_results import Sweep
from distviz.whatifs import WhatIf

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "FIGURE_FORMATS",
    "TABLE_FORMATS",
    "export",
    "export_folder",
    "figure_names",
    "save_figure",
    "write_comparison",
    "write_run",
    "write_whatif",
]

FIGURE_FORMATS = ("png", "svg", "pdf")
TABLE_FORMATS = ("csv", "parquet", "json")
_NO_DATES: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def write_run(
    run: Run, out: Path, *, figures: Sequence[str] = ("png",), force: bool = False
) -> Path:
    """Write a run folder with its figures: complete, or not at all.

    Parameters
    ----------
    run
        What was measured.
    out
        The folder.
    figures
        Formats, of `FIGURE_FORMATS`; none leaves the figures out.
    force
        Whether a run that is there already is replaced.

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
        run.write(place)
        if figures:
            (place / "figures").mkdir()
            _draw(drawings(run), place / "figures", figures)
    return Path(out)


def write_comparison(
    comparison: Comparison, out: Path, *, figures: Sequence[str] = ("png",), force: bool = False
) -> Path:
    """Write a comparison folder with its figures: complete, or not at all.

    Arguments, result and errors as of `write_run`.
    """
    _check_formats("figures", figures, FIGURE_FORMATS)
    with staging(Path(out), force=force) as place:
        comparison.write(place)
        if figures:
            (place / "figures").mkdir()
            _draw(drawings(comparison), place / "figures", figures)
    return Path(out)


def write_sweep(
    sweep: Sweep, out: Path, *, figures: Sequence[str] = ("png",), force: bool = False
) -> Path:
    """Write a sweep's folder with its figures: complete, or not at all."""
    _check_formats("figures", figures, FIGURE_FORMATS)
    with staging(Path(out), force=force) as place:
        sweep.write(place)
        if figures:
            (place / "figures").mkdir()
            from distviz.plots import swept

            name = str(sweep.manifest["model"]["name"])
            draw = swept.sweep_by_layer if sweep.is_by_layer else swept.sweep_overview
            save_figure(draw(sweep, name), place / "figures", "sweep", figures)
    return Path(out)


def write_whatif(
    asked: WhatIf, out: Path, *, figures: Sequence[str] = ("png",), force: bool = False
) -> Path:
    """Write a whatif folder with its figures: complete, or not at all."""
    _check_formats("figures", figures, FIGURE_FORMATS)
    with staging(Path(out), force=force) as place:
        asked.write(place)
        if figures:
            (place / "figures").mkdir()
            _draw(whatif_drawings(asked), place / "figures", figures)
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
        A run or comparison folder.
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
        If the folder is neither, or an option does not fit it.
    """
    kinds = _parse_formats("figures", figures or "png", FIGURE_FORMATS)
    forms = _parse_formats("tables", tables or "csv", TABLE_FORMATS)
    measured = comparisons.load(folder)
    path = Path(folder)
    first = measured.a if isinstance(measured, Comparison) else measured
    return export(
        measured,
        path.parent / f"{path.resolve().name}-export" if out is None else Path(out),
        figures=kinds,
        tables=forms,
        layers=None if layers is None else parse_layers(layers, _layer_count(first)),
        sites=None if sites is None else parse_sites(sites),
        log=log,
        force=force,
    )


def export(
    measured: Run | Comparison,
    out: Path,
    *,
    figures: Sequence[str] = ("png",),
    tables: Sequence[str] = ("csv",),
    layers: Iterable[int] | None = None,
    sites: Iterable[str] | None = None,
    log: bool | None = None,
    force: bool = False,
) -> list[Path]:
    """Write figures and tables of a run or comparison into one folder, which may hold other files.

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
    part = _select(measured, layers, sites)
    names = figure_names(measured)
    drawn = drawings(part, log, {key: names[key] for key in figure_names(part)}) if figures else {}
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


def _select(
    measured: Run | Comparison, layers: Iterable[int] | None, sites: Iterable[str] | None
) -> Run | Comparison:
    """Return the part of a run or comparison; its tables are cut to the same rows."""
    keys = measured.keys if isinstance(measured, Run) else [pair.a for pair in measured.pairs]
    if layers is None and sites is None:
        if not keys:
            raise RequestError("the run holds no distributions")
        return measured
    wanted = None if layers is None else set(layers)
    named = None if sites is None else set(sites)
    kept = {
        key
        for key in keys
        if (wanted is None or key.layer in wanted) and (named is None or key.site in named)
    }
    if not kept:
        known = ", ".join(dict.fromkeys(key.site for key in keys))
        raise RequestError(
            f"the {'run' if isinstance(measured, Run) else 'comparison'} holds none of these "
            "layers and sites",
            f"it has layers {', '.join(map(str, sorted({key.layer for key in keys})))}; "
            f"sites {known}",
        )
    places = {(key.layer, key.site) for key in kept}
    if isinstance(measured, Comparison):
        pairs = [pair for pair in measured.pairs if pair.a in kept]
        return replace(measured, pairs=pairs, **_cut(measured, _COMPARED, places))
    sketches = {key: by_class for key, by_class in measured.sketches.items() if key in kept}
    return replace(measured, sketches=sketches, **_cut(measured, _MEASURED, places))


_COMPARED = ("table", "inference", "channels", "classes")
_MEASURED = ("documents", "channels", "plans", "experts")


def _cut(measured: Any, names: Sequence[str], places: set[tuple[int, str]]) -> dict[str, Any]:
    return {name: _rows_of(getattr(measured, name), places) for name in names}


def _rows_of(table: pd.DataFrame, places: set[tuple[int, str]]) -> pd.DataFrame:
    column = next((name for name in ("layer", "layer_a") if name in table), None)
    if column is None:
        return table
    if "site" in table:
        keep = [pair in places for pair in zip(table[column], table["site"], strict=True)]
    else:
        keep = table[column].isin({layer for layer, _ in places}).tolist()
    return table[keep].reset_index(drop=True)


def _layer_count(run: Run) -> int:
    """Return how many layers may be asked for."""
    number = (run.manifest.get("model") or {}).get("layers")
    seen = max((key.layer for key in run.keys), default=-1) + 1
    return max(seen, number if isinstance(number, int) else 0)


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
