"""Helpers of a plan: targets, masks and rows of one sequence."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distviz.arm.arm import ARM
from distviz.arm.plan import (
    copy_rows,
    one_sequence,
    sequences_of,
    target_of,
)
from distviz.errors import RequestError


def test_the_k_values_of_lowest_index_are_selected() -> None:
    x = torch.tensor([[0.5, -0.25, 0.5], [2.0, 0.5, -0.5], [0.5, 4.0, 0.125]])
    for fraction in (0.3, 0.45, 0.7, 1.0):
        arm = ARM(fraction=fraction)
        plan = arm.plan(x)
        assert plan is not None
        order = np.argsort(x.abs().numpy().ravel(), kind="stable")[: plan.k]
        assert arm.selected(x).tolist() == sorted(order.tolist())


def test_rows_are_copied_and_the_target_is_checked() -> None:
    x = torch.arange(12.0).reshape(4, 3)
    target = torch.zeros(4, 3)
    copy_rows(x, target, np.array([1, 3]))
    assert target.tolist() == [[0, 0, 0], [3, 4, 5], [0, 0, 0], [9, 10, 11]]
    out = torch.empty(2, 2, 3)
    assert target_of(x, out, out).data_ptr() == out.data_ptr()
    strided = torch.empty(3, 4).T
    assert target_of(x, x, strided).data_ptr() != strided.data_ptr()
    with pytest.raises(RequestError, match=r"out is \(4, 3\) torch.float16, x is \(4, 3\)"):
        target_of(x, x, x.half())


def test_masks_and_rows() -> None:
    batch = torch.zeros(2, 3, 5)
    for mask, rows in (
        (None, [[0, 1, 2], [3, 4, 5]]),
        (torch.tensor([[1, 1, 0], [0, 0, 1]]), [[0, 1], [5]]),
    ):
        first, second = sequences_of(batch, mask, None, None)
        assert [first.rows.tolist(), second.rows.tolist()] == rows
        assert (first.document, second.document) == (0, 1)
        assert second.tokens.tolist() == list(range(len(rows[1])))
        _, second = sequences_of(batch, mask, [7, 9], np.arange(6).reshape(2, 3))
        assert (second.document, second.tokens.tolist()) == (9, rows[1])
    (alone,) = sequences_of(batch[:1], [1, 0, 1], None, [4, 5, 6])  # without the batch dimension
    assert (alone.rows.tolist(), alone.tokens.tolist()) == ([0, 2], [4, 6])
    with pytest.raises(RequestError, match=r"mask has shape \(2,\), expected \(2, 3\)"):
        sequences_of(batch, [1, 1], None, None)
    values, rows = one_sequence(batch, [[1, 0, 1], [0, 0, 1]])
    assert tuple(values.shape) == (6, 5)
    assert rows.tolist() == [0, 2, 5]
    values, rows = one_sequence(torch.tensor(3.0), None)
    assert tuple(values.shape) == (1, 1)
    assert rows.tolist() == [0]
