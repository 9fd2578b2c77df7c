"""Statistics of single tokens: against plain formulas, with NaN, with experts; bins of distance."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import torch
from support.brute_force import gini_of

from distviz.data.corpus import Corpus, Window
from distviz.data.documents import Document
from distviz.hooks import token_recorder as positions
from distviz.hooks.moe_layouts import Routed
from distviz.hooks.token_recorder import STATISTICS, PositionRecorder, token_statistics
from distviz.hooks.tokens import Tokens
from distviz.results.filler_study import QUANTITIES
from distviz.sites import HookPoint, SiteKey
from distviz.studies import filler_positions

if TYPE_CHECKING:
    from numpy.typing import NDArray

EPS = 0.3
POINT = HookPoint(2, "decoder", "act", "m", "output")
PLACE = SiteKey(2, "decoder", "act", "before", "m")


def plain(row: NDArray[np.float32], eps: float = EPS) -> list[float]:
    """The five statistics by their definitions, one value after another."""
    x = [float(value) for value in row if math.isfinite(value)]
    mean = math.fsum(x) / len(x)
    return [
        sum(abs(value) < eps for value in x) / len(x),
        math.fsum((value - mean) ** 2 for value in x) / len(x),
        math.fsum(map(abs, x)),
        math.sqrt(math.fsum(value * value for value in x)),
        gini_of(np.array(x)),
    ]


def test_every_row_against_its_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    values = (rng.standard_normal((37, 50)) ** 3).astype(np.float32)
    values[5] += 1000  # a mean far from 0 costs the variance no digits
    values[7, 3], values[7, 9], values[20] = np.nan, -np.inf, np.nan
    values[11] = 0
    monkeypatch.setattr(positions, "_CHUNK", 500)  # several pieces
    found = token_statistics(values, EPS)
    for index, row in enumerate(values):
        if index == 20:
            assert np.isnan(found[index]).all()
        elif index == 11:
            assert found[index, :4].tolist() == [1, 0, 0, 0]
            assert math.isnan(found[index, 4])
        else:
            assert found[index].tolist() == pytest.approx(plain(row), rel=1e-12, abs=1e-15)
    assert np.isnan(token_statistics(values, math.nan)[0, 0])


def tokens_of(counted: NDArray[np.bool_], routed: Routed | None = None) -> Tokens:
    shape = counted.shape
    zeros = np.zeros(shape, np.int64)
    documents = np.arange(shape[0]) + 4
    return Tokens(
        np.ones(shape, bool), counted, documents, zeros, zeros,
        whole=frozenset(documents.tolist()), routed=routed,
    )  # fmt: skip


def test_counted_tokens_use_the_band_of_their_document() -> None:
    values = torch.randn(2 * 6, 40, generator=torch.Generator().manual_seed(1)).bfloat16()
    counted = np.ones((2, 6), bool)
    counted[0, 2:4] = counted[1, 5] = False
    recorder = PositionRecorder()
    recorder.add(POINT, "before", values, tokens_of(counted))
    frame = recorder.documents.frame().set_index("document")
    raw = values.float().numpy().reshape(2, 6, 40)
    for row, document in enumerate((4, 5)):
        eps = frame.loc[document, "eps"]
        assert recorder.bands[document, PLACE] == eps
        expected = [plain(token, eps) for token in raw[row][counted[row]]]
        assert recorder.rows[PLACE, document] == pytest.approx(np.array(expected), rel=1e-12)
        # bf16 is counted exactly, so the document's share is the mean of its tokens' shares
        near = recorder.rows[PLACE, document][:, 0].mean()
        assert near == pytest.approx(frame.loc[document, "near_zero"], rel=1e-12)
    given = PositionRecorder(given={(4, PLACE): 0.5})
    given.add(POINT, "before", values, tokens_of(counted))
    assert given.rows[PLACE, 4][0, 0] == (np.abs(raw[0, 0]) < 0.5).mean()
    assert np.isnan(given.rows[PLACE, 5][:, 0]).all()


def test_the_values_of_a_token_in_several_experts_are_described_together() -> None:
    # Tokens 0..5 of two documents; token 3 visits one expert alone, token 4 none, rows unsorted.
    pairs = [(t, s) for t in (0, 1, 2, 5) for s in (0, 1)] + [(3, 0), (-1, 0)]
    order = np.random.default_rng(2).permutation(len(pairs))
    token, slot = np.array(pairs)[order].T
    routed = Routed(token, np.zeros(len(pairs), np.int64), slot, 6, 4)
    values = torch.randn(len(pairs), 8, generator=torch.Generator().manual_seed(5))
    counted = np.array([[True, False, True], [True, True, True]])
    recorder = PositionRecorder(given=dict.fromkeys([(4, PLACE), (5, PLACE)], EPS))
    recorder.add(POINT, "before", values, tokens_of(counted, routed))
    rows = values.numpy()

    def of(number: int) -> list[float]:
        return plain(
            np.concatenate([rows[(token == number) & (slot == s)].ravel() for s in (0, 1)])
        )

    assert recorder.rows[PLACE, 4] == pytest.approx(np.array([of(0), of(2)]), rel=1e-12)
    second = recorder.rows[PLACE, 5]
    assert second[[0, 2]] == pytest.approx(np.array([of(3), of(5)]), rel=1e-12)
    assert np.isnan(second[1]).all()


class Letters:
    """A tokenizer that only decodes."""

    def decode(self, ids: list[int]) -> str:
        return chr(ids[0])


def corpus(with_filler: bool) -> Corpus:
    """<, one system token, (two fillers,) and a question of three or five tokens."""
    windows = []
    for number, question in enumerate(("xyz", "vwxyz")):
        text = "<s" + "//" * with_filler + question
        parts = [0, 1] + [4, 4] * with_filler + [2] * len(question)
        ids = np.array([ord(letter) for letter in text])
        windows.append(
            Window(number, 0, ids, True, np.array(parts, np.int8), np.zeros(len(parts), np.int8))
        )
    documents = [Document("a", question="xyz"), Document("b", question="vwxyz")]
    return Corpus(windows, documents, np.zeros(200, np.int64), frozenset({ord("<")}), "")


def test_tokens_are_named_by_place() -> None:
    names = filler_positions.token_names(corpus(with_filler=True), Letters())
    second = names[names["document"] == 1]
    assert second["token"].tolist() == list("<svwxyz")
    assert second["part"].tolist() == ["start", "system", *["question"] * 5]
    assert second["position"].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert second["distance"].tolist() == [-2, -1, 1, 2, 3, 4, 5]
    plain_names = filler_positions.token_names(corpus(with_filler=False), Letters())
    assert plain_names["token"].tolist() == names["token"].tolist()
    assert plain_names["distance"].tolist()[:5] == [-5, -4, -3, -2, -1]
    few = filler_positions.token_names(corpus(with_filler=True), Letters(), skip_special=True)
    assert few["token"].tolist() == list("sxyzsvwxyz")
    assert few["position"].tolist()[:2] == [1, 2]


def test_changes_token_by_token_and_by_distance() -> None:
    rng = np.random.default_rng(8)
    names = filler_positions.token_names(corpus(with_filler=True), Letters())
    sides = [
        {(PLACE, 0): rng.random((5, 5)) + 0.1, (PLACE, 1): rng.random((7, 5)) + 0.1}
        for _ in range(2)
    ]
    sides[1][PLACE, 0][4, 1] = 0  # no variance: no logarithm
    table = filler_positions.token_changes(names, *sides, 2)
    before, after = (np.concatenate([side[PLACE, 0], side[PLACE, 1]]) for side in sides)
    for column, (statistic, quantity) in enumerate(zip(STATISTICS, QUANTITIES, strict=True)):
        assert (table[statistic] == before[:, column]).all()
        x, y = before[:, column], after[:, column]
        with np.errstate(divide="ignore"):
            expected = np.log(y / x) if quantity.startswith("log") else y - x
        expected[np.isinf(expected)] = np.nan
        assert table[quantity].to_numpy() == pytest.approx(expected, rel=1e-12, nan_ok=True)
    assert set(table["filler_count"]) == {2}
    assert set(table["module"]) == {"m"}

    found = filler_positions.by_distance(table)
    gini = found[found["quantity"] == "gini_difference"].set_index("distance_low")
    assert gini.index.tolist() == [-2, -1, 1, 2, 3, 4, 5]
    assert gini["tokens"].tolist() == [2, 2, 2, 2, 2, 1, 1]
    change = table["gini_difference"].to_numpy()
    assert gini.loc[1, "estimate"] == pytest.approx((change[2] + change[7]) / 2, rel=1e-12)
    assert gini.loc[1, "documents"] == 2
    assert gini.loc[4, "documents"] == 1
    assert math.isnan(gini.loc[4, "estimate"])  # nothing can be said of one prompt


def test_experts_that_no_token_reaches_leave_the_change_open() -> None:
    names = filler_positions.token_names(corpus(with_filler=True), Letters())
    side = {(PLACE, 0): np.ones((5, 5)), (PLACE, 1): np.ones((7, 5))}
    table = filler_positions.token_changes(names, side, {(PLACE, 0): np.ones((5, 5))}, 2)
    open_ = table.groupby("document")["near_zero_difference"].apply(lambda rows: rows.isna().all())
    assert open_.tolist() == [False, True]


def test_bins_hold_every_distance_once() -> None:
    distance = np.array([d for d in range(-70, 71) if d])
    frame = pd.DataFrame({"filler_count": 1, "distance": distance, "document": 0})
    frame = frame.assign(layer=0, site="act", module="m", stack="decoder")
    frame = pd.concat([frame, frame.assign(document=1)], ignore_index=True)
    frame = frame.assign(**dict.fromkeys(QUANTITIES, frame["distance"].astype(float)))
    found = filler_positions.by_distance(frame)
    bins = found.drop_duplicates("distance_low")[["distance_low", "distance_high", "tokens"]]
    near = [(n, n) for n in (1, 2, 3, 4)]
    ends = [*near, (5, 8), (9, 16), (17, 32), (33, 64), (65, 128)]
    every = [(-high, -low) for low, high in reversed(ends)] + ends
    assert [tuple(row) for row in bins.to_numpy()[:, :2].tolist()] == every
    for low, high, tokens in bins.to_numpy().tolist():
        inside = distance[(distance >= low) & (distance <= high)]
        assert tokens == 2 * inside.size
        mean = found.loc[found["distance_low"] == low, "estimate"].iloc[0]
        assert mean == pytest.approx(inside.mean())
