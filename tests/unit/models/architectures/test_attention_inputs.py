"""Projections that do not read what the queries read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from distviz.models.architectures.attention_inputs import KEY, VALUE, reads_apart


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(4, 4) for _ in "qkv")


class _Plain(_Attention):
    def forward(self, x: torch.Tensor) -> Any:
        return self.q_proj(x), self.k_proj(x), self.v_proj(x)


class _CrossToo(_Attention):
    def forward(self, x: torch.Tensor, states: torch.Tensor | None = None) -> Any:
        current = x if states is None else states
        return self.q_proj(x), self.k_proj(current), self.v_proj(current)


class _Positions(_Attention):
    def forward(self, x: torch.Tensor, positions: torch.Tensor) -> Any:
        moved = x + positions
        return self.q_proj(moved), self.k_proj(moved), self.v_proj(x)


class _Longer(_Attention):
    def forward(self, x: torch.Tensor, context: torch.Tensor) -> Any:
        both = torch.cat([context, x], dim=1)
        return self.q_proj(x), self.k_proj(both), self.v_proj(both)


class _Shorter(_Plain):
    def __init__(self) -> None:
        super().__init__()
        self.reduction = nn.Sequential(nn.Conv2d(4, 4, 2))


@pytest.mark.parametrize(
    ("kind", "apart"),
    [
        (_Plain, ()),
        (_CrossToo, ()),
        (_Positions, VALUE),
        (_Longer, (*KEY, *VALUE)),
        (_Shorter, (*KEY, *VALUE)),
    ],
)
def test_what_reads_other_values(kind: Any, apart: tuple[str, ...]) -> None:
    assert reads_apart(kind()) == set(apart)
