"""Sinks: where else the snapshots of a `distviz.Monitor` go while a model is trained.

Every sink has the statistics of ``timeline.csv`` and a histogram of each place, under names that do
not change: ``distviz/SITE/layer_03/STATISTIC``, and ``distviz/SITE/layer_03`` for the histogram. A
phase other than ``before``, a stack other than ``decoder``, and the module where a layer has more
than one at a site, follow the layer: ``distviz/act/layer_03/after``.
"""

from __future__ import annotations

import importlib
import math
import os
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distviz.errors import RequestError
from distviz.integrations.tensorboard import summary_of
from distviz.results import Run, check_name, check_writable, series_names, timeline_rows
from distviz.sites import SiteKey

_STEP = "distviz/step"
_MOST_BINS = 512
"""Of a histogram of Weights & Biases and of trackio."""


@dataclass(frozen=True)
class Series:
    """What a sink writes of a place: its name, its statistics, its bins."""

    name: str
    numbers: dict[str, float]
    bins: pd.DataFrame


def series_of(step: int, run: Run) -> Iterator[Series]:
    """Yield what a sink writes of each place of a snapshot."""
    keys = list(SiteKey._fields)
    names = sink_names(run)
    histograms = dict(list(run.histograms().groupby(keys)))
    for place, rows in timeline_rows(step, run).groupby(keys, sort=False):
        numbers = dict(zip(rows["statistic"], rows["value"].tolist(), strict=True))
        yield Series(names[SiteKey._make(place)], numbers, histograms[place])


def sink_names(run: Run) -> dict[SiteKey, str]:
    """Return the name of each place, as it stands before a statistic."""
    modules = series_names(run.keys)
    several = {
        (key.site, key.stack)
        for key in run.keys
        for other in run.keys
        if other != key and other == key._replace(module=other.module)
    }
    names = {}
    for key in run.keys:
        words = ["distviz", key.site, f"layer_{key.layer:02d}" if key.layer >= 0 else "outside"]
        words += [key.stack] * (key.stack != "decoder") + [key.phase] * (key.phase != "before")
        words += [modules[key]] * ((key.site, key.stack) in several or key.layer < 0)
        names[key] = "/".join(words)
    return names


class TensorBoardSink:
    """Writes snapshots as events of TensorBoard.

    Parameters
    ----------
    folder
        Where the events go, beside those that are there; TensorBoard shows them together.

    Raises
    ------
    RequestError
        If the package tensorboard is missing, or the folder cannot be written.
    """

    def __init__(self, folder: str | Path) -> None:
        records = _needed("tensorboard.summary.writer.record_writer", "tensorboard")
        self._events = _needed("tensorboard.compat.proto.event_pb2", "tensorboard")
        place = Path(folder)
        check_name(place)
        check_writable(place / "events")
        place.mkdir(parents=True, exist_ok=True)
        # TensorBoard shows the files of a folder together, in the order of their names.
        name = f"events.out.tfevents.{time.time():.3f}.{socket.gethostname()}.{os.getpid()}.distviz"
        self._writer = records.RecordWriter((place / name).open("wb"))
        self._put(file_version="brain.Event:2")

    def write(self, step: int, run: Run) -> None:
        """Write a snapshot."""
        for one in series_of(step, run):
            self._put(step=step, summary=summary_of(one.name, one.numbers, one.bins))
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _put(self, **content: Any) -> None:
        event = self._events.Event(wall_time=time.time(), **content)
        self._writer.write(event.SerializeToString())


class _RunSink(ABC):
    """Logs snapshots to a run of an experiment tracker."""

    package: ClassVar[str]

    def __init__(self, run: Any = None) -> None:
        self._module = _needed(self.package, self.package)
        self._run = self._active() if run is None else run
        if self._run is None:
            raise RequestError(
                f"no run of {self.package} is active",
                f"call {self.package}.init(project=...) first, or give run=...",
            )

    @abstractmethod
    def _active(self) -> Any:
        """Return the active run; None without one."""

    def write(self, step: int, run: Run) -> None:
        """Log a snapshot."""
        values: dict[str, Any] = {_STEP: step}
        for one in series_of(step, run):
            numbers = {f"{one.name}/{name}": value for name, value in one.numbers.items()}
            values |= {name: value for name, value in numbers.items() if math.isfinite(value)}
            if one.numbers["count"]:
                bins = merged_bins(one.bins, _MOST_BINS)
                values[one.name] = self._module.Histogram(np_histogram=bins)
        # Without a step: others count their own, and the tracker's may not run back.
        self._run.log(values)

    def close(self) -> None:  # noqa: B027
        """Leave the run open, as others may log to it."""


class WandbSink(_RunSink):
    """Logs snapshots to a run of Weights & Biases, against an axis of its own, ``distviz/step``.

    Parameters
    ----------
    run
        What ``wandb.init`` returned; None takes the active run. It stays open at the end.

    Raises
    ------
    RequestError
        If the package wandb is missing, or no run is active.
    """

    package = "wandb"

    def __init__(self, run: Any = None) -> None:
        super().__init__(run)
        self._run.define_metric("distviz/*", step_metric=_STEP)

    def _active(self) -> Any:
        return self._module.run


class TrackioSink(_RunSink):
    """Logs snapshots to a run of trackio, with their step as ``distviz/step``.

    Parameters
    ----------
    run
        What ``trackio.init`` returned; None takes the active run. It stays open at the end.

    Raises
    ------
    RequestError
        If the package trackio is missing, or no run is active.
    """

    package = "trackio"

    def _active(self) -> Any:
        return self._module.context_vars.current_run.get()


def merged_bins(bins: pd.DataFrame, most: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return counts and edges of rows of ``histograms.csv``, neighbours joined to ``most`` bins."""
    counts = bins["count"].to_numpy()
    edges = np.append(bins["bin_left"].to_numpy(), bins["bin_right"].iloc[-1])
    each = -(-len(counts) // most)
    starts = np.arange(0, len(counts), each)
    return np.add.reduceat(counts, starts), np.append(edges[starts], edges[-1])


def _needed(module: str, package: str) -> Any:
    """Import a module of a package that is not always installed.

    Raises
    ------
    RequestError
        If it is missing.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RequestError(
            f"this sink needs the package {package}, which is not installed",
            f"pip install {package}",
        ) from error
