"""A training as snapshots: an ordinary run for each step, and a timeline of their statistics.

The folder of a training has a folder ``step-N`` for each snapshot. These decide: whatever a killed
process has left of the other files, every complete snapshot is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import pandas as pd

from distviz.errors import RequestError
from distviz.output import counted, listed
from distviz.results.columns import Place, Row
from distviz.results.drift import drift, drift_verdict
from distviz.results.labels import measured_line
from distviz.results.reading import Folder, file_digest
from distviz.results.result import ByKeys, Result
from distviz.results.run import Run
from distviz.results.schema import (
    SCHEMA_VERSION,
    Count,
    Manifest,
    Number,
    TrainingManifest,
)
from distviz.results.staging_folder import remove_abandoned
from distviz.results.storage import RUN, TRAINING, write_manifest
from distviz.results.tables import records, rows_at
from distviz.sites import SiteKey

TIMELINE = "timeline.csv"
_STEP = re.compile(r"step-(0|[1-9]\d{0,17})")
_PLACE = list(SiteKey._fields)
COLUMNS = ["step", *_PLACE, "statistic", "value"]
"""Of ``timeline.csv``."""


class TimelineRow(Place, kw_only=True):
    """``timeline.csv``."""

    can_be_blank: ClassVar[bool] = True
    step: Count
    statistic: str
    value: Number | None


@dataclass(frozen=True)
class Snapshots(Mapping[int, Run]):
    """The runs in the folder of a training by step, each read when it is asked for.

    Attributes
    ----------
    folder
        Of the training.
    steps
        Those that have a snapshot.
    part
        Returns what is selected of each run.
    """

    folder: Path
    steps: tuple[int, ...]
    part: Callable[[Run], Run] | None = None

    def __getitem__(self, step: int) -> Run:
        if step not in self.steps:
            raise KeyError(step)
        run = Run.load(self.folder / step_folder(step))
        return run if self.part is None else self.part(run)

    def __iter__(self) -> Iterator[int]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)


@dataclass(frozen=True, repr=False)
class Training(ByKeys, Result):
    """The snapshots of a training.

    Attributes
    ----------
    manifest
        Content of ``training.json``.
    timeline
        ``timeline.csv``: one row per step, place and statistic, by step.
    runs
        Step -> its snapshot; those of a folder are read when they are asked for.
    whole
        The training that this was selected from.
    """

    FILE: ClassVar[str] = TRAINING
    NOUN: ClassVar[str] = "training"
    SCHEMA: ClassVar[type[Manifest]] = TrainingManifest
    TABLES: ClassVar[dict[str, type[Row]]] = {TIMELINE: TimelineRow}

    timeline: pd.DataFrame
    runs: Mapping[int, Run]
    whole: Training | None = None

    @classmethod
    def of(cls, runs: Mapping[int, Run], **settings: Any) -> Self:
        """Return the training whose snapshots are in memory; ``settings`` are for the manifest."""
        parts = [timeline_rows(step, runs[step]) for step in sorted(runs)]
        last = runs[max(runs)].manifest if runs else {}
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "kind": "training",
            "model": last.get("model"),
            "dtype": last.get("dtype"),
            "settings": settings,
            "steps": [{"step": step, "checksum": ""} for step in sorted(runs)],
            "first_nonfinite": None,
            "warnings": [],
        }
        timeline = pd.concat(parts or [pd.DataFrame(columns=COLUMNS)], ignore_index=True)
        return cls(manifest, timeline, dict(runs))

    @property
    def steps(self) -> list[int]:
        """The steps that have a snapshot, ascending."""
        return sorted(self.runs)

    def at(self, step: int) -> Run:
        """Return the snapshot of a step.

        Raises
        ------
        RequestError
            If there is none; the message lists the steps.
        """
        if step not in self.runs:
            raise RequestError(
                f"the training has no snapshot of step {step}",
                f"it has {listed('step', ', '.join(map(str, self.steps)))}",
            )
        return self.runs[step]

    def curve(self, statistic: str, key: SiteKey) -> pd.Series[Any]:
        """Return the values of a statistic at a place by step, float64; empty if it has none."""
        rows = self._curves.get((statistic, *key), [])
        steps, values = (self.timeline[name].to_numpy()[rows] for name in ("step", "value"))
        return pd.Series(values, index=steps, dtype=float)

    @cached_property
    def _curves(self) -> dict[Any, Any]:
        """The rows of each curve."""
        groups = self.timeline.groupby(["statistic", *_PLACE]) if len(self.timeline) else None
        return {} if groups is None else dict(groups.indices)

    @property
    def keys(self) -> list[SiteKey]:
        """Every place and phase of the timeline."""
        places = self.timeline[_PLACE].drop_duplicates() if len(self.timeline) else None
        rows = () if places is None else places.itertuples(index=False, name=None)
        return [SiteKey._make(row) for row in rows]

    @property
    def first_nonfinite(self) -> dict[str, Any] | None:
        """Where the first NaN or infinity was: step, layer, stack, site, kind and what is known."""
        noted: dict[str, Any] | None = self.manifest.get("first_nonfinite")
        if noted is not None or self.timeline.empty:
            return noted
        rows = self.timeline[self.timeline["statistic"].isin(["nan", "inf"])]
        rows = rows[rows["value"] > 0]
        names = ["step", "layer", "stack", "site", "statistic"]
        found = records(rows[names].head(1).rename(columns={"statistic": "kind"}))
        return found[0] if found else None

    def _at(self, places: set[tuple[int, str]]) -> Self:
        def part(run: Run) -> Run:
            return run._at(places)  # noqa: SLF001  (`select` refuses a run that has none of them)

        is_read = isinstance(self.runs, Snapshots)
        runs: Any = self.runs
        runs = replace(runs, part=part) if is_read else {n: part(run) for n, run in runs.items()}
        return replace(super()._at(places), runs=runs, whole=self.whole or self)

    @property
    def sample(self) -> str:
        """How many snapshots there are, and of which steps."""
        steps = self.steps
        ends = f", steps {steps[0]} to {steps[-1]}" if len(steps) > 1 else ""
        return f"{counted(len(steps), 'snapshot')}{ends}"

    def _measured(self) -> list[str]:
        return [measured_line(self, sample=self.sample)]

    @cached_property
    def drift(self) -> pd.DataFrame:
        """``drift.csv``: what changed from the first to the last snapshot, which are read.

        Those of a part are corrected over the places of the whole.
        """
        places = {*self._places()}
        return drift(self) if self.whole is None else rows_at(self.whole.drift, places)

    @cached_property
    def verdict(self) -> str:
        """Sentences that say what changed, where, and how that was tested."""
        return drift_verdict(self)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return every table by name, as exported."""
        return {"timeline": self.timeline} | ({"drift": self.drift} if len(self.drift) else {})

    def summary(self) -> dict[str, Any]:
        """Return what ``--json`` prints: the manifest with the verdict, and the drift."""
        return self.stated | {"verdict": self.verdict, "drift": records(self.drift)}

    def _write_files(self, folder: Path) -> None:
        super()._write_files(folder)
        for step, run in self.runs.items():
            place = folder / step_folder(step)
            place.mkdir()
            run.write(place)

    def write(self, folder: Path) -> None:
        """Write every file but the figures into an existing folder (not atomic, see `save`)."""
        self._write_files(folder)
        steps = [
            one | {"checksum": file_digest(folder / step_folder(one["step"]) / RUN)}
            for one in self.manifest.get("steps") or ()
            if one["step"] in self.runs
        ]
        sizes = {TIMELINE: (folder / TIMELINE).stat().st_size}
        sums = {f"{name}.csv": file_digest(folder / f"{name}.csv") for name in self.tables()}
        content = self.stated | {"steps": steps, "sizes": sizes}
        write_manifest(folder / self.FILE, content, sums)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a folder; what a killed process left unfinished there is put right first.

        Raises
        ------
        RequestError
            As of every result.
        """
        remove_abandoned(Path(folder))
        return super().load(folder)

    @classmethod
    def _from_folder(cls, folder: Folder, tables: Sequence[pd.DataFrame]) -> Self:
        (timeline,) = tables
        found = snapshot_steps(folder.path)
        known = known_steps(folder.path, folder.manifest)
        parts = [timeline[timeline["step"].isin(known)]] if len(timeline) else []
        runs = Snapshots(folder.path, tuple(found))
        parts += [timeline_rows(step, runs[step]) for step in found if step not in known]
        whole = pd.concat(parts, ignore_index=True) if parts else timeline
        if len(whole):
            whole = whole.sort_values("step", kind="stable", ignore_index=True)
        # The tests read the first and the last snapshot; others are checked when they are read.
        ends = [
            folder.path / step_folder(step) for step in dict.fromkeys((*found[:1], *found[-1:]))
        ]
        changes = [warning for end in ends for warning in Folder(end, RUN, "run").changes()]
        warnings = (*folder.changes(), *changes, *_mixed(folder.manifest))
        return cls(folder.manifest, whole, runs, file_warnings=warnings)


def step_folder(step: int) -> str:
    """Return the folder name of the snapshot of a step."""
    return f"step-{step}"


def snapshot_steps(folder: Path) -> list[int]:
    """Return the steps of the snapshots in a folder, ascending."""
    found = (_STEP.fullmatch(path.name) for path in folder.iterdir())
    steps = sorted(int(one[1]) for one in found if one)
    return [step for step in steps if (folder / step_folder(step) / RUN).is_file()]


def known_steps(folder: Path, manifest: dict[str, Any]) -> set[int]:
    """Return the steps whose rows in the timeline are those of the snapshots in the folder.

    Those of a snapshot that was removed, too.
    """
    noted = {one["step"]: one["checksum"] for one in manifest.get("steps") or ()}
    paths = {step: folder / step_folder(step) / RUN for step in noted}
    return {
        step
        for step, path in paths.items()
        if not path.is_file() or file_digest(path) == noted[step]
    }


def timeline_rows(step: int, run: Run) -> pd.DataFrame:
    """Return the rows of ``timeline.csv`` of a snapshot.

    The statistics of ``stats.csv`` by the names of its columns, and of what is in no column there:
    ``absmax``, ``nonfinite``, ``zero_share``, ``dead_channels``.
    """
    stats = run.stats()
    if not len(stats):
        return pd.DataFrame()
    stats["absmax"] = stats[["min", "max"]].abs().max(axis=1)
    stats["nonfinite"] = stats["nan"] + stats["inf"]
    stats["zero_share"] = stats["zeros"] / stats["count"].where(stats["count"] > 0)
    dead = _dead_channels(run)
    keys = stats[_PLACE].itertuples(index=False, name=None)
    stats["dead_channels"] = [dead.get(SiteKey._make(key), float("nan")) for key in keys]
    names = [name for name in stats.columns if name not in _PLACE]
    # A place after the other, which melt would sort for at several times the cost.
    rows = stats[_PLACE].loc[stats.index.repeat(len(names))].reset_index(drop=True)
    rows["statistic"] = names * len(stats)
    rows["value"] = stats[names].to_numpy(dtype=float).ravel()
    return rows.assign(step=step)[COLUMNS]


def _dead_channels(run: Run) -> dict[SiteKey, float]:
    """Return how many channels have only zeros, by place; empty where they were not counted."""
    channels = run.channels
    if not {"count", "zeros", *_PLACE} <= set(channels):
        return {}
    is_dead = (channels["zeros"] == channels["count"]) & (channels["count"] > 0)
    sums: Any = is_dead.groupby([channels[name] for name in _PLACE]).sum()
    return {SiteKey._make(key): float(n) for key, n in sums.items()}


def _mixed(manifest: dict[str, Any]) -> tuple[str, ...]:
    """Return a warning where a training was started again before snapshots that it has."""
    latest = -1
    stale = []
    for one in sorted(manifest.get("steps") or (), key=lambda one: one["step"]):
        session = one.get("session", 0)
        if session < latest:
            stale.append(str(one["step"]))
        latest = max(latest, session)
    named = listed("step", ", ".join(stale))
    warning = f"{named} came before the training was started again at an earlier step, which has "
    return (f"{warning}not reached them yet",) if stale else ()
