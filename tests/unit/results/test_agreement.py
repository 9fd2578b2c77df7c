"""Files of a folder that contradict each other are refused, with or without checksums."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.synthetic_comparisons import make
from support.synthetic_fillers import study

from distviz.errors import RequestError
from distviz.results.loading import load
from distviz.results.run import Run
from distviz.studies.comparison import compare_runs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run as an earlier version wrote it, without checksums."""
    folder = make(1).run.save(tmp_path / "run")
    strip(folder / "run.json")
    return folder


def strip(path: Path, **fields: Any) -> None:
    content = json.loads(path.read_text()) | fields
    kept = {name: value for name, value in content.items() if not name.startswith("checksum")}
    path.write_text(json.dumps(kept))


def _table(name: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        table = pd.read_parquet(folder / name)
        change(table).to_parquet(folder / name, index=False)

    return edit


def _swap(name: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        other = make(2, documents=8, layers=2).run.save(folder.parent / "other")
        shutil.copy(other / name, folder / name)

    return edit


CONTRADICTIONS = {
    "documents of another run": _swap("documents.parquet"),
    "channels of another run": _swap("channels.parquet"),
    "counts of another run": _swap("counts.parquet"),
    "fewer documents": _table("documents.parquet", lambda t: t[t["document"] > 0]),
    "documents twice": _table("documents.parquet", lambda t: pd.concat([t, t[:1]])),
    "other channel counts": _table("channels.parquet", lambda t: t.assign(count=t["count"] + 1)),
    "another layer": _table("documents.parquet", lambda t: t.assign(layer=t["layer"] + 7)),
    "counts that overflow": _table("channels.parquet", lambda t: t.assign(count=2**62)),
    "fewer documents in the manifest": lambda folder: strip(
        folder / "run.json", text={"documents": 3}
    ),
    "documents without their numbers": _table(
        "documents.parquet", lambda t: t.drop(columns="document")
    ),
    "other token classes": lambda folder: strip(folder / "run.json", token_classes={"digits": 1}),
}


@pytest.mark.parametrize("change", [{"value": 99.5}, {"layer": 2, "site": "gate"}])
def test_extremes_that_were_not_counted_are_refused(change: Any, folder: Path) -> None:
    run = Run.load(folder)
    key = run.keys[0]
    sketch = run.merged[key]
    value = max((sketch.min, sketch.max), key=abs)
    row = {"rank": 1, "value": value, "document": 0, "window": 0, "position": 3, "token": "a"}
    named = {**key._asdict(), **row, "channel": 2, "ratio": 3.5}
    pd.DataFrame([named]).to_csv(folder / "extremes.csv", index=False)
    assert Run.load(folder).extremes["value"].tolist() == [value]
    pd.DataFrame([named | change]).to_csv(folder / "extremes.csv", index=False)
    with pytest.raises(RequestError, match=r"extremes\.csv is damaged: counts\.parquet has no"):
        Run.load(folder)


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_contradictions_are_refused(name: str, folder: Path) -> None:
    assert Run.load(folder).n_layers == 3
    CONTRADICTIONS[name](folder)
    with pytest.raises(RequestError, match=r"(parquet|run\.json) is damaged") as caught:
        Run.load(folder)
    assert len(str(caught.value).splitlines()) == 2


def test_moved_values_need_the_values_after(demo_run: Run, tmp_path: Path) -> None:
    kept = {key: found for key, found in demo_run.sketches.items() if key.phase != "after"}
    out = replace(demo_run, sketches=kept, documents=pd.DataFrame(), channels=pd.DataFrame())
    with pytest.raises(RequestError, match=r"moved_before, .* but no layer 0, act, after"):
        Run.load(out.save(tmp_path / "run"))


def test_other_documents_than_those_measured_are_named(demo_run: Run, tmp_path: Path) -> None:
    folder = demo_run.save(tmp_path / "run")
    strip(folder / "run.json")
    assert not Run.load(folder).file_warnings
    path = folder / "documents.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    assert "documents.jsonl changed" in Run.load(folder).file_warnings[0]


def test_a_comparison_of_other_runs_is_refused(tmp_path: Path) -> None:
    folder = compare_runs(make(1).run, make(2).run).save(tmp_path / "c")
    strip(folder / "comparison.json", model_a={"name": "another"})
    with pytest.raises(RequestError, match=r"its model_a is not that of a/run\.json"):
        load(folder)


def test_rows_of_other_pairs_are_refused(tmp_path: Path) -> None:
    folder = compare_runs(make(1).run, make(2).run).save(tmp_path / "c")
    path = folder / "compare.csv"
    table = pd.read_csv(path)
    table.iloc[::-1].to_csv(path, index=False)
    with pytest.raises(RequestError, match=r"compare\.csv is damaged: the runs beside it do not"):
        load(folder)


def test_a_filler_study_has_the_counts_of_its_manifest(tmp_path: Path) -> None:
    folder = study().save(tmp_path / "f")
    strip(folder / "filler.json", counts=[0, 4])
    with pytest.raises(RequestError, match=r"filler\.csv is damaged: it does not hold the counts"):
        load(folder)
