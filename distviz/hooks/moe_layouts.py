"""The order of rows in a mixture of experts: token, expert and slot of each row.

As in transformers 5.23, ``integrations/moe.py`` and the models.

==============  ==============================================================================
implementation  rows
==============  ==============================================================================
batched_mm      once, ordered by (token, slot); also where experts keep the blocks of a GGUF
grouped_mm      once, ordered by expert as ``torch.sort`` orders them
eager           once per expert with tokens, ascending; within, by (slot, token)
Llama 4         once, every expert has every token; those not routed to it are zeros
JetMoe          once, in the order of its router
==============  ==============================================================================

A row whose index names no expert (a slot masked by expert parallelism, a token over the capacity)
belongs to no token and is not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Routed:
    """Token, expert and slot of each row.

    Attributes
    ----------
    tokens
        int64 (rows,): index among all tokens of the call, batch-major; -1 for no token.
    experts
        int64 (rows,): index of the expert; undefined if the token is -1.
    slots
        int64 (rows,): rank of the expert among those of its token, 0 for the first choice.
    n_tokens, n_experts
        Tokens of the call, experts of the layer.
    """

    tokens: NDArray[np.int64]
    experts: NDArray[np.int64]
    slots: NDArray[np.int64]
    n_tokens: int
    n_experts: int

    def spread(self, per_token: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the value of each row's token; -1 for rows without one."""
        return np.where(self.tokens < 0, -1, per_token[self.tokens])


@dataclass(frozen=True)
class Layout:
    """The rows of one call of the experts, and how many arrive at a time, in order."""

    routed: Routed
    sizes: tuple[int, ...]


def is_index(value: Any) -> bool:
    """Return whether a value can be the chosen experts of each token."""
    import torch

    is_whole = isinstance(value, torch.Tensor) and not value.is_floating_point()
    return is_whole and value.dim() in (2, 3) and value.dtype != torch.bool


def from_index(index: torch.Tensor, n_experts: int, name: str) -> Layout:
    """Return the layout of (tokens, slots) expert indices, or of their one-hot encoding."""
    import torch

    if index.dim() == 3:
        index = torch.where(index.any(dim=-1), index.argmax(dim=-1), -1)
    n_tokens, k = index.shape
    flat = index.detach().reshape(-1)
    order = np.arange(n_tokens * k)
    if name == "grouped_mm":
        order = torch.sort(flat)[1].cpu().numpy()  # as transformers calls it: not stable
    experts = flat.cpu().numpy().astype(np.int64)
    is_real = (experts >= 0) & (experts < n_experts)
    if name == "eager":
        tokens, slots = np.divmod(order, k)
        order = np.lexsort((tokens, slots, experts))
        order = order[is_real[order]]
    sizes = (order.size,)
    if name == "eager":
        sizes = tuple(np.unique(experts[order], return_counts=True)[1].tolist())
    tokens, slots = np.divmod(order, k)
    tokens = np.where(is_real[order], tokens, -1)
    return Layout(Routed(tokens, experts[order], slots, n_tokens, n_experts), sizes)


def by_sorted_index(index: torch.Tensor, sizes: list[int], k: int) -> Layout:
    """JetMoe: flat (token, slot) indices sorted by expert, and the number of each expert."""
    order = index.detach().cpu().numpy().astype(np.int64)
    experts = np.repeat(np.arange(len(sizes)), sizes)
    tokens, slots = np.divmod(order, k)
    return Layout(Routed(tokens, experts, slots, order.size // k, len(sizes)), (order.size,))


def chosen_of_every_expert(logits: torch.Tensor, k: int) -> Layout:
    """Llama 4: rows are (expert, token); the k largest logits of a token are chosen."""
    n_tokens, n_experts = logits.shape
    index = logits.detach().topk(k, dim=1)[1].cpu().numpy()
    slots = np.full((n_tokens, n_experts), -1, np.int64)
    np.put_along_axis(slots, index, np.arange(k)[None], axis=1)
    experts, tokens = (part.ravel() for part in np.indices((n_experts, n_tokens)))
    ranks = slots.T.ravel()
    tokens = np.where(ranks < 0, -1, tokens)
    return Layout(Routed(tokens, experts, ranks, n_tokens, n_experts), (tokens.size,))


def every_expert(hidden: torch.Tensor, n_experts: int) -> Layout:
    """Every expert gets every token (Inkling's shared experts): rows are (expert, token)."""
    n_tokens = hidden.numel() // hidden.shape[-1]
    experts, tokens = (part.ravel() for part in np.indices((n_experts, n_tokens)))
    return Layout(Routed(tokens, experts, experts, n_tokens, n_experts), (tokens.size,))


def by_content(
    hidden: torch.Tensor,
    pieces: Sequence[tuple[int, torch.Tensor]],
    choice: torch.Tensor | None,
    n_experts: int,
) -> Layout | None:
    """Find the token of each row by content: a row is a copy of its token's hidden state.

    Tokens with equal content have the same experts; they are distinguished by their order.

    Parameters
    ----------
    hidden
        (tokens, channels): the input of the layer.
    pieces
        Expert and its input rows (n, channels), in the order of the calls.
    choice
        (tokens, slots) experts in the router's order, or (tokens, experts) scores; None if
        unknown: then slots follow the index of the expert.

    Returns
    -------
    None if a row matches no token, or if tokens with equal content are missing.
    """
    owners: dict[bytes, list[int]] = {}
    for token, content in enumerate(_contents(hidden)):
        owners.setdefault(content, []).append(token)
    found: list[NDArray[np.int64]] = []
    for _, rows in pieces:
        contents = _contents(rows)
        ranks: dict[bytes, int] = {}
        tokens = np.empty(len(contents), np.int64)
        for row, content in enumerate(contents):
            rank = ranks[content] = ranks.get(content, -1) + 1
            if rank >= len(owners.get(content, ())):
                return None
            tokens[row] = owners[content][rank]
        if any(number + 1 != len(owners[content]) for content, number in ranks.items()):
            return None
        found.append(tokens)
    sizes = tuple(tokens.size for tokens in found)
    experts = np.repeat([expert for expert, _ in pieces], sizes).astype(np.int64)
    tokens = np.concatenate(found) if found else np.empty(0, np.int64)
    slots = _ranks(tokens, experts, choice)
    return Layout(Routed(tokens, experts, slots, hidden.shape[0], n_experts), sizes)


def _contents(rows: torch.Tensor) -> list[bytes]:
    import torch

    raw = rows.detach().contiguous().view(torch.uint8).cpu().numpy()
    return [row.tobytes() for row in raw]


def _ranks(
    tokens: NDArray[np.int64], experts: NDArray[np.int64], choice: torch.Tensor | None
) -> NDArray[np.int64]:
    """Rank the experts of each token: by the router's order, by its scores, or by index."""
    order = experts.astype(np.float64)
    if choice is not None and choice.is_floating_point():
        scores = choice.detach().double().cpu().numpy()
        order = -scores[tokens, experts]
    elif choice is not None:
        listed = choice.detach().cpu().numpy()[tokens] == experts[:, None]
        order = listed.argmax(axis=1).astype(np.float64)
    sequence = np.lexsort((experts, order, tokens))
    first = np.searchsorted(tokens[sequence], tokens[sequence])
    ranks = np.empty(tokens.size, np.int64)
    ranks[sequence] = np.arange(tokens.size) - first
    return ranks
