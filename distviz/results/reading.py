"""Files of a result's folder: read once, checked against schema and checksum.

Nothing of a file is believed: it may be damaged, changed by hand, or of another run.
"""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from distviz.errors import RequestError, first_line
from distviz.output import first_of
from distviz.parsing import parse_json
from distviz.results.arrow_tables import parse_table
from distviz.results.columns import Row
from distviz.results.output_folder import advice_for
from distviz.results.schema import SCHEMA_VERSION, Manifest, check

CHECKSUMS = "checksums"
"""Field of a manifest: SHA-256 of every other file by name, of the manifests of inner folders."""
OWN_CHECKSUM = "checksum"
"""Field of a manifest: SHA-256 of all its other fields."""
_SHOWN = 3


def is_there(path: Path) -> bool:
    """Whether a path exists; false for one that no file can have, such as a very long name."""
    try:
        return path.exists()
    except OSError:
        return False


def damaged(path: Path, reason: str | Exception) -> RequestError:
    """Return the error for a file that cannot be used."""
    text = reason if isinstance(reason, str) else first_line(reason)
    return RequestError(f"{path} is damaged: {text}", "measure again, or restore the file")


def read_file(path: Path) -> bytes:
    """Read a regular file.

    Raises
    ------
    RequestError
        If it is missing, no regular file, or cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise damaged(path, "it is not a regular file")
        return path.read_bytes()
    except FileNotFoundError:
        raise RequestError(f"{path} is missing, the folder is not complete") from None
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from error


def digest(data: bytes) -> str:
    """Return the SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file of any size, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def own_digest(manifest: dict[str, Any]) -> str:
    """Return the checksum of a manifest's content, however it is formatted."""
    content = {name: value for name, value in manifest.items() if name != OWN_CHECKSUM}
    return digest(json.dumps(content, ensure_ascii=False, sort_keys=True).encode())


class Folder:
    """The folder of a result.

    Parameters
    ----------
    path
        The folder.
    name, noun
        Its manifest, and what messages call the folder.
    schema
        Of the manifest.

    Attributes
    ----------
    manifest
        Content of the manifest, without checksums.
    checksums
        Of the other files, by name; empty in a folder of an earlier version.
    changed
        Names of the files that are not as they were written, so far.

    Raises
    ------
    RequestError
        If the folder is of another kind, the manifest is damaged, or its version not supported.
    """

    def __init__(self, path: Path, name: str, noun: str, schema: type[Manifest] = Manifest) -> None:
        if not is_there(path) or not path.is_dir():
            what = "is not a folder" if is_there(path) else "does not exist"
            raise RequestError(f"{path} {what}", advice_for(path, noun))
        if not is_there(path / name):
            raise RequestError(f"{path} is not a {noun}: it has no {name}", advice_for(path, noun))
        self.path, self.name = path, name
        self.changed: dict[str, None] = {}
        self._read: dict[str, str] = {}
        content = read_file(path / name)
        try:
            self.manifest = self._checked(parse_json(content), schema)
            whole = own_digest(self.manifest)
        except ValueError as error:
            raise damaged(path / name, error) from error
        own = self.manifest.pop(OWN_CHECKSUM, None)
        self.checksums: dict[str, str] = self.manifest.pop(CHECKSUMS, {})
        self._read[name] = digest(content)
        if own != whole and (own is not None or self.checksums):
            self.changed[name] = None

    def _checked(self, manifest: Any, schema: type[Manifest]) -> dict[str, Any]:
        if not isinstance(manifest, dict) or "schema_version" not in manifest:
            raise ValueError("it has no schema_version")
        version = manifest["schema_version"]
        if isinstance(version, bool) or version != SCHEMA_VERSION:
            is_newer = isinstance(version, int) and version > SCHEMA_VERSION
            raise RequestError(
                f"{self.path} was written with schema version {version}; "
                f"this version of distviz reads {SCHEMA_VERSION}",
                "install a newer distviz" if is_newer else "measure again",
            )
        check(manifest, schema)
        return manifest

    def read(self, name: str) -> bytes:
        """Read a file, and note whether it is as it was written; errors as of `read_file`.

        Of a file that grows, what was written after the manifest is left out.
        """
        data = read_file(self.path / name)[: (self.manifest.get("sizes") or {}).get(name)]
        self._read[name] = digest(data)
        return data

    def has(self, name: str) -> bool:
        """Whether the folder has a file."""
        return is_there(self.path / name)

    def table(self, name: str, row: type[Row]) -> pd.DataFrame:
        """Read a CSV or Parquet file as it was written; empty strings are empty, not missing.

        Raises
        ------
        RequestError
            If the file is missing, damaged, or contradicts its schema; it is named.
        """
        data = self.read(name)
        try:
            return parse_table(data, row, is_parquet=name.endswith(".parquet"))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self.damaged(name, error) from error

    def damaged(self, name: str, reason: str | Exception) -> RequestError:
        """Return the error for a file of the folder that cannot be used."""
        return damaged(self.path / name, reason)

    def changes(self) -> tuple[str, ...]:
        """Return a warning that names the changed files; none if all are as they were written."""
        for name, expected in self.checksums.items():
            if self._digest_of(name) != expected:
                self.changed[name] = None
        names = [*self.changed]
        warning = (
            f"{self.path}: {first_of(names, _SHOWN)} changed after distviz wrote the "
            "folder, the numbers may not agree"
        )
        return (warning,) if names else ()

    def _digest_of(self, name: str) -> str | None:
        path = self.path / name
        if name not in self._read:
            try:
                if not stat.S_ISREG(path.stat().st_mode):
                    return None
                self._read[name] = file_digest(path)
            except OSError:
                return None
        return self._read[name]
