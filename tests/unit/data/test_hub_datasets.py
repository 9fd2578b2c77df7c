"""Datasets in a folder, read as those of the hub."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from distviz.data.documents import Reading, read_documents
from distviz.data.hub_datasets import dataset_rows
from distviz.errors import RequestError

ROWS = [{"question": f"{n} + 1?", "answer": str(n + 1), "level": n} for n in range(6)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A dataset with two splits."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "sums"
    place.mkdir()
    pd.DataFrame(ROWS[:4]).to_parquet(place / "train-00000.parquet")
    pd.DataFrame(ROWS[4:]).to_parquet(place / "test-00000.parquet")
    return str(place)


def test_the_rows_of_a_split(folder: str) -> None:
    found = read_documents([], Reading(dataset=f"{folder}:train"))
    expected = [
        [
            {"role": "user", "content": row["question"]},
            {"role": "assistant", "content": row["answer"]},
        ]
        for row in ROWS[:4]
    ]
    assert [document.as_dict()["messages"] for document in found] == expected
    assert found.notes == (f"{folder}:train: these fields are not measured: 'level'",)
    part = read_documents(["first"], Reading(dataset=f"{folder}:train[1:3]"))
    assert [one.text or one.messages[0][1] for one in part] == ["first", "1 + 1?", "2 + 1?"]


def test_no_more_rows_are_read_than_asked_for(folder: str) -> None:
    found = read_documents([], Reading(dataset=f"{folder}:test", most=1, field="answer"))
    assert [document.text for document in found] == ["5"]


def test_what_cannot_be_read(folder: str, tmp_path: Path) -> None:
    def refuse(name: str, match: str, **options: Any) -> None:
        with pytest.raises(RequestError, match=match):
            list(dataset_rows(name, **options))

    refuse(folder, "several splits: train, test")
    refuse(f"{folder}:validation", "cannot be read")
    refuse(f"{folder}:other/train", "cannot be read")
    refuse(str(tmp_path / "nowhere"), "cannot be read")
    with pytest.raises(RequestError, match="row 1 has no field 'title'"):
        read_documents([], Reading(dataset=f"{folder}:train", field="title"))


def test_a_dataset_of_one_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl").write_text(json.dumps({"text": "one"}) + "\n")
    found = read_documents([], Reading(dataset=str(tmp_path / "data")))
    assert [document.text for document in found] == ["one"]


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(RequestError, match="needs the package datasets"):
        next(dataset_rows("name"))
