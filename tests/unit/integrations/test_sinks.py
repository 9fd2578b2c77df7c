"""Sinks: what the tools' own readers find is what the snapshots say."""

from __future__ import annotations

import json
import math
import sqlite3
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.packages import need
from support.synthetic_runs import place, run_of
from support.synthetic_trainings import activations, training

from distviz.errors import RequestError
from distviz.integrations import TensorBoardSink, TrackioSink, WandbSink
from distviz.integrations.sinks import merged_bins, sink_names
from distviz.results import Training

NAME = "distviz/act/layer_02"


@pytest.fixture(scope="module")
def trained() -> Training:
    return training((0, 10)).training


def check_scalars(found: dict[str, float], trained: Training, step: int) -> None:
    """Every finite statistic of every layer is there, and nothing else."""
    rows = trained.timeline[trained.timeline["step"] == step]
    expected = {
        f"distviz/act/layer_{layer:02d}/{statistic}": value
        for layer, statistic, value in zip(
            rows["layer"], rows["statistic"], rows["value"], strict=True
        )
        if math.isfinite(value)
    }
    assert found == pytest.approx(expected, rel=1e-6)
    x = activations(step, 2).astype(np.float64)
    assert found[f"{NAME}/std"] == pytest.approx(x.std(), rel=1e-4)
    assert found[f"{NAME}/dead_channels"] == step // 5


def check_bins(counts: Any, edges: Any, step: int) -> None:
    """Positive edges have as many values before them as NumPy counts, but for rounding to bf16."""
    x = activations(step, 2).ravel()
    assert sum(counts) == x.size
    for edge, below in zip(edges[1:-1], np.cumsum(counts)[:-1], strict=True):
        if edge > 0:
            least, most = ((x < edge * (1 + sign * 2**-8)).sum() for sign in (-1, 1))
            assert least <= below <= most


# TensorBoard --------------------------------------------------------------------------------


def accumulated(folder: Path) -> Any:
    reader = need("tensorboard.backend.event_processing.event_accumulator")
    found = reader.EventAccumulator(str(folder), size_guidance={"histograms": 0, "scalars": 0})
    found.Reload()
    return found


def test_tensorboard_reads_every_statistic_and_histogram(trained: Training, tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path / "events")
    for step in trained.steps:
        sink.write(step, trained.at(step))
    found = accumulated(tmp_path / "events")  # while the training goes on
    sink.close()
    assert found.Tags()["histograms"] == [f"distviz/act/layer_{layer:02d}" for layer in range(4)]
    for index, step in enumerate(trained.steps):
        values = {tag: found.Scalars(tag)[index] for tag in found.Tags()["scalars"]}
        assert {event.step for event in values.values()} == {step}
        check_scalars({tag: event.value for tag, event in values.items()}, trained, step)
        drawn = found.Histograms(NAME)[index]
        assert drawn.step == step
        value = drawn.histogram_value
        edges = [-math.inf, *value.bucket_limit]
        check_bins(value.bucket, edges, step)
        assert (value.min, value.max) == (0, activations(step, 2).max())


def test_a_resumed_training_adds_to_the_events(trained: Training, tmp_path: Path) -> None:
    for step in trained.steps:
        sink = TensorBoardSink(tmp_path / "events")
        sink.write(step, trained.at(step))
        sink.close()
    found = accumulated(tmp_path / "events")
    assert [event.step for event in found.Scalars(f"{NAME}/std")] == trained.steps


# Weights & Biases and trackio ---------------------------------------------------------------


class _Histogram:
    def __init__(self, np_histogram: tuple[Any, Any]) -> None:
        self.counts, self.edges = np_histogram


class _Run:
    """Takes what is logged."""

    def __init__(self) -> None:
        self.logged: list[dict[str, Any]] = []
        self.axes: dict[str, str] = {}

    def log(self, values: dict[str, Any]) -> None:
        self.logged.append(values)

    def define_metric(self, name: str, step_metric: str) -> None:
        self.axes[name] = step_metric


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> _Run:
    """Modules with the parts of wandb and trackio that the sinks use, and their active run."""
    run = _Run()
    current = SimpleNamespace(current_run=SimpleNamespace(get=lambda: run))
    modules = {"wandb": {"run": run}, "trackio": {"context_vars": current}}
    for name, parts in modules.items():
        module = SimpleNamespace(Histogram=_Histogram, **parts)
        monkeypatch.setitem(sys.modules, name, module)  # type: ignore[arg-type]
    return run


@pytest.mark.parametrize("sink_of", [WandbSink, TrackioSink])
@pytest.mark.parametrize("is_given", [False, True])
def test_a_run_gets_scalars_and_histograms(
    trained: Training, pretended: _Run, sink_of: Any, is_given: bool
) -> None:
    run = _Run() if is_given else pretended
    sink = sink_of(run) if is_given else sink_of()
    for step in trained.steps:
        sink.write(step, trained.at(step))
    sink.close()
    assert run.axes == ({"distviz/*": "distviz/step"} if sink_of is WandbSink else {})
    for values, step in zip(run.logged, trained.steps, strict=True):
        assert values.pop("distviz/step") == step
        histograms = {n: one for n, one in values.items() if isinstance(one, _Histogram)}
        assert list(histograms) == [f"distviz/act/layer_{layer:02d}" for layer in range(4)]
        check_bins(histograms[NAME].counts, histograms[NAME].edges, step)
        check_scalars({n: v for n, v in values.items() if n not in histograms}, trained, step)


