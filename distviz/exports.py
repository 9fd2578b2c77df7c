"""Files from a run: the run folder with its figures, and figures and tables in other formats.

Equal runs give equal bytes: no date, no random identifier goes into a file. Nothing here needs
torch.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distviz.errors import RequestError, nearest
from distviz.runs import Run, records, staging
from distviz.sites import Key, parse_layers, parse_sites

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "FIGURE_FORMATS",
    "TABLE_FORMATS",
    "export",
    "export_folder",
    "figure_names",
    "write_run",
]

FIGURE_FORMATS = ("png", "svg", "pdf")
TABLE_FORMATS = ("csv", "parquet", "json")
NO_DATES: dict[str, dict[str, None]] = {
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
            _draw(run, place / "figures", figures, figure_names(run), None)
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
    """Do what ``distviz export`` says: read a run folder and write figures and tables.

    Parameters
    ----------
    folder
        A run folder.
    out
        Where to write; None is ``<folder>-export`` beside it.
    figures, tables
        Formats, comma-separated, or ``none``; None means png, and csv.
    layers, sites
        Which to write, as for ``distviz run``; None means all.
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
        If the folder is not a run, or an option does not fit it.
    """
    kinds = _parse_formats("figures", figures or "png", FIGURE_FORMATS)
    forms = _parse_formats("tables", tables or "csv", TABLE_FORMATS)
    run = Run.load(folder)
    path = Path(folder)
    return export(
        run,
        path.parent / f"{path.resolve().name}-export" if out is None else Path(out),
        figures=kinds,
        tables=forms,
        layers=None if layers is None else parse_layers(layers, _layer_count(run)),
        sites=None if sites is None else parse_sites(sites),
        log=log,
        force=force,
    )


def export(
    run: Run,
    out: Path,
    *,
    figures: Sequence[str] = ("png",),
    tables: Sequence[str] = ("csv",),
    layers: Iterable[int] | None = None,
    sites: Iterable[str] | None = None,
    log: bool | None = None,
    force: bool = False,
) -> list[Path]:
    """Write figures and tables of a run into one folder, which may hold other files.

    Every file is complete, or not there. Arguments as of `export_folder`, already parsed.

    Raises
    ------
    RequestError
        If a file exists and ``force`` is off, if the run holds nothing of what is asked for, or
        if there is nothing to write.
    """
    _check_formats("figures", figures, FIGURE_FORMATS)
    _check_formats("tables", tables, TABLE_FORMATS)
    if not figures and not tables:
        raise RequestError("there is nothing to write", "give --figures or --tables a format")
    part = _select(run, layers, sites)
    names = figure_names(run)
    chosen = {key: names[key] for key in part.places()}
    place = Path(out)
    if place.exists() and not place.is_dir():
        raise RequestError(f"{place} is a file", "give another folder with --out")
    planned = [
        f"{name}.{kind}" for kind in figures for name in [*chosen.values(), *_overviews(part)]
    ]
    planned += [f"{name}.{kind}" for kind in tables for name in part.tables()]
    there = [name for name in planned if (place / name).exists()]
    if there and not force:
        raise RequestError(
            f"{place / there[0]} exists", "give another --out, or --force to replace it"
        )
    return _write_all(part, place, planned, figures, tables, chosen, log)


def _write_all(
    run: Run,
    out: Path,
    planned: list[str],
    figures: Sequence[str],
    tables: Sequence[str],
    chosen: dict[Key, str],
    log: bool | None,
) -> list[Path]:
    """Write beside the place, then move every file in."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export.", dir=out) as beside:
            _draw(run, Path(beside), figures, chosen, log)
            for name, table in run.tables().items() if tables else ():
                for kind in tables:
                    _WRITERS[kind](table, Path(beside) / f"{name}.{kind}")
            for name in planned:
                (Path(beside) / name).replace(out / name)
    except OSError as error:
        raise RequestError(f"cannot write to {out}: {error.strerror or error}") from error
    return [out / name for name in planned]


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


def figure_names(run: Run) -> dict[Key, str]:
    """Return the file name of each place's figure, without its ending.

    ``layer_000_act``; with the stack before it unless that is the decoder, and with the module's
    path behind it where a layer has several modules at a site.
    """
    plain = {key: _plain_name(key) for key in run.places()}
    known = list(plain.values())
    return {
        key: name if known.count(name) == 1 else f"{name}_{_safe(key.module)}"
        for key, name in plain.items()
    }


def _plain_name(key: Key) -> str:
    stack = "" if key.stack == "decoder" else f"{_safe(key.stack)}_"
    if key.layer < 0:
        return f"{stack}outside_{_safe(key.module)}"
    return f"{stack}layer_{key.layer:03d}_{_safe(key.site)}"


def _safe(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or "x"


def _overviews(run: Run) -> dict[str, str]:
    """Return the overviews by file name: ``overview`` for act, or for the first site."""
    sites = list(dict.fromkeys(key.site for key in run.places()))
    main = "act" if "act" in sites else sites[0]
    return {"overview" if site == main else f"overview_{_safe(site)}": site for site in sites}


def _draw(
    run: Run, place: Path, formats: Sequence[str], names: dict[Key, str], log: bool | None
) -> None:
    """Draw every figure once, save it in every format."""
    if not formats:
        return
    from distviz import plots

    for key, name in names.items():
        figure = plots.paired(
            run, key.layer, key.site, module=key.module, log="auto" if log is None else log
        )
        _save(figure, place, name, formats)
    for name, site in _overviews(run).items():
        _save(plots.overview(run, site), place, name, formats)


def _save(figure: Any, place: Path, name: str, formats: Sequence[str]) -> None:
    from distviz.plots import style

    with style.styled():
        for kind in formats:
            figure.savefig(place / f"{name}.{kind}", metadata=NO_DATES[kind])


def _select(run: Run, layers: Iterable[int] | None, sites: Iterable[str] | None) -> Run:
    """Return the part of a run; its tables are cut to the same rows."""
    if layers is None and sites is None:
        if not run.keys:
            raise RequestError("the run holds no distributions")
        return run
    wanted = None if layers is None else set(layers)
    named = None if sites is None else set(sites)
    kept = {
        key: by_class
        for key, by_class in run.sketches.items()
        if (wanted is None or key.layer in wanted) and (named is None or key.site in named)
    }
    if not kept:
        known = ", ".join(dict.fromkeys(key.site for key in run.keys))
        raise RequestError(
            "the run holds none of these layers and sites",
            f"it has layers {', '.join(map(str, sorted({key.layer for key in run.keys})))}; "
            f"sites {known}",
        )
    places = {(key.layer, key.site) for key in kept}
    tables = {
        name: _rows_of(getattr(run, name), places) for name in ("documents", "channels", "plans")
    }
    return Run(run.manifest, kept, **tables, texts=run.texts)


def _rows_of(table: pd.DataFrame, places: set[tuple[int, str]]) -> pd.DataFrame:
    if "layer" not in table:
        return table
    if "site" in table:
        keep = [pair in places for pair in zip(table["layer"], table["site"], strict=True)]
    else:
        keep = table["layer"].isin({layer for layer, _ in places}).tolist()
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
