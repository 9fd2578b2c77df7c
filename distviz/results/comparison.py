"""Two runs side by side: distances, inference over documents, channels; plain data.

A comparison folder holds both runs (``a/`` and ``b/``) beside its tables, so it can be shown and
drawn again by itself.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from distviz.errors import RequestError
from distviz.results.run import (
    COMPARISON,
    RUN,
    SCHEMA_VERSION,
    Run,
    read_manifest,
    records,
    staging,
)
from distviz.results.tables import choose_places, read_csv, rows_at
from distviz.sites import SiteKey
from distviz.stats import Sketch

__all__ = [
    "Comparison",
    "Pair",
    "compare_manifest",
    "depth",
    "pair_keys",
]

_TABLES = ("compare", "inference", "channels", "classes")
_DISTANCES = {"layer_a", "layer_b", "site", "ks", "wasserstein_normalized", "js_divergence"}
_TESTS = {"layer_a", "quantity", "estimate", "ci_low", "ci_high", "p_adjusted", "approximate"}
_NEEDED = {"compare": _DISTANCES, "inference": _TESTS}
_RUN_FILES = (
    RUN,
    *(f"{name}.csv" for name in ("stats", "histograms", "plans", "classes")),
    *(f"{name}.parquet" for name in ("documents", "channels", "counts")),
)
_RUN_TEXTS = "documents.jsonl"


class Pair(NamedTuple):
    """Two distributions that are set against each other."""

    a: SiteKey
    b: SiteKey


@dataclass(frozen=True)
class Comparison:
    """Run A against run B.

    Attributes
    ----------
    manifest
        Content of ``comparison.json``.
    a, b
        Both runs.
    pairs
        What was compared with what, in the order of A.
    table, inference, channels, classes
        ``compare.csv``, ``inference.csv``, ``channels.csv`` and ``classes.csv``.
    folders
        Where A and B were read from; their files are copied rather than computed again.
    """

    manifest: dict[str, Any]
    a: Run
    b: Run
    pairs: list[Pair]
    table: pd.DataFrame
    inference: pd.DataFrame
    channels: pd.DataFrame
    classes: pd.DataFrame
    folders: tuple[Path | None, Path | None] = (None, None)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return every table by name, as exported."""
        return {
            "compare": self.table,
            "inference": self.inference,
            "channels": self.channels,
            "classes": self.classes,
        }

    @property
    def n_layers(self) -> int:
        """The number of layers that may be asked for, which is that of A."""
        return self.a.n_layers

    def select(
        self, layers: Iterable[int] | None = None, sites: Iterable[str] | None = None
    ) -> Comparison:
        """Return the part at some layers (of A) and sites; None takes all, see `Run.select`."""
        known = ((pair.a.layer, pair.a.site) for pair in self.pairs)
        places = choose_places(known, layers, sites, "comparison")
        return replace(
            self,
            pairs=[pair for pair in self.pairs if (pair.a.layer, pair.a.site) in places],
            table=rows_at(self.table, places),
            inference=rows_at(self.inference, places),
            channels=rows_at(self.channels, places),
            classes=rows_at(self.classes, places),
        )

    def sketches(self, pair: Pair) -> tuple[Sketch, Sketch]:
        """Return both distributions of a pair."""
        return self.a.merged[pair.a], self.b.merged[pair.b]

    @property
    def plot(self) -> Any:
        """The figures of this comparison."""
        from distviz.reports import ComparisonPlots

        return ComparisonPlots(self)

    def _repr_html_(self) -> str:
        from distviz.reports import comparison_html

        return comparison_html(self)

    def summary(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        rows = {
            name: records(table)
            for name, table in (("compare", self.table), ("inference", self.inference))
        }
        return self.manifest | rows

    def write(self, folder: Path) -> None:
        """Write every file but the figures into an existing folder (not atomic, see `save`)."""
        for name, table in self.tables().items():
            table.to_csv(folder / f"{name}.csv", index=False)
        for name, run, source in zip("ab", (self.a, self.b), self.folders, strict=True):
            (folder / name).mkdir()
            if source is None or not _copy(run, source, folder / name):
                run.write(folder / name)
        text = json.dumps(self.manifest, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / COMPARISON).write_text(text + "\n", encoding="utf-8")

    def save(self, folder: str | Path, *, force: bool = False) -> Path:
        """Write the comparison folder without figures: complete, or not at all."""
        with staging(Path(folder), force=force) as place:
            self.write(place)
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Comparison:
        """Read a comparison folder.

        Raises
        ------
        RequestError
            If it is not there, not a comparison, of another schema version, or damaged.
        """
        path = Path(folder)
        manifest = read_manifest(path, COMPARISON, "comparison")
        a, b = Run.load(path / "a"), Run.load(path / "b")
        tables = {name: read_csv(path / f"{name}.csv", _NEEDED.get(name, ())) for name in _TABLES}
        try:
            phases = (manifest["phase_a"], manifest["phase_b"])
            pairs = pair_keys(a, b, *phases, manifest["sites"], manifest.get("layers"))
        except KeyError as error:
            raise RequestError(f"{path / COMPARISON} is damaged: it has no {error}") from error
        if len(pairs) != len(tables["compare"]):
            raise RequestError(
                f"{path / 'compare.csv'} is damaged: it has {len(tables['compare'])} rows, "
                f"the runs beside it make {len(pairs)} pairs"
            )
        table, inference, channels, classes = tables.values()
        return cls(manifest, a, b, pairs, table, inference, channels, classes)


def _copy(run: Run, source: Path, target: Path) -> bool:
    """Copy the files of a run from its folder, if it is still that run and complete."""
    try:
        if json.loads((source / RUN).read_text(encoding="utf-8")) != run.manifest:
            return False
        for name in (*_RUN_FILES, *([_RUN_TEXTS] if run.texts is not None else [])):
            shutil.copyfile(source / name, target / name)
    except (OSError, ValueError):
        return False
    return True


def pair_keys(
    a: Run,
    b: Run,
    phase_a: str,
    phase_b: str,
    sites: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
) -> list[Pair]:
    """Pair the distributions of two runs: same stack and site, layer by relative depth.

    Models of equal depth are paired by index. Otherwise layer l of A (of n layers) meets the layer
    of B nearest to l / (n - 1) of its depth; a layer of B may serve more than one of A. ``sites``
    and ``layers`` (those of A) choose; None takes all.

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


def _of_phase(run: Run, phase: str, sites: Sequence[str] | None) -> Iterator[SiteKey]:
    for key in run.keys:
        if key.phase == phase and (sites is None or key.site in sites):
            yield key


def depth(run: Run, stack: str) -> int:
    """Return the number of layers of a stack: the model's own, or what was observed."""
    seen = 1 + max((key.layer for key in run.keys if key.stack == stack), default=-1)
    number = (run.manifest.get("model") or {}).get("layers")
    return max(seen, number) if isinstance(number, int) else seen


def _partner(key: SiteKey, a: Run, b: Run, phase: str) -> SiteKey | None:
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
    """Return ``comparison.json`` without what the study adds."""
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "comparison",
        "model_a": a.manifest.get("model"),
        "model_b": b.manifest.get("model"),
        "text_a": a.manifest.get("text"),
        "text_b": b.manifest.get("text"),
        **more,
    }
