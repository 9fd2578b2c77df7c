"""Fingerprints of what no setting says: the content of files that it names, and code."""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def fingerprint_of(values: Iterable[Any]) -> str:
    """Return ``"sha256:..."`` over plain values, and over the files that define functions."""
    digest = hashlib.sha256()
    for value in values:
        text = code_fingerprint([value]) if callable(value) else repr(value)
        digest.update(f"{text}\0".encode())
    return f"sha256:{digest.hexdigest()}"


def code_fingerprint(objects: Iterable[Any], known: Iterable[str] = ()) -> str:
    """Return ``"sha256:..."`` over the files that define functions, objects and classes.

    What these files import is not included, nor packages that are ``known`` by their version.
    Empty if no file is left.
    """
    names = {name for found in objects for name in _modules_of(found)}
    files = {
        name: path
        for name in names
        if name.partition(".")[0] not in known and (path := _file_of(name)) is not None
    }
    if not files:
        return ""
    digest = hashlib.sha256()
    for name in sorted(files):
        content = files[name].read_bytes()
        digest.update(f"{len(content)}\0".encode() + content)
    return f"sha256:{digest.hexdigest()}"


def _modules_of(found: Any) -> set[str]:
    """Return the modules that define a function or class, or the class of an object."""
    inner = found.func if isinstance(found, functools.partial) else None
    inner = getattr(found, "__wrapped__", inner)
    names = {str(getattr(found, "__module__", None))}
    return names if inner is None else names | _modules_of(inner)


def _file_of(name: str) -> Path | None:
    path = getattr(sys.modules.get(name), "__file__", None)
    return Path(path) if path is not None and Path(path).is_file() else None