@pytest.mark.parametrize(("sink_of", "package"), [(WandbSink, "wandb"), (TrackioSink, "trackio")])
def test_what_is_missing_is_named(
    sink_of: Any, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RequestError, match=f"needs the package {package}.*\npip install {package}"):
        sink_of()
    idle = SimpleNamespace(run=None, context_vars=SimpleNamespace())
    idle.context_vars.current_run = SimpleNamespace(get=lambda: None)
    monkeypatch.setitem(sys.modules, package, idle)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=f"no run of {package} is active"):
        sink_of()


def test_tensorboard_is_named_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.record_writer", None)
    with pytest.raises(RequestError, match="needs the package tensorboard"):
        TensorBoardSink(tmp_path)


def _wandb_records(path: Path) -> Iterator[Any]:
    """Read the file of an offline run: records in blocks of 32 KiB, as of LevelDB's log."""
    proto = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32_768 - at % 32_768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = proto.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def _logged(file: Path) -> list[dict[str, Any]]:
    rows = []
    for record in _wandb_records(file):
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items})
    return [row for row in rows if "distviz/step" in row]


def test_weights_and_biases_keeps_it(
    trained: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline, where the package is installed."""
    wandb = pytest.importorskip("wandb")
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_SILENT", "true")):
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    run = wandb.init(project="p", dir=str(tmp_path))
    sink = WandbSink()
    for step in trained.steps:
        run.log({"loss": 1.0})
        sink.write(step, trained.at(step))
    run.finish()
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    for _ in range(100):  # another process writes it
        if len(shown := _logged(file)) == len(trained.steps):
            break
        time.sleep(0.3)
    for row, step in zip(shown, trained.steps, strict=True):
        assert row["distviz/step"] == step
        check_bins(row[f"{NAME}/values"], row[f"{NAME}/bins"], step)
        drawn = ("_type", "values", "bins")
        names = [n for n in row if n.startswith("distviz/act") and n.split("/")[-1] not in drawn]
        check_scalars({name: row[name] for name in names}, trained, step)


def test_trackio_keeps_it(
    trained: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the package is installed; it reads the folder when it is imported."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    trackio = pytest.importorskip("trackio")
    trackio.init(project="p", name="r", embed=False, auto_log_cpu=False)
    sink = TrackioSink()
    for step in trained.steps:
        sink.write(step, trained.at(step))
    trackio.finish()
    with sqlite3.connect(tmp_path / "p.db") as database:
        rows = [json.loads(row[0]) for row in database.execute("select metrics from metrics")]
    for row, step in zip(rows, trained.steps, strict=True):
        assert row.pop("distviz/step") == step
        drawn = {name: row.pop(name) for name in [*row] if isinstance(row[name], dict)}
        check_bins(drawn[NAME]["values"], drawn[NAME]["bins"], step)
        check_scalars(row, trained, step)


# Names and bins -----------------------------------------------------------------------------


def test_every_place_has_a_name_of_its_own() -> None:
    keys = [
        place(3, "before"),
        place(3, "after"),
        place(12, "before", "gradient:act"),
        place(0, "before", "act")._replace(stack="vision"),
        place(-1, "before", "module:*norm", "model.norm"),
        place(5, "before", "module:*.mlp", "model.layers.5.mlp.a"),
        place(5, "before", "module:*.mlp", "model.layers.5.mlp.b"),
    ]
    names = sink_names(run_of(dict.fromkeys(keys, np.ones(3, np.float32))))
    assert [names[key] for key in keys] == [
        "distviz/act/layer_03",
        "distviz/act/layer_03/after",
        "distviz/gradient:act/layer_12",
        "distviz/act/layer_00/vision",
        "distviz/module:*norm/outside/model.norm",
        "distviz/module:*.mlp/layer_05/model.layers.*.mlp.a",
        "distviz/module:*.mlp/layer_05/model.layers.*.mlp.b",
    ]
    assert len({*names.values()}) == len(keys)


@pytest.mark.parametrize("most", [1, 3, 7, 100])
def test_joined_bins_keep_every_value(most: int) -> None:
    edges = np.array([0, 1, 3, 4, 7, 8, 9, 12.0])
    table = pd.DataFrame({"bin_left": edges[:-1], "bin_right": edges[1:], "count": range(1, 8)})
    counts, joined = merged_bins(table, most)
    assert len(counts) == len(joined) - 1 <= most
    assert (counts.sum(), joined[0], joined[-1]) == (28, 0, 12)
    expected, _ = np.histogram(np.repeat(edges[:-1], range(1, 8)), joined)
    np.testing.assert_array_equal(counts, expected)


def test_a_place_without_finite_values_has_no_histogram(pretended: _Run) -> None:
    values = {0: np.full((2, 3, 4), np.nan, np.float32), 1: activations(0, 1)}
    WandbSink().write(0, run_of({place(n, "before"): array for n, array in values.items()}))
    (row,) = pretended.logged
    assert "distviz/act/layer_00" not in row
    assert row["distviz/act/layer_00/nan"] == 24
    assert "distviz/act/layer_01" in row
