"""The order of the rows of experts, against loops that compute as transformers does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distviz.hooks import moe_layouts
from distviz.hooks.moe_layouts import Layout, Routed

INDEX = torch.tensor([[2, 0], [1, 2], [2, 1], [0, 2]])  # (tokens, slots)
N_EXPERTS = 4

Row = tuple[int, int, int]


def rows(layout: Layout) -> list[Row]:
    routed = layout.routed
    columns = (routed.tokens, routed.experts, routed.slots)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def chosen(index: torch.Tensor) -> list[Row]:
    """(token, expert, slot) of every choice, ordered by token and slot."""
    return [(t, e, s) for t, row in enumerate(index.tolist()) for s, e in enumerate(row)]


def test_batched_rows_are_ordered_by_token_and_slot() -> None:
    layout = moe_layouts.from_index(INDEX, N_EXPERTS, "batched_mm")
    assert (rows(layout), layout.sizes) == (chosen(INDEX), (8,))


def test_grouped_rows_are_ordered_as_torch_sorts() -> None:
    layout = moe_layouts.from_index(INDEX, N_EXPERTS, "grouped_mm")
    order = torch.sort(INDEX.reshape(-1))[1].tolist()
    assert (rows(layout), layout.sizes) == ([chosen(INDEX)[i] for i in order], (8,))


def test_eager_rows_come_expert_by_expert() -> None:
    layout = moe_layouts.from_index(INDEX, N_EXPERTS, "eager")
    pieces = []
    for expert in range(N_EXPERTS):  # the loop of transformers
        slots, tokens = torch.where(expert == INDEX.T)
        pieces.append(
            [(t, expert, s) for t, s in zip(tokens.tolist(), slots.tolist(), strict=True)]
        )
    assert rows(layout) == [row for piece in pieces for row in piece]
    assert layout.sizes == tuple(len(piece) for piece in pieces if piece)


@pytest.mark.parametrize("name", ["batched_mm", "grouped_mm", "eager"])
def test_an_index_beyond_the_experts_belongs_to_no_token(name: str) -> None:
    index = torch.tensor([[0, 4], [-1, 1]])
    found = rows(moe_layouts.from_index(index, 4, name))
    assert [row for row in found if row[0] >= 0] == [(0, 0, 0), (1, 1, 1)]
    assert len(found) == (2 if name == "eager" else 4)


def test_one_hot_choices_are_indices() -> None:
    one_hot = torch.nn.functional.one_hot(INDEX, N_EXPERTS)
    expected = moe_layouts.from_index(INDEX, N_EXPERTS, "batched_mm")
    assert rows(moe_layouts.from_index(one_hot, N_EXPERTS, "batched_mm")) == rows(expected)
    one_hot[1, 0] = 0  # nothing chosen
    found = moe_layouts.from_index(one_hot, N_EXPERTS, "batched_mm")
    assert found.routed.tokens.tolist() == [0, 0, -1, 1, 2, 2, 3, 3]


def test_sorted_indices_of_jetmoe() -> None:
    flat = INDEX.reshape(-1)
    order = torch.argsort(flat, stable=True)
    sizes = torch.bincount(flat, minlength=N_EXPERTS).tolist()
    layout = moe_layouts.by_sorted_index(order, sizes, 2)
    assert rows(layout) == [chosen(INDEX)[i] for i in order.tolist()]


def test_every_expert_of_llama_4_has_every_token() -> None:
    logits = torch.tensor([[0.1, 3.0, 2.0], [5.0, 1.0, 4.0]])
    layout = moe_layouts.chosen_of_every_expert(logits, 2)
    assert layout.routed.experts.tolist() == [0, 0, 1, 1, 2, 2]
    assert layout.routed.tokens.tolist() == [-1, 1, 0, -1, 0, 1]
    assert layout.routed.slots[[1, 2, 4, 5]].tolist() == [0, 0, 1, 1]


def test_shared_experts() -> None:
    layout = moe_layouts.every_expert(torch.zeros(1, 3, 5), 2)
    assert rows(layout) == [(t, e, e) for e in range(2) for t in range(3)]


@pytest.mark.parametrize("kind", ["list", "scores", None])
def test_tokens_are_found_by_content(kind: str | None) -> None:
    hidden = torch.arange(8.0).reshape(4, 2)
    hidden[3] = hidden[1]  # equal content: equal experts, distinguished by order
    index = torch.tensor([[2, 0], [1, 2], [2, 1], [1, 2]])
    pieces = [(e, hidden[(index == e).any(1)]) for e in range(N_EXPERTS)]
    scores = torch.zeros(4, N_EXPERTS).scatter_(1, index, torch.tensor([[2.0, 1.0]] * 4))
    choice = {"list": index, "scores": scores, None: None}[kind]
    layout = moe_layouts.by_content(hidden, pieces, choice, N_EXPERTS)
    assert layout is not None
    found = sorted(rows(layout))
    ranked = index if kind else index.sort(dim=1)[0]
    assert found == sorted((t, e, s) for t, e, s in chosen(ranked))
    assert layout.sizes == tuple(len(piece) for _, piece in pieces)


def test_rows_of_no_token_are_not_matched() -> None:
    hidden = torch.arange(8.0).reshape(4, 2)
    assert moe_layouts.by_content(hidden, [(0, hidden[:1] + 0.5)], None, 1) is None
    twice = torch.cat([hidden[:1], hidden[:1]])
    assert moe_layouts.by_content(hidden, [(0, twice)], None, 1) is None
    hidden[1] = hidden[0]
    assert moe_layouts.by_content(hidden, [(0, hidden[:1])], None, 1) is None  # one is missing


def test_values_per_token_are_spread_over_rows() -> None:
    routed = Routed(np.array([1, -1, 0]), np.zeros(3, int), np.zeros(3, int), 2, 1)
    assert routed.spread(np.array([10, 20])).tolist() == [20, -1, 10]


def test_what_can_be_an_index() -> None:
    assert moe_layouts.is_index(INDEX)
    assert moe_layouts.is_index(torch.zeros(2, 3, 4, dtype=torch.int32))
    for other in (INDEX.float(), INDEX.bool(), INDEX[0], INDEX.tolist(), None):
        assert not moe_layouts.is_index(other)
