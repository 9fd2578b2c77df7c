"""The base of all results: a manifest and tables, which are saved in a folder and loaded again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import pandas as pd

from distviz.output import counted, without_controls
from distviz.results.columns import Row
from distviz.results.reading import Folder
from distviz.results.schema import Manifest
from distviz.results.storage import staging, write_manifest
from distviz.results.tables import choose_places, rows_at
from distviz.sites import SiteKey
from distviz.stats import checks_types


@dataclass(frozen=True, repr=False)
class Result(ABC):
    """A run, a comparison or the result of another study.

    Attributes
    ----------
    manifest
        Content of the folder's JSON file, without checksums; ``kind`` names the kind of result.
    file_warnings
        Warnings about files that are not as they were written, after loading.
    """

    FILE: ClassVar[str]
    """Name of the manifest file."""
    NOUN: ClassVar[str]
    """What messages call the folder."""
    SCHEMA: ClassVar[type[Manifest]] = Manifest
    """Of the manifest."""
    TABLES: ClassVar[dict[str, type[Row]]]
    """File name of each table that is loaded -> its schema."""
    OPTIONAL: ClassVar[dict[str, type[Row]]] = {}
    """The same for tables that a folder may lack."""
    COMPRESSION: ClassVar[Literal["snappy", "zstd"]] = "snappy"
    """Of Parquet files."""

    manifest: dict[str, Any]
    file_warnings: tuple[str, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        """Escape control characters, such as those in the names of unknown tensors."""
        object.__setattr__(self, "manifest", without_controls(self.manifest))

    @property
    def stated(self) -> dict[str, Any]:
        """The manifest; its warnings include `file_warnings`."""
        if not self.file_warnings:
            return self.manifest
        own = self.manifest.get("warnings", [])
        return self.manifest | {"warnings": [*self.file_warnings, *own]}

    @cached_property
    def derived(self) -> dict[Any, Any]:
        """What others computed from this result and keep with it, under names of their own."""
        return {}

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

    def __repr__(self) -> str:
        """Return a few lines: what was measured, the tables that it has, and its warnings."""
        first = f"{type(self).__name__}: "
        lines = [f"\n{' ' * len(first)}".join(self._measured())]
        sizes = {one.name: getattr(self, one.name) for one in fields(self)}
        rows = [
            f"{name} ({counted(len(table), 'row')})"
            for name, table in sizes.items()
            if isinstance(table, pd.DataFrame) and len(table)
        ]
        lines += [f"tables: {', '.join(rows)}"] * bool(rows)
        if warnings := self.stated.get("warnings"):
            more = f" (and {counted(len(warnings) - 1, 'more warning')})" * (len(warnings) > 1)
            lines.append(f"warning: {warnings[0]}{more}")
        return "\n".join([first + lines[0], *(f"  {line}" for line in lines[1:])])

    def _measured(self) -> list[str]:
        """Return a line for each side that was measured."""
        from distviz.results.labels import measured_line

        return [measured_line(self)]

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        from distviz.reports import result_html

        return result_html(self)

    def _places(self) -> Iterable[tuple[int, str]]:
        """Return the (layer, site) pairs that can be selected."""
        return ()

    @classmethod
    def _optional(cls, folder: Folder, rows: Mapping[str, type[Row]]) -> dict[str, Any]:
        """Return those of some tables that the folder has, by name."""
        found = {name: row for name, row in rows.items() if folder.has(name)}
        return {name.partition(".")[0]: folder.table(name, row) for name, row in found.items()}

    @classmethod
    @abstractmethod
    def _from_folder(cls, folder: Folder, tables: Sequence[pd.DataFrame]) -> Self:
        """Build the result from its manifest, the tables in the order of `TABLES`, other files.

        `file_warnings` is asked from the folder after the last file is read.
        """

    @checks_types
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

    @property
    def sites(self) -> list[str]:
        """The sites that can be selected."""
        return list(dict.fromkeys(site for _, site in self._places()))

    def _at(self, places: set[tuple[int, str]]) -> Self:
        cut: dict[str, Any] = {}
        for one in fields(self):
            if isinstance(table := getattr(self, one.name), pd.DataFrame):
                cut[one.name] = rows_at(table, places)
        return replace(self, **cut)

    def write(self, folder: Path) -> None:
        """Write every file but the figures into an existing folder (not atomic, see `save`)."""
        self._write_files(folder)
        write_manifest(folder / self.FILE, self.stated)

    def _write_files(self, folder: Path) -> None:
        """Write every file but the figures and the manifest, which has the checksums of all."""
        for name, table in self.tables().items():
            if f"{name}.parquet" in {**self.TABLES, **self.OPTIONAL}:
                path = folder / f"{name}.parquet"
                options: dict[str, Any] = {"write_page_checksum": True}
                table.to_parquet(path, index=False, compression=self.COMPRESSION, **options)
            else:
                table.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")

    @checks_types
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
    @checks_types
    def load(cls, folder: str | Path) -> Self:
        """Read a folder.

        Raises
        ------
        RequestError
            If it does not exist, is of another kind or schema version, or has a missing or
            damaged file, which is named.
        """
        read = Folder(Path(folder), cls.FILE, cls.NOUN, cls.SCHEMA)
        tables = [read.table(name, row) for name, row in cls.TABLES.items()]
        return cls._from_folder(read, tables)


def model_layers(manifest: dict[str, Any]) -> int:
    """Return the number of the model's layers; 0 if the manifest does not contain it."""
    number = (manifest.get("model") or {}).get("layers")
    return number if isinstance(number, int) else 0


class ByKeys(ABC):
    """What results have in common whose distributions have keys."""

    manifest: dict[str, Any]

    @property
    @abstractmethod
    def keys(self) -> list[SiteKey]:
        """The keys of all distributions."""

    @property
    def n_layers(self) -> int:
        """The number of layers that can be selected, the model's, or up to the last observed."""
        last = max((key.layer for key in self.keys), default=-1)
        return max(last + 1, model_layers(self.manifest))

    def _places(self) -> Iterable[tuple[int, str]]:
        return ((key.layer, key.site) for key in self.keys)
