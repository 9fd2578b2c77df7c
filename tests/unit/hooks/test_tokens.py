"""The sequences of a call's tokens, as ARM takes them."""

from __future__ import annotations

from typing import Any

import numpy as np

from distviz.hooks.moe_layouts import Routed
from distviz.hooks.tokens import Tokens


def tokens(**fields: Any) -> Tokens:
    valid = np.array([[1, 1, 1, 1], [1, 1, 0, 0]], bool)
    index = np.arange(8).reshape(2, 4)
    classes = np.array([[0, 1, 2, 3], [3, 3, 0, 0]])
    return Tokens(valid, valid, np.array([5, 9]), index, classes, **fields)


def test_sequences_are_rows_without_padding() -> None:
    found = tokens().sequences()
    assert [part.rows.tolist() for part in found] == [[0, 1, 2, 3], [4, 5]]
    assert [part.document for part in found] == [5, 9]
    assert [part.tokens.tolist() for part in found] == [[0, 1, 2, 3], [4, 5]]


def test_sequences_of_experts_are_ordered_by_token_and_slot() -> None:
    order = [(4, 1), (0, 1), (0, 0), (4, 0), (6, 0), (-1, 0)]  # token 6 is padding
    owners, slots = np.array(order).T
    routed = Routed(owners, np.zeros(6, int), slots, 8, 1)
    first, second = tokens(routed=routed).sequences()
    assert (first.rows.tolist(), first.slots.tolist()) == ([2, 1], [0, 1])
    assert (second.rows.tolist(), second.slots.tolist()) == ([3, 0], [0, 1])


def test_several_sequences_in_one_row() -> None:
    valid = np.ones((1, 5), bool)
    packed = Tokens(
        valid, valid, np.zeros(1, int), np.arange(5)[None], np.zeros((1, 5), int), lengths=(2, 3)
    )
    found = packed.sequences()
    assert [part.rows.tolist() for part in found] == [[0, 1], [2, 3, 4]]
    assert [part.document for part in found] == [0, 1]
    assert [part.tokens.tolist() for part in found] == [[0, 1], [0, 1, 2]]
