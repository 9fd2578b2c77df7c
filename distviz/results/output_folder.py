"""Which folder may be written or replaced: a new one, an empty one, or one that distviz wrote."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path

from distviz.errors import RequestError
from distviz.parsing import parse_json
from distviz.results.staging_folder import remove_abandoned

MANIFESTS = (
    *("run.json", "comparison.json", "filler.json", "sweep.json", "allocation.json"),
    *("whatif.json", "training.json"),
)
_CSV = (
    *("stats", "histograms", "plans", "classes", "experts", "compare", "inference", "channels"),
    *("filler", "attention", "positions", "sweep", "sweep_seeds", "whatif", "extremes", "formats"),
    *("allocation", "uniform", "allocation_costs", "allocation_curve", "timeline", "drift"),
    *("elementwise", "elementwise_channels", "elementwise_tokens"),
)
_PARQUET = (
    *("documents", "channels", "counts", "tokens", "output_documents", "token_groups"),
    "elementwise_documents",
)
_FILES = {
    *MANIFESTS,
    *(f"{name}.csv" for name in _CSV),
    *(f"{name}.parquet" for name in _PARQUET),
    *("documents.jsonl", "report.html", "training.json.tmp", "timeline.csv.tmp"),
    *(".DS_Store", "Thumbs.db"),  # file managers write them
}
"""Names of the files of a result."""
_FIGURES, _DRAWN = "figures", (".png", ".svg", ".pdf")


def result_at(path: Path) -> Path | None:
    """Return the folder of a result that a path is, or whose manifest it is; None if it is none."""
    folder = path.parent if path.name in MANIFESTS else path
    return folder if any(_is_manifest(folder / name) for name in MANIFESTS) else None


def runs_inside(folder: Path) -> list[Path]:
    """Return the runs in a folder that is no run itself, such as the sides of a comparison."""
    if not folder.is_dir() or (folder / "run.json").exists():
        return []
    found = sorted(path.parent for path in folder.glob("*/run.json"))
    return sorted(found, key=lambda path: (len(path.name), path.name))


def advice_for(path: Path, noun: str = "result of distviz") -> str:
    """Return what to do with a path that is not the folder of a result."""
    folder = result_at(path)
    if folder is not None and folder != path:
        return f"give its folder: {folder}"
    if noun == "run" and (inside := runs_inside(path)):
        return f"give one of its runs: {', '.join(map(str, inside[:4]))}"
    is_gguf = path.suffix == ".gguf" and path.is_file()
    if is_gguf or (path / "config.json").is_file():
        return f"{path} is a model; measure it: distviz run {shlex.quote(str(path))}"
    return f"give the folder of a {noun}"


def check_output(out: Path, *, force: bool) -> None:
    """Refuse an output folder that may not be written, before anything is measured.

    Raises
    ------
    RequestError
        If it exists and ``force`` is off, if it is a link or has no name of its own, if it is not
        a result of distviz or holds other files, or if its parent is a file or cannot be written.
    """
    check_name(out)
    if out.is_symlink():
        raise RequestError(f"{out} is a link and is not replaced", "give the folder itself")
    remove_abandoned(out.parent)
    if out.exists():
        _check_existing(out, force=force)
    try:
        whole = out.absolute()
    except FileNotFoundError:
        raise RequestError("the current folder was deleted", "change to another folder") from None
    check_writable(whole)


def check_writable(path: Path) -> None:
    """Raise a RequestError where a file or folder cannot be created, now rather than at the end.

    A nameless temporary file in the nearest folder that exists asks the file system itself.
    """
    parent = next(place for place in path.absolute().parents if os.path.lexists(place))
    if not parent.is_dir():
        raise RequestError(f"{parent} is a file, so {path} cannot be created", "give another --out")
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise RequestError(f"cannot write to {parent}: {reason}", "give another --out") from error


def check_name(path: Path) -> None:
    """Raise a RequestError where a path to write ends in no name, such as ``.`` or ``q/..``."""
    if path.name in ("", ".."):
        raise RequestError(f"--out '{path}' ends in no name", "give the name of what to write")


def _check_existing(out: Path, *, force: bool) -> None:
    if not out.is_dir():
        raise RequestError(f"{out} is a file", "give another folder with --out")
    if not any(out.iterdir()):
        return
    if not force:
        raise RequestError(f"{out} exists", "give another --out, or --force to replace it")
    if not any(_is_manifest(out / name) for name in MANIFESTS):
        raise RequestError(
            f"{out} holds files that distviz did not write and is not replaced",
            "give another folder with --out",
        )
    other = next(_other_files(out), None)
    if other is not None:
        raise RequestError(
            f"{other} was not written by distviz, so {out} is not replaced",
            "move it to another place, or give another folder with --out",
        )


def _is_manifest(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        data = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and "schema_version" in data


def _other_files(out: Path) -> Iterator[Path]:
    """Yield files and links that distviz does not write, by their names."""
    for place, folders, files in os.walk(out):
        folder = Path(place)
        is_drawn = folder.name == _FIGURES and folder != out
        for name in files:
            if name not in _FILES and not (is_drawn and name.endswith(_DRAWN)):
                yield folder / name
        yield from (folder / name for name in (*folders, *files) if (folder / name).is_symlink())


def check_replaceable(path: Path) -> None:
    """Raise a RequestError where a file to replace is a folder, a link or a device."""
    if path.is_symlink() or not path.is_file():
        kind = "a link" if path.is_symlink() else "not a regular file"
        raise RequestError(f"{path} is {kind} and is not replaced", "give another --out")
