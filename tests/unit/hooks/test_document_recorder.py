"""Rows of documents against NumPy, whatever the order of adding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from distviz.hooks.document_recorder import Documents, merged
from distviz.sites import SiteKey
from distviz.stats import decode, encode, kernels

BEFORE, AFTER = (SiteKey(0, "decoder", "act", phase, "m") for phase in ("before", "after"))
C = 0.1


def add(documents: Documents, key: SiteKey, number: int, values: Any, *, whole: bool) -> None:
    rows = torch.from_numpy(np.asarray(values, np.float32).reshape(1, -1))
    found = kernels.observe(rows, np.zeros(1, np.int64), 1, channels=False)
    kind = (found.grid, found.is_rounded)
    documents.add(key, number, found.tables[0], found.moments[0], kind, is_whole=whole)


def expected(values: np.ndarray[Any, Any], eps: float) -> dict[str, float]:
    size, n = np.sort(np.abs(values)), values.size
    return {
        "count": n,
        "mean": values.mean(),
        "std": values.std(),
        "near_zero": (size < eps).mean(),
        "l1": size.sum(),
        "l2": np.sqrt((values**2).sum()),
        "gini": 2 * (size @ np.arange(1, n + 1)) / (n * size.sum()) - (n + 1) / n,
        "absmax": size[-1],
    }


def sample(seed: int) -> np.ndarray[Any, Any]:
    """Values that every grid holds exactly."""
    return np.random.default_rng(seed).integers(-64, 65, 50) / 32


@pytest.mark.parametrize("n_parts", [1, 3])
def test_rows_follow_their_definition(n_parts: int) -> None:
    documents = Documents(C)
    before, after = sample(1), sample(2)
    for part in np.array_split(before, n_parts):
        add(documents, BEFORE, 7, part, whole=n_parts == 1)
    for part in np.array_split(after, n_parts):
        add(documents, AFTER, 7, part, whole=n_parts == 1)
    documents.close()
    frame = documents.frame().set_index("phase")
    assert frame["document"].tolist() == [7, 7]
    eps = frame.loc["before", "eps"]
    assert frame.loc["after", "eps"] == eps > 0
    for phase, values in (("before", before), ("after", after)):
        for name, number in expected(values, eps).items():
            assert frame.loc[phase, name] == pytest.approx(number, rel=1e-6), name


def test_without_the_phase_before_there_is_no_band() -> None:
    documents = Documents(C)
    add(documents, AFTER, 0, sample(3), whole=True)
    row = documents.frame().iloc[0]
    assert math.isnan(row["eps"])
    assert math.isnan(row["near_zero"])
    assert math.isnan(documents.band(0, AFTER))


def test_the_band_is_known_until_it_is_forgotten() -> None:
    documents = Documents(C)
    add(documents, BEFORE, 0, sample(3), whole=True)
    assert documents.band(0, AFTER) == documents.frame()["eps"][0]
    documents.forget([0])
    assert math.isnan(documents.band(0, AFTER))


def test_sums_and_states_give_the_same_rows() -> None:
    def half(numbers: tuple[int, ...], seed: int) -> Documents:
        documents = Documents(C)
        for number in numbers:
            for key in (BEFORE, AFTER):
                add(documents, key, number, sample(seed + number), whole=number > 1)
        return documents

    total = half((0, 1, 2), 5) + half((1, 3), 9)  # document 1 is unfinished in both
    assert sorted(total.open_documents()) == [0, 1]
    together = Documents(C)
    for number, seed in ((0, 5), (1, 5), (2, 5), (1, 9), (3, 9)):
        for key in (BEFORE, AFTER):
            add(together, key, number, sample(seed + number), whole=number > 1)
    pd.testing.assert_frame_equal(total.frame(), together.frame())
    again = Documents.from_state(decode(encode(total.state())))
    pd.testing.assert_frame_equal(again.frame(), total.frame())


def test_mappings_merge_by_key() -> None:
    assert merged({"a": 1, "b": 2}, {"b": 3, "c": 4}) == {"a": 1, "b": 5, "c": 4}
    nested = merged({"a": {"x": 1}}, {"a": {"x": 2, "y": 3}}, merged)
    assert nested == {"a": {"x": 3, "y": 3}}
    assert list(merged({"b": 1}, {"a": 1})) == ["b", "a"]


@pytest.mark.parametrize("mixed", [False, True])
def test_norms_of_wide_values_are_taken_before_rounding(mixed: bool) -> None:
    values = np.random.default_rng(8).standard_normal((2, 40)).astype(np.float32)
    values[1, 3] = 1234.567
    parts = [torch.from_numpy(row[None]) for row in values]
    if mixed:
        parts[0] = parts[0].to(torch.bfloat16)
    documents = Documents(C)
    for part in parts:
        found = kernels.observe(part, np.zeros(1, np.int64), 1, channels=False)
        kind = (found.grid, found.is_rounded)
        documents.add(BEFORE, 3, found.tables[0], found.moments[0], kind, is_whole=False)
    documents = Documents.from_state(decode(encode(documents.state())))
    documents.close()
    row = documents.frame().iloc[0]
    x = np.concatenate([part.double().numpy().ravel() for part in parts])
    assert row["l1"] == pytest.approx(np.abs(x).sum(), rel=1e-13)
    assert row["l2"] == pytest.approx(np.sqrt((x**2).sum()), rel=1e-13)
    assert row["l2"] ** 2 == pytest.approx(x.size * (row["std"] ** 2 + row["mean"] ** 2), rel=1e-12)
