"""Folders of results: which kind a folder is, its manifest, and writing it whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from distviz.errors import MeasurementError, RequestError, first_line
from distviz.interrupts import deferred, note_written
from distviz.results.output_folder import check_output
from distviz.results.staging_folder import StagingFolder, remove_abandoned

SCHEMA_VERSION = 2
"""Changes whenever the meaning of a file changes; other versions are refused."""

RUN = "run.json"
COMPARISON = "comparison.json"
FILLER = "filler.json"
WHATIF = "whatif.json"
SWEEP = "sweep.json"


def read_manifest(path: Path, name: str = RUN, kind: str = "run") -> dict[str, Any]:
    """Read the manifest of a folder, such as ``run.json``, and check its schema version.

    Raises
    ------
    RequestError
        If the folder is of another kind, the file is damaged, or its version is not supported.
    """
    if not path.is_dir():
        raise RequestError(f"{path} is not a folder", f"give the folder of a {kind}")
    if not (path / name).exists():
        raise RequestError(f"{path} is not a {kind}: it has no {name}")
    try:
        manifest = json.loads((path / name).read_text(encoding="utf-8"))
        version = manifest["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{path / name} is damaged: {error}") from error
    if version != SCHEMA_VERSION:
        raise RequestError(
            f"{path} was written with schema version {version}; "
            f"this version of distviz reads {SCHEMA_VERSION}",
            "measure again",
        )
    return dict(manifest)


def write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest as JSON."""
    text = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(f"{text}\n", encoding="utf-8")


@contextmanager
def staging(out: Path, *, force: bool = False, merges: bool = False) -> Iterator[Path]:
    """Yield a new folder, which replaces ``out`` at the end.

    After any error, Ctrl-C included, the new folder is removed and ``out`` is unchanged. With
    ``merges``, an ``out`` that exists keeps its other files.

    Raises
    ------
    RequestError
        If the folder may not be written, see `check_output`.
    MeasurementError
        If writing fails, for instance because the disk is full.
    """
    if not merges:
        check_output(out, force=force)
    is_merged = merges and out.exists()
    parent = out if is_merged else out.parent
    missing = [place for place in (parent, *parent.parents) if not place.exists()]
    stage = None
    try:
        with deferred():
            stage = _staging_folder(parent)
        yield stage.new
        with deferred():
            (stage.merge if is_merged else stage.replace)(out)
            note_written(out)
            stage.remove()
    except BaseException as error:
        with deferred():
            if stage is not None:
                stage.remove()
            for place in missing:
                with suppress(OSError):
                    place.rmdir()
        if not isinstance(error, OSError):
            raise
        reason = error.strerror or first_line(error)
        raise MeasurementError(
            f"{out} cannot be written: {reason}", "free space there, or give another --out"
        ) from error


def _staging_folder(parent: Path) -> StagingFolder:
    try:
        parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(parent)
        return StagingFolder.create(parent)
    except OSError as error:
        raise RequestError(f"cannot write to {parent}: {error.strerror}") from error


@contextmanager
def replacing(path: Path, *, is_durable: bool = False) -> Iterator[Path]:
    """Yield the path of a temporary file (``path`` and ``.tmp``), which then replaces ``path``.

    After any error the temporary file is removed and ``path`` is unchanged. With ``is_durable`` the
    content and the name are flushed to the disk, so that they survive a power failure.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        yield temporary
        if is_durable:
            _flush(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if is_durable and os.name == "posix":
        _flush(path.parent)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
