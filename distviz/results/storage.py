"""Folders of results: which kind a folder is, its manifest, and writing it whole or not at all."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from distviz.errors import MeasurementError, RequestError, first_line
from distviz.interrupts import deferred, note_written
from distviz.results.output_folder import MANIFESTS, check_output
from distviz.results.reading import CHECKSUMS, OWN_CHECKSUM, Folder, file_digest, own_digest
from distviz.results.staging_folder import StagingFolder, remove_abandoned

RUN = "run.json"
COMPARISON = "comparison.json"
FILLER = "filler.json"
WHATIF = "whatif.json"
SWEEP = "sweep.json"
ALLOCATION = "allocation.json"
TRAINING = "training.json"
_TABLES = (".csv", ".parquet", ".jsonl")


def read_manifest(path: Path, name: str = RUN, kind: str = "run") -> dict[str, Any]:
    """Read the manifest of a folder, such as ``run.json``, without its checksums.

    Raises
    ------
    RequestError
        If the folder is of another kind, the file is damaged, or its version is not supported.
    """
    return Folder(path, name, kind).manifest


def write_manifest(
    path: Path, manifest: dict[str, Any], checksums: dict[str, str] | None = None
) -> None:
    """Write a manifest as JSON, with checksums of the tables beside it and of itself.

    ``checksums`` are those of the tables where they are known.
    """
    if checksums is None:
        checksums = {name: file_digest(path.parent / name) for name in _beside(path)}
    content = json.loads(json.dumps(manifest | {CHECKSUMS: checksums}, allow_nan=False))
    content[OWN_CHECKSUM] = own_digest(content)
    text = json.dumps(content, indent=2, ensure_ascii=False)
    path.write_text(f"{text}\n", encoding="utf-8")


def _beside(manifest: Path) -> list[str]:
    """Return the names of the tables of a folder, and of the manifests of folders in it."""
    found = [path for path in manifest.parent.iterdir() if path.suffix in _TABLES]
    found += [path for name in MANIFESTS for path in manifest.parent.glob(f"*/{name}")]
    return sorted(path.relative_to(manifest.parent).as_posix() for path in found)


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
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise MeasurementError(
            f"{out} cannot be written: {reason}",
            f"{'free space there, or ' * is_full}give another --out",
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
