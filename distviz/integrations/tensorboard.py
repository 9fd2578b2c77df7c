"""TensorBoard events: a histogram and the statistics of every place; the step is the layer.

A phase is a run of TensorBoard, so that it draws before and after into the same chart.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd

from distviz.results import Run, series_names
from distviz.sites import SiteKey

FOLDER = "tensorboard"
_FILE = "events.out.tfevents.0.distviz"
"""TensorBoard's readers know the file by the second part of its name."""
_TEXTS = {*SiteKey._fields}


def write_events(run: Run, out: Path) -> list[str]:
    """Write a file of events for each phase into a folder."""
    from tensorboard.compat.proto import event_pb2
    from tensorboard.summary.writer.record_writer import RecordWriter

    stats, when = run.stats(), _created(run)
    histograms = dict(list(run.histograms().groupby(list(SiteKey._fields))))
    rows = {SiteKey._make(row[name] for name in SiteKey._fields): row for row in _rows(stats)}
    tags = _tags(run)
    for phase in dict.fromkeys(key.phase for key in run.keys):
        place = out / FOLDER / phase
        place.mkdir(parents=True)
        with closing(RecordWriter((place / _FILE).open("wb"))) as writer:
            writer.write(_bytes(event_pb2.Event(wall_time=when, file_version="brain.Event:2")))
            for key in (key for key in run.keys if key.phase == phase):
                numbers = {name: one for name, one in rows[key].items() if name not in _TEXTS}
                summary = summary_of(tags[key], numbers, histograms[tuple(key)])
                event = event_pb2.Event(wall_time=when, step=key.layer, summary=summary)
                writer.write(_bytes(event))
    return []


def summary_of(tag: str, numbers: Mapping[str, float], bins: pd.DataFrame) -> Any:
    """Return the values of a place as TensorBoard's summary: its statistics, and its histogram.

    ``numbers`` are the columns of ``stats.csv``, and ``bins`` are rows of ``histograms.csv``.
    """
    from tensorboard.compat.proto import summary_pb2

    values = [
        summary_pb2.Summary.Value(tag=f"{tag}/{name}", simple_value=number)
        for name, number in numbers.items()
        if isinstance(number, int | float) and math.isfinite(number)
    ]
    if numbers["count"]:
        counted = summary_pb2.HistogramProto(
            min=numbers["min"],
            max=numbers["max"],
            num=numbers["count"],
            sum=numbers["mean"] * numbers["count"],
            sum_squares=numbers["l2"] ** 2,
            bucket_limit=bins["bin_right"].tolist(),
            bucket=bins["count"].tolist(),
        )
        values.append(summary_pb2.Summary.Value(tag=tag, histo=counted))
    return summary_pb2.Summary(value=values)


def _rows(stats: pd.DataFrame) -> list[dict[str, Any]]:
    columns = stats.to_dict(orient="list")
    return [
        {str(name): values[index] for name, values in columns.items()}
        for index in range(len(stats))
    ]


def _tags(run: Run) -> dict[SiteKey, str]:
    """Return the site of each key, with the module where a site has several in a layer."""
    names = series_names(run.keys)
    several = {
        key.site: len({names[other] for other in run.keys if other.site == key.site}) > 1
        for key in run.keys
    }
    return {key: f"{key.site}/{names[key]}" if several[key.site] else key.site for key in run.keys}


def _created(run: Run) -> float:
    """Return the time of the run in seconds; 0 where it is unknown."""
    try:
        return time.mktime(time.strptime(str(run.manifest.get("created")), "%Y-%m-%dT%H:%M:%S%z"))
    except (ValueError, OverflowError):
        return 0.0


def _bytes(event: Any) -> bytes:
    found: bytes = event.SerializeToString()
    return found
