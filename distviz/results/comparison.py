"""The result of a comparison of two runs: distances, inference over documents, channels.

A comparison folder contains both runs (``a/`` and ``b/``), so it can be shown without other files.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pandas as pd

from distviz.errors import RequestError
from distviz.results import agreement
from distviz.results.columns import (
    ChannelChange,
    ClassShare,
    Distance,
    Inference,
    Row,
)
from distviz.results.compared_output import OutputDocument
from distviz.results.elementwise import ELEMENTWISE
from distviz.results.reading import Folder
from distviz.results.result import Result, model_layers
from distviz.results.run import Run
from distviz.results.schema import SCHEMA_VERSION, ComparisonManifest, Manifest
from distviz.results.storage import COMPARISON, RUN
from distviz.results.tables import records, rows_at
from distviz.sites import SiteKey
from distviz.stats import Sketch, checks_types

_OUTPUT: dict[str, type[Row]] = {"output_documents.parquet": OutputDocument}


class Pair(NamedTuple):
    """Two distributions that are compared with each other."""

    a: SiteKey
    b: SiteKey


@dataclass(frozen=True)
class Outline:
    """What is known of a run before it is measured.

    Attributes
    ----------
    manifest
        Its entry ``model``.
    keys
        Its distributions.
    """

    manifest: dict[str, Any]
    keys: list[SiteKey]


@dataclass(frozen=True, repr=False)
class Comparison(Result):
    """Run A compared with run B.

    Attributes
    ----------
    manifest
        Content of ``comparison.json``.
    a, b
        Both runs.
    pairs
        The compared pairs, in the order of A.
    table, inference, channels, classes
        ``compare.csv``, ``inference.csv``, ``channels.csv`` and ``classes.csv``.
    output_documents
        ``output_documents.parquet``; empty where both models were not measured together.
    folders
        Where A and B were read from; their files are copied instead of computed again.
    elementwise
        The tables of a comparison value by value, by the names of their files; empty without it.
    """

    FILE: ClassVar[str] = COMPARISON
    NOUN: ClassVar[str] = "comparison"
    SCHEMA: ClassVar[type[Manifest]] = ComparisonManifest
    TABLES: ClassVar[dict[str, type[Row]]] = {
        "compare.csv": Distance,
        "inference.csv": Inference,
        "channels.csv": ChannelChange,
        "classes.csv": ClassShare,
    }
    OPTIONAL: ClassVar[dict[str, type[Row]]] = ELEMENTWISE | _OUTPUT

    a: Run
    b: Run
    pairs: list[Pair]
    table: pd.DataFrame
    inference: pd.DataFrame
    channels: pd.DataFrame
    classes: pd.DataFrame
    output_documents: pd.DataFrame = field(default_factory=pd.DataFrame)
    folders: tuple[Path | None, Path | None] = (None, None)
    elementwise: dict[str, pd.DataFrame] = field(default_factory=dict)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return every table by name, as exported."""
        found = {
            "compare": self.table,
            "inference": self.inference,
            "channels": self.channels,
            "classes": self.classes,
        } | self.elementwise
        more = {"output_documents": self.output_documents}
        return found | {name: table for name, table in more.items() if len(table)}

    @property
    def n_layers(self) -> int:
        """The number of layers that can be selected, which is that of A."""
        return self.a.n_layers

    def _places(self) -> Iterable[tuple[int, str]]:
        for pair in self.pairs:
            yield pair.a.layer, pair.a.site
        for table in self.elementwise.values():
            yield from zip(table["layer"], table["site"], strict=True)

    def _at(self, places: set[tuple[int, str]]) -> Comparison:
        chosen = [pair for pair in self.pairs if (pair.a.layer, pair.a.site) in places]
        parts = {name: rows_at(table, places) for name, table in self.elementwise.items()}
        return replace(super()._at(places), pairs=chosen, elementwise=parts)

    @checks_types
    def sketches(self, pair: Pair) -> tuple[Sketch, Sketch]:
        """Return both distributions of a pair."""
        return self.a.merged[pair.a], self.b.merged[pair.b]

    @property
    def plot(self) -> Any:
        """The figures of this comparison."""
        from distviz.reports import ComparisonPlots

        return ComparisonPlots(self)

    def _measured(self) -> list[str]:
        from distviz.results.labels import measured_line, side_names

        sides = zip((self.a, self.b), side_names(self), strict=True)
        return [measured_line(run, name=name) for run, name in sides]

    def summary(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        rows = {
            name: records(table)
            for name, table in (
                ("compare", self.table),
                ("inference", self.inference),
                *self.elementwise.items(),
            )
            if name != "elementwise_documents"
        }
        return self.stated | rows

    def _write_files(self, folder: Path) -> None:
        super()._write_files(folder)
        for name, run, source in zip("ab", (self.a, self.b), self.folders, strict=True):
            (folder / name).mkdir()
            if source is None or not _copy(run, source, folder / name):
                run.write(folder / name)

    @classmethod
    def _from_folder(cls, folder: Folder, tables: Sequence[pd.DataFrame]) -> Comparison:
        manifest = folder.manifest
        a, b = Run.load(folder.path / "a"), Run.load(folder.path / "b")
        phases = (manifest["phase_a"], manifest["phase_b"])
        pairs = pair_keys(a, b, *phases, manifest["sites"], manifest.get("layers"))
        agreement.check_comparison(folder, a.manifest, b.manifest, pairs, tables[0])
        table, inference, channels, classes = tables
        parts = (table, inference, channels, classes)
        by_value = ELEMENTWISE if manifest.get("elementwise") else {}
        more = {n.partition(".")[0]: folder.table(n, row) for n, row in by_value.items()}
        documents = cls._optional(folder, _OUTPUT).get("output_documents", pd.DataFrame())
        file_warnings = (*folder.changes(), *a.file_warnings, *b.file_warnings)
        return cls(
            manifest, a, b, pairs, *parts, documents, elementwise=more, file_warnings=file_warnings
        )


def _copy(run: Run, source: Path, target: Path) -> bool:
    """Copy the files of a run from its folder, if it still contains this run, as written."""
    try:
        found = Folder(source, RUN, "run")
        is_same = found.manifest == run.manifest and found.checksums
        if not is_same or run.file_warnings or found.changes():
            return False
        for name in (*found.checksums, RUN):
            shutil.copyfile(source / name, target / name)
    except (OSError, RequestError):
        return False
    return True


def pair_keys(
    a: Run | Outline,
    b: Run | Outline,
    phase_a: str,
    phase_b: str,
    sites: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
) -> list[Pair]:
    """Pair the distributions of two runs: same stack and site, layer by relative depth.

    Models of equal depth are paired by index. Otherwise layer l of A (of n layers) is paired with
    the layer of B nearest to l / (n - 1) of its depth; a layer of B may be in several pairs.
    ``sites`` and ``layers`` (those of A) select; None selects all.

    Raises
    ------
    RequestError
        If the runs have no site and phase in common.
    """
    found = [
        Pair(key, partner)
        for key in _of_phase(a, phase_a, sites)
        if (layers is None or key.layer in layers)
        and (partner := _partner(key, a, b, phase_b)) is not None
    ]
    if not found:
        offered = [
            f"{name}: {', '.join(sorted({f'{key.site}/{key.phase}' for key in run.keys}))}"
            for name, run in (("A", a), ("B", b))
        ]
        raise RequestError("the runs have no site and phase in common", "; ".join(offered))
    return found


def _of_phase(run: Run | Outline, phase: str, sites: Sequence[str] | None) -> Iterator[SiteKey]:
    for key in run.keys:
        if key.phase == phase and (sites is None or key.site in sites):
            yield key


def depth(run: Run | Outline, stack: str) -> int:
    """Return the number of layers of a stack: the model's, or up to the last observed."""
    seen = 1 + max((key.layer for key in run.keys if key.stack == stack), default=-1)
    return max(seen, model_layers(run.manifest))


def _partner(key: SiteKey, a: Run | Outline, b: Run | Outline, phase: str) -> SiteKey | None:
    n_a, n_b = depth(a, key.stack), depth(b, key.stack)
    layer = key.layer
    if n_a != n_b and layer >= 0:
        layer = round(key.layer / max(n_a - 1, 1) * (n_b - 1))
    there = [
        other
        for other in b.keys
        if (other.layer, other.stack, other.site, other.phase)
        == (layer, key.stack, key.site, phase)
    ]
    same = [other for other in there if other.module == key.module]
    return next(iter(same or there), None)


def compare_manifest(a: Run, b: Run, **more: Any) -> dict[str, Any]:
    """Return ``comparison.json``; the study passes the other fields as ``more``."""
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "comparison",
        "model_a": a.manifest.get("model"),
        "model_b": b.manifest.get("model"),
        "text_a": a.manifest.get("text"),
        "text_b": b.manifest.get("text"),
        **more,
    }
