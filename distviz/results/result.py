"""The base of all results: a manifest and tables, which are saved in a folder and loaded again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import pandas as pd

from distviz.results.storage import read_manifest, staging, write_manifest
from distviz.results.tables import choose_places, read_table, rows_at


@dataclass(frozen=True)
class Result(ABC):
    """A run, a comparison or the result of another study.

    Attributes
    ----------
    manifest
        Content of the folder's JSON file; ``kind`` names the kind of result.
    """

    FILE: ClassVar[str]
    """Name of the manifest file."""
    NOUN: ClassVar[str]
    """What messages call the folder."""
    TABLES: ClassVar[dict[str, Collection[str]]]
    """File name of each table that is loaded -> columns that it must have."""
    COMPRESSION: ClassVar[Literal["snappy", "zstd"]] = "snappy"
    """Of Parquet files."""

    manifest: dict[str, Any]

    @property
    @abstractmethod
    def n_layers(self) -> int:
        """The number of layers that can be selected."""

    @abstractmethod
    def tables(self) -> dict[str, pd.DataFrame]:
        """Return every table by the name of its file."""

    @abstractmethod
    def summary(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""

    def _places(self) -> Iterable[tuple[int, str]]:
        """Return the (layer, site) pairs that can be selected."""
        return ()

    @classmethod
    @abstractmethod
    def _from_folder(
        cls, folder: Path, manifest: dict[str, Any], tables: Sequence[pd.DataFrame]
    ) -> Self:
        """Build the result from its manifest, the tables in the order of `TABLES`, other files."""

    def select(
        self, layers: Iterable[int] | None = None, sites: Iterable[str] | None = None
    ) -> Self:
        """Return the part at some layers and sites, its tables included; None selects all.

        Raises
        ------
        RequestError
            If the result has none of them.
        """
        return self._at(choose_places(self._places(), layers, sites, self.NOUN))

    def _at(self, places: set[tuple[int, str]]) -> Self:
        cut: dict[str, Any] = {}
        for field in fields(self):
            if isinstance(table := getattr(self, field.name), pd.DataFrame):
                cut[field.name] = rows_at(table, places)
        return replace(self, **cut)

    def write(self, folder: Path) -> None:
        """Write every file but the figures into an existing folder (not atomic, see `save`)."""
        for name, table in self.tables().items():
            if f"{name}.parquet" in self.TABLES:
                path = folder / f"{name}.parquet"
                table.to_parquet(path, index=False, compression=self.COMPRESSION)
            else:
                table.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
        write_manifest(folder / self.FILE, self.manifest)

    def save(self, folder: str | Path, *, force: bool = False) -> Path:
        """Write the folder without figures: complete, or not at all.

        Raises
        ------
        RequestError
            If the folder exists and ``force`` is off, or holds files that distviz did not write.
        """
        with staging(Path(folder), force=force) as place:
            self.write(place)
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a folder.

        Raises
        ------
        RequestError
            If it does not exist, is of another kind or schema version, or has a missing or
            damaged file, which is named.
        """
        path = Path(folder)
        manifest = read_manifest(path, cls.FILE, cls.NOUN)
        tables = [read_table(path / name, columns) for name, columns in cls.TABLES.items()]
        return cls._from_folder(path, manifest, tables)


def model_layers(manifest: dict[str, Any]) -> int:
    """Return the number of the model's layers; 0 if the manifest does not contain it."""
    number = (manifest.get("model") or {}).get("layers")
    return number if isinstance(number, int) else 0
