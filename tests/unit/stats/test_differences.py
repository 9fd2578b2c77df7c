"""How far two tensors are from each other, against NumPy on all rows at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from distviz.stats import Difference, Differences, decode, encode, kernels
from distviz.stats.differences import MOST_ROWS

ROWS, WIDTH = 400, 70


def _sides() -> tuple[np.ndarray, np.ndarray]:
    made = np.random.default_rng(2)
    a = made.standard_normal((ROWS, WIDTH)).astype(np.float32)
    scale = made.exponential(size=(ROWS, 1)) * made.exponential(size=(1, WIDTH))
    return a, (a + 0.1 * scale * made.standard_normal((ROWS, WIDTH))).astype(np.float32)


def _tokens() -> np.ndarray:
    rows = np.arange(ROWS)
    return np.stack([rows // 90, rows % 90 // 30, rows % 30, rows + 1000], 1)


@pytest.mark.parametrize("size", [1, 7, 64, ROWS])
def test_parts_add_up_to_the_whole(size: int) -> None:
    a, b = _sides()
    found, tokens = Differences(), _tokens()
    for start in range(0, ROWS, size):
        part = slice(start, start + size)
        sums = kernels.compare(torch.from_numpy(a[part]), torch.from_numpy(b[part]), found.most)
        found.add(sums, tokens[part])
    x, y = a.astype(float), b.astype(float)
    d = y - x
    total = found.total
    assert total.sqnr_db == pytest.approx(10 * np.log10((x**2).sum() / (d**2).sum()), rel=1e-12)
    assert total.relative_error == pytest.approx(math.sqrt((d**2).sum() / (x**2).sum()), rel=1e-12)
    cosine = (x * y).sum() / math.sqrt((x**2).sum() * (y**2).sum())
    assert total.cosine == pytest.approx(cosine, rel=1e-12)
    of_rows = (x * y).sum(1) / np.sqrt((x**2).sum(1) * (y**2).sum(1))
    assert found.mean_cosine == pytest.approx(of_rows.mean(), rel=1e-12)
    assert total.mean_abs == pytest.approx(np.abs(d).mean(), rel=1e-12)
    row, channel = np.unravel_index(np.abs(d).argmax(), d.shape)
    assert found.most == np.abs(d).max()
    assert (found.most_token, found.most_channel) == (tuple(tokens[row]), channel)
    for document, one in found.documents.items():
        here = tokens[:, 0] == document
        assert one.error == pytest.approx((d[here] ** 2).sum(), rel=1e-12)
        assert one.count == here.sum() * WIDTH
    errors = (d**2).sum(1)
    order = np.argsort(-errors, kind="stable")[:MOST_ROWS]
    worst = list(found.worst_tokens())
    assert [token for token, *_ in worst] == [tuple(tokens[row]) for row in order]
    np.testing.assert_allclose([one[1] for one in worst], errors[order] / errors.sum())
    by_channel, energy = (d**2).sum(0), (x**2).sum(0)
    chosen = np.argsort(-by_channel, kind="stable")[:MOST_ROWS]
    channels = list(found.worst_channels())
    assert [one[0] for one in channels] == chosen.tolist()
    expected = [by_channel / by_channel.sum(), energy / energy.sum(), np.sqrt(by_channel / energy)]
    for number, values in enumerate(expected, 1):
        np.testing.assert_allclose([one[number] for one in channels], values[chosen], rtol=1e-12)


def test_the_edges_of_the_quotients() -> None:
    nothing = Difference()
    assert all(map(math.isnan, (nothing.sqnr_db, nothing.relative_error, nothing.mean_abs)))
    same = Difference(0.0, 3.0, 3.0, 3.0, 0.0, 2)
    assert (same.sqnr_db, same.relative_error, same.cosine) == (math.inf, 0, 1)
    from_zero = Difference(4.0, 0.0, 4.0, 0.0, 2.0, 1)
    assert from_zero.sqnr_db == -math.inf
    assert math.isnan(from_zero.relative_error)
    assert math.isnan(from_zero.cosine)


def test_equal_errors_keep_the_tokens_that_come_first() -> None:
    rows = 3 * MOST_ROWS
    a = torch.zeros(rows, 2)
    tokens = np.stack([np.arange(rows), *[np.zeros(rows, int)] * 3], 1)
    found = Differences()
    for part in (slice(MOST_ROWS, None), slice(0, MOST_ROWS)):
        found.add(kernels.compare(a[part], a[part] + 1), tokens[part])
    assert [token.document for token, *_ in found.worst_tokens()] == list(range(MOST_ROWS))


@pytest.mark.parametrize("n_parts", [2, 3, 5])
def test_parts_of_several_processes_are_the_whole(n_parts: int) -> None:
    """To the bit, in any order, though a document is in several parts."""
    blocks = np.array_split(np.arange(ROWS), 20)
    whole = Differences()
    a, b = (torch.from_numpy(side) for side in _sides())
    for block in blocks:
        whole.add(kernels.compare(a[block], b[block], whole.most), _tokens()[block])
    parts = [Differences() for _ in range(n_parts)]
    for number, block in enumerate(blocks):
        part = parts[number % n_parts]
        part.add(kernels.compare(a[block], b[block], part.most), _tokens()[block])
    for order in (parts, parts[::-1]):
        states = [decode(encode(part.state())) for part in order]
        total = Differences()
        for state in states:
            total = total + Differences.from_state(state)
        assert total.documents == whole.documents
        assert total.total == whole.total
        for side in ("worst_channels", "worst_tokens"):
            assert list(getattr(total, side)()) == list(getattr(whole, side)())
        for name in ("tokens", "n_cosines", "mean_cosine", "left_out"):
            assert getattr(total, name) == getattr(whole, name)
        for name in ("most", "most_token", "most_channel"):
            assert getattr(total, name) == getattr(whole, name)


def test_of_equal_differences_the_first_in_the_text_is_named() -> None:
    parts = []
    for document, value in ((5, 2.0), (3, 2.0), (1, 0.0), (4, 2.0)):
        part = Differences()
        a, b = torch.zeros(2, 3), torch.zeros(2, 3)
        b[1, 2] = value
        tokens = np.array([[document, 0, 0, 7], [document, 0, 1, 7]])
        part.add(kernels.compare(a, b, part.most), tokens)
        parts.append(part)
    total = Differences()
    for part in parts:
        total = total + part
    assert (total.most, total.most_token, total.most_channel) == (2.0, (3, 0, 1, 7), 2)
