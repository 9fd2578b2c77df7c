"""A run: what was measured, as plain data, and the folder that holds it.

The measuring side fills a `Run`, the showing side reads one. A folder is complete or absent: it is
written beside its place and moved into it.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from distviz.errors import MeasurementError, RequestError, first_line
from distviz.results import counts_file
from distviz.results.tables import choose_places, rows_at
from distviz.sites import PHASES, SiteKey, key_order
from distviz.stats import Sketch, statistics

__all__ = [
    "COMPARISON",
    "FILLER",
    "RUN",
    "SCHEMA_VERSION",
    "SWEEP",
    "Run",
    "check_output",
    "read_manifest",
    "records",
    "staging",
]

SCHEMA_VERSION = 2
"""Changes whenever a file's meaning changes; a run of another version is refused by name."""

RUN = "run.json"
COMPARISON = "comparison.json"
FILLER = "filler.json"
WHATIF = "whatif.json"
SWEEP = "sweep.json"
KINDS = (RUN, COMPARISON, FILLER, SWEEP, WHATIF)
_KEY_COLUMNS = ["layer", "site", "phase", "module"]
_PAIRED = ("before", "after", "arm_input")


@dataclass(frozen=True)
class Run:
    """One measured model.

    Attributes
    ----------
    manifest
        Content of ``run.json``.
    sketches
        For every key, a sketch by token class (``"all"`` where classes were not kept apart).
    documents, channels, plans, experts
        The tables of the same names; see docs/files.md. The last is empty where no
        experts were observed.
    texts
        The documents measured, one dict a line of ``documents.jsonl``; None if not kept.
    """

    manifest: dict[str, Any]
    sketches: dict[SiteKey, dict[str, Sketch]]
    documents: pd.DataFrame = field(default_factory=pd.DataFrame)
    channels: pd.DataFrame = field(default_factory=pd.DataFrame)
    plans: pd.DataFrame = field(default_factory=pd.DataFrame)
    texts: list[dict[str, Any]] | None = None
    experts: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def keys(self) -> list[SiteKey]:
        """Every observed distribution, by layer, site (in the order of the layer) and phase."""
        return sorted(self.sketches, key=key_order)

    @property
    def c(self) -> float:
        """The c of the near-zero band: the run's own, or 0.13 where ARM is off."""
        arm = self.manifest.get("arm") or {}
        return float(arm.get("c", self.manifest.get("near_zero_c", statistics.DEFAULT_C)))

    @cached_property
    def merged(self) -> dict[SiteKey, Sketch]:
        """For every key, the sketch of all token classes together."""
        whole = {}
        for key in self.keys:
            total = Sketch()
            for sketch in self.sketches[key].values():
                total = total + sketch
            whole[key] = total
        return whole

    @cached_property
    def bands(self) -> dict[SiteKey, float]:
        """For every key, eps of the phase ``before`` at the same place."""
        own: dict[SiteKey, float] = {}
        for key in self.keys:
            before = key._replace(phase="before")
            if before not in own:
                source = self.merged[before if before in self.merged else key]
                own[before] = statistics.near_zero_eps(source, self.c)
        return {key: own[key._replace(phase="before")] for key in self.keys}

    @property
    def n_layers(self) -> int:
        """The number of layers that may be asked for, the model's or up to the last observed."""
        number = (self.manifest.get("model") or {}).get("layers")
        seen = max((key.layer for key in self.keys), default=-1) + 1
        return max(seen, number if isinstance(number, int) else 0)

    def select(
        self, layers: Iterable[int] | None = None, sites: Iterable[str] | None = None
    ) -> Run:
        """Return the part at some layers and sites, its tables cut to the same; None takes all.

        Raises
        ------
        RequestError
            If the run holds none of them.
        """
        places = choose_places(((key.layer, key.site) for key in self.keys), layers, sites, "run")
        return replace(
            self,
            sketches={
                key: by_class
                for key, by_class in self.sketches.items()
                if (key.layer, key.site) in places
            },
            documents=rows_at(self.documents, places),
            channels=rows_at(self.channels, places),
            plans=rows_at(self.plans, places),
            experts=rows_at(self.experts, places),
        )

    def find(self, layer: int, site: str = "act", phase: str = "before") -> SiteKey:
        """Return the first key of a layer, site and phase.

        Raises
        ------
        RequestError
            If the run holds none; the message lists what it holds.
        """
        for key in self.keys:
            if (key.layer, key.site, key.phase) == (layer, site, phase):
                return key
        layers = sorted({key.layer for key in self.keys})
        sites = list(dict.fromkeys(key.site for key in self.keys))
        raise RequestError(
            f"the run has no layer {layer}, site {site}, phase {phase}",
            f"it has layers {layers[0]} to {layers[-1]}, sites {', '.join(sites)}, phases "
            f"{', '.join(dict.fromkeys(key.phase for key in self.keys))}",
        )

    def sketch(self, layer: int, site: str = "act", phase: str = "before") -> Sketch:
        """Return one distribution, all token classes together."""
        return self.merged[self.find(layer, site, phase)]

    def stats(self) -> pd.DataFrame:
        """Return ``stats.csv`` as a DataFrame: one row a layer, site, phase and module."""
        return self._stats.copy()

    @cached_property
    def _stats(self) -> pd.DataFrame:
        rows = [
            _named(key)
            | statistics.describe(self.merged[key], self.bands[key])
            | {"stack": key.stack}
            for key in self.keys
        ]
        return pd.DataFrame(rows)

    def places(self) -> dict[SiteKey, list[SiteKey]]:
        """Group the keys by place: the ``before`` key (or first), then all phases there."""
        groups: dict[SiteKey, list[SiteKey]] = {}
        for key in self.keys:
            groups.setdefault(key._replace(phase=""), []).append(key)
        return {keys[0]: keys for keys in groups.values()}

    def edges(self, key: SiteKey) -> Any:
        """Return the histogram edges shared by all phases at a key's place, float64."""
        phases = [self.merged.get(key._replace(phase=phase)) for phase in PHASES]
        return statistics.bin_edges([sketch for sketch in phases if sketch is not None])

    def histograms(self) -> pd.DataFrame:
        """Return ``histograms.csv``: the phases of a place share their bins, none is left out."""
        frames = []
        for keys in self.places().values():
            edges = self.edges(keys[0])
            for key in keys:
                counts = statistics.histogram(self.merged[key], edges)
                total = max(int(counts.sum()), 1)
                width = edges[1:] - edges[:-1]
                frames.append(
                    pd.DataFrame(
                        {"layer": key.layer, "site": key.site, "phase": key.phase}
                        | {"bin_left": edges[:-1], "bin_right": edges[1:], "count": counts}
                        | {"density": counts / total / width}
                        | {"module": key.module, "stack": key.stack}
                    )
                )
        return pd.concat(frames, ignore_index=True)

    def classes(self) -> pd.DataFrame:
        """Return ``classes.csv``: near-zero share by token class, where classes were kept."""
        rows = []
        for key in self.keys:
            if key.phase not in _PAIRED or set(self.sketches[key]) == {"all"}:
                continue
            for name, sketch in self.sketches[key].items():
                share = statistics.near_zero(sketch, self.bands[key])
                tokens = self.manifest.get("token_classes", {}).get(name)
                rows.append(
                    {"layer": key.layer, "site": key.site, "phase": key.phase}
                    | {"token_class": name, "tokens": tokens, "near_zero": share}
                    | {"module": key.module, "stack": key.stack}
                )
        columns = ["layer", "site", "phase", "token_class", "tokens", "near_zero"]
        return pd.DataFrame(rows, columns=[*columns, "module", "stack"])

    @property
    def plot(self) -> Any:
        """The figures of this run."""
        from distviz.reports import RunPlots

        return RunPlots(self)

    def _repr_html_(self) -> str:
        from distviz.reports import run_html

        return run_html(self)

    def summary(self) -> dict[str, Any]:
        """Return what ``--json`` prints: manifest, statistics by row, no arrays."""
        names = ("schema_version", "kind", "model", "arm", "text", "effect", "seconds", "warnings")
        return {name: self.manifest.get(name) for name in names} | {"stats": records(self._stats)}

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return every table by name, as exported."""
        found = {
            "stats": self.stats(),
            "histograms": self.histograms(),
            "plans": self.plans,
            "classes": self.classes(),
            "documents": self.documents,
            "channels": self.channels,
        }
        return found | ({"experts": self.experts} if len(self.experts) else {})

    def write(self, folder: Path) -> None:
        """Write every file but the figures into an existing folder (not atomic, see `save`)."""
        tables = self.tables()
        for name, table in tables.items():
            if name in ("documents", "channels"):
                table.to_parquet(folder / f"{name}.parquet", index=False)
            else:
                table.to_csv(folder / f"{name}.csv", index=False)
        sketches = {key: self.sketches[key] for key in self.keys}
        counts_file.write(folder / "counts.parquet", sketches, SCHEMA_VERSION)
        if self.texts is not None:
            lines = (json.dumps(text, ensure_ascii=False) + "\n" for text in self.texts)
            (folder / "documents.jsonl").write_text("".join(lines), encoding="utf-8")
        text = json.dumps(self.manifest, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / RUN).write_text(text + "\n", encoding="utf-8")

    def save(self, folder: str | Path, *, force: bool = False) -> Path:
        """Write the run folder without figures: complete, or not at all.

        Raises
        ------
        RequestError
            If the folder exists and ``force`` is off, or holds something that is no run.
        """
        with staging(Path(folder), force=force) as place:
            self.write(place)
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Run:
        """Read a run folder.

        Raises
        ------
        RequestError
            If it is not there, not a run, of another schema version, or damaged (which file).
        """
        path = Path(folder)
        manifest = read_manifest(path)
        texts = None
        try:
            name = "counts.parquet"
            sketches = counts_file.read(path / name)
            name = "plans.csv"
            plans = pd.read_csv(path / name) if (path / name).stat().st_size > 1 else pd.DataFrame()
            name = "documents.parquet"
            documents = pd.read_parquet(path / name)
            name = "channels.parquet"
            channels = pd.read_parquet(path / name)
            name = "experts.csv"
            there = (path / name).exists()
            experts = pd.read_csv(path / name) if there else pd.DataFrame()
            name = "documents.jsonl"
            if (path / name).exists():
                # Not splitlines(): JSON strings may hold U+2028 and its like unescaped.
                lines = (path / name).read_text(encoding="utf-8").split("\n")
                texts = [json.loads(line) for line in lines if line]
        except FileNotFoundError:
            raise RequestError(f"{path} is not a complete run: {name} is missing") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RequestError(f"{path / name} is damaged: {first_line(error)}") from error
        return cls(manifest, sketches, documents, channels, plans, texts, experts)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows as plain data for JSON: every digit kept, NaN and infinities as null."""
    columns = {
        str(name): [None if isinstance(v, float) and not math.isfinite(v) else v for v in values]
        for name, values in frame.to_dict(orient="list").items()
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _named(key: SiteKey) -> dict[str, Any]:
    return {name: getattr(key, name) for name in _KEY_COLUMNS}


def read_manifest(path: Path, name: str = RUN, kind: str = "run") -> dict[str, Any]:
    """Read ``run.json`` or ``comparison.json`` and check its schema version.

    Raises
    ------
    RequestError
        If the folder is not of this kind, the file is damaged, or the version is another.
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
            f"{path} was written in schema version {version}, this distviz reads {SCHEMA_VERSION}",
            f"measure again, or use the version of distviz that {name} tells",
        )
    return dict(manifest)


def check_output(out: Path, *, force: bool) -> None:
    """Refuse an output folder that may not be written, before anything is measured.

    Raises
    ------
    RequestError
        If it exists and ``force`` is off, if it holds something else than a result of distviz,
        or if its parent cannot be written.
    """
    if out.exists():
        if not out.is_dir():
            raise RequestError(f"{out} is a file", "give another folder with --out")
        entries = [entry.name for entry in out.iterdir()]
        if entries and not force:
            raise RequestError(f"{out} exists", "give another --out, or --force to replace it")
        if entries and not set(entries) & set(KINDS):
            raise RequestError(
                f"{out} holds files that distviz did not write, it is not replaced",
                "give another folder with --out",
            )
    parent = next(place for place in [out.absolute(), *out.absolute().parents] if place.exists())
    if not parent.is_dir():
        raise RequestError(f"{parent} is a file, {out} cannot be made below it")


@contextmanager
def staging(out: Path, *, force: bool = False) -> Iterator[Path]:
    """Give a folder beside ``out`` to write in; it takes the place of ``out`` at the end.

    On any error, Ctrl-C included, what was written is removed and ``out`` stays as it was.

    Raises
    ------
    RequestError
        If the folder may not be written.
    MeasurementError
        If it cannot be written to its end: a full disk.
    """
    check_output(out, force=force)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise RequestError(f"cannot write to {out.parent}: {error.strerror}") from error
    try:
        place.chmod(0o755)
        yield place
        _exchange(place, out)
    except BaseException as error:
        shutil.rmtree(place, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        reason = error.strerror or first_line(error)
        raise MeasurementError(
            f"{out} cannot be written: {reason}", "free space there, or give another --out"
        ) from error


def _exchange(place: Path, out: Path) -> None:
    """Move a finished folder into its place; what was there before goes, or comes back."""
    if not out.exists():
        place.rename(out)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
    out.rename(old / out.name)
    try:
        place.rename(out)
    except BaseException:
        shutil.move(old / out.name, out)
        old.rmdir()
        raise
    shutil.rmtree(old)
