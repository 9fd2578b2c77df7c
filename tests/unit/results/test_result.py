"""The base of all results, on a small kind of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest

import distviz.results.allocation
import distviz.results.comparison
import distviz.results.filler_study
import distviz.results.run
import distviz.results.sweep
import distviz.results.whatif  # noqa: F401  (each defines a kind of result)
from distviz.errors import RequestError
from distviz.results.columns import Row
from distviz.results.reading import Folder
from distviz.results.result import Result, model_layers

MANIFEST = {"schema_version": 3, "kind": "small", "model": {"layers": 4}}
FIRST = pd.DataFrame({"layer": [0, 0, 2], "site": ["act", "up", "act"], "x": [0.1, 0.2, 1 / 3]})
SECOND = pd.DataFrame({"layer": [0, 2, 2], "site": ["up", "act", "act"], "n": [1, 2**60, 3]})


class First(Row, kw_only=True):
    layer: int
    site: str
    x: float


class Second(Row, kw_only=True):
    layer: int
    site: str
    n: int


@dataclass(frozen=True, repr=False)
class Small(Result):
    FILE = "small.json"
    NOUN = "small result"
    TABLES: ClassVar = {"first.csv": First, "second.parquet": Second}

    first: pd.DataFrame
    second: pd.DataFrame

    @property
    def n_layers(self) -> int:
        return model_layers(self.manifest)

    def tables(self) -> dict[str, pd.DataFrame]:
        return {"first": self.first, "second": self.second}

    def summary(self) -> dict[str, Any]:
        return self.manifest

    def _places(self) -> Iterable[tuple[int, str]]:
        return zip(self.first["layer"], self.first["site"], strict=True)

    @classmethod
    def _from_folder(cls, folder: Folder, tables: Sequence[pd.DataFrame]) -> Small:
        return cls(folder.manifest, *tables, file_warnings=folder.changes())


def test_a_result_is_saved_and_loaded(tmp_path: Path) -> None:
    made = Small(MANIFEST, FIRST, SECOND)
    folder = made.save(tmp_path / "out")
    assert sorted(path.name for path in folder.iterdir()) == [
        "first.csv", "second.parquet", "small.json",
    ]  # fmt: skip
    again = Small.load(folder)
    assert again.manifest == MANIFEST
    pd.testing.assert_frame_equal(again.first, FIRST, check_exact=True)
    pd.testing.assert_frame_equal(again.second, SECOND, check_exact=True)
    with pytest.raises(RequestError, match="exists"):
        made.save(folder)
    (folder / "second.parquet").unlink()
    with pytest.raises(RequestError, match=r"second\.parquet"):
        Small.load(folder)


def test_a_part_has_the_rows_of_its_places() -> None:
    made = Small(MANIFEST, FIRST, SECOND)
    part = made.select(layers=[2])
    assert part.first["x"].tolist() == [1 / 3]
    assert part.second["n"].tolist() == [2**60, 3]
    assert made.select(sites=["up"]).second["n"].tolist() == [1]
    assert made.select().first.equals(FIRST)
    with pytest.raises(
        RequestError, match=r"none of these layers and sites\nit has layers 0, 2; sites act, up"
    ):
        made.select(layers=[1])


def test_the_number_of_layers() -> None:
    assert Small(MANIFEST, FIRST, SECOND).n_layers == 4
    for manifest in ({}, {"model": None}, {"model": {"layers": "4"}}):
        assert model_layers(manifest) == 0


def test_a_result_prints_a_few_lines() -> None:
    model = {"name": "a/b", "activation": "SiLU", "layers": 4, "dtype": "float32"}
    made = Small(MANIFEST | {"model": model, "warnings": ["one", "two"]}, FIRST, SECOND)
    assert repr(made).splitlines() == [
        "Small: b · SiLU · 4 layers · fp32",
        "  tables: first (3 rows), second (3 rows)",
        "  warning: one (and 1 more warning)",
    ]
    assert repr(Small(MANIFEST | {"model": model}, FIRST[:0], SECOND[:0])).count("\n") == 0


def test_every_kind_of_result_prints_itself_so() -> None:
    kinds = {kind.__name__: kind for kind in Result.__subclasses__() if kind.__module__ != __name__}
    assert {"Run", "Comparison", "Sweep", "WhatIf", "FillerStudy", "Allocation"} <= kinds.keys()
    assert all(kind.__repr__ is Result.__repr__ for kind in kinds.values())
