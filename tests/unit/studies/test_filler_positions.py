"""Changes along the prompt: distances by hand, changes and bins by plain loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.synthetic_runs import place
from support.word_tokenizer import word_tokenizer

from distviz.data.corpus import tokenize
from distviz.data.documents import Document
from distviz.data.prompts import Filler
from distviz.results.filler_study import QUANTITIES
from distviz.studies.filler_positions import by_distance, token_changes, token_names

PROMPTS = [Document("p", system="a b c", question="d e ?"), Document("q", question="f g")]


def names_with(count: int) -> pd.DataFrame:
    tokenizer = word_tokenizer()
    filler = Filler("/", count, "between", 0) if count else None
    return token_names(tokenize(PROMPTS, tokenizer, filler=filler), tokenizer)


def test_own_tokens_and_their_distances() -> None:
    found = names_with(3)
    assert found["token"].tolist() == ["a", "b", "c", "d", "e", "?", "f", "g"]
    assert found["document"].tolist() == [0] * 6 + [1] * 2
    assert found["position"].tolist() == [0, 1, 2, 3, 4, 5, 0, 1]
    assert found["distance"].tolist() == [-3, -2, -1, 1, 2, 3, 1, 2]
    assert found["part"].tolist() == ["system"] * 3 + ["question"] * 5
    without = names_with(0)
    assert without["token"].tolist() == found["token"].tolist()
    assert without["distance"].tolist() == [-6, -5, -4, -3, -2, -1, -2, -1]


def test_changes_are_differences_and_ratios() -> None:
    names, generator = names_with(3), np.random.default_rng(2)
    sizes, key = {0: 6, 1: 2}, place(1, "before")
    sides: list[Any] = [
        {(key, document): generator.random((n, 5)) + 0.1 for document, n in sizes.items()}
        for _ in range(2)
    ]
    found = token_changes(names, *sides, 3)
    assert set(found["filler_count"]) == {3}
    for row in range(8):
        document, position = (0, row) if row < 6 else (1, row - 6)
        x, y = (side[key, document][position] for side in sides)
        for index, quantity in enumerate(QUANTITIES):
            is_log = quantity.startswith("log_")
            expected = math.log(y[index] / x[index]) if is_log else y[index] - x[index]
            assert found[quantity].iloc[row] == pytest.approx(expected, rel=1e-12, abs=1e-15)


def bin_of(distance: int) -> tuple[int, int]:
    size, low, high = abs(distance), 1, 1
    while high < size:
        low, high = high + 1, high * 2 if high >= 4 else high + 1
    return (low, high) if distance > 0 else (-high, -low)


def test_means_by_distance() -> None:
    generator = np.random.default_rng(5)
    distances = [*range(-20, 0), *range(1, 40)]
    rows = pd.DataFrame(
        [
            {"filler_count": 4, "layer": 0, "site": "act", "module": "m", "stack": "decoder"}
            | {"document": document, "distance": distance}
            | dict(zip(QUANTITIES, generator.normal(size=5), strict=True))
            for document in range(9)
            for distance in distances
        ]
    )
    found = by_distance(rows)
    bins = [bin_of(distance) for distance in distances]
    assert set(zip(found["distance_low"], found["distance_high"], strict=True)) == set(bins)
    for row in found.itertuples():
        chosen = [d for d, b in zip(distances, bins, strict=True)
                  if b == (row.distance_low, row.distance_high)]  # fmt: skip
        part = rows[rows["distance"].isin(chosen)]
        means = [part.loc[part["document"] == k, row.quantity].mean() for k in range(9)]
        assert row.tokens == len(part)
        assert row.estimate == pytest.approx(np.mean(means), rel=1e-9, abs=1e-12)
