"""What two models predict for the same tokens: both losses, KL divergence, agreement, by document.

One model is in memory at a time. While A is measured, the input of its head is kept, in memory up
to a limit and beyond it on disk; then, while B is measured, the heads of both run on the same
positions. No forward pass is added. Logits are compared in float64, a slice at a time.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from distviz.measure.output_effect import Effect, most_likely
from distviz.measure.tensor_files import SpillBuffer, SpillHandle
from distviz.measure.world import World, current
from distviz.stats import decode, encode

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from distviz.data import Batch
    from distviz.measure.output_effect import Head, HeadInput

_Window = tuple[int, int]


@dataclass(frozen=True)
class _Kept:
    """A window of A: its token ids, int64; the head's input at positions whose next token counts.

    ``hidden`` is (positions, width), on the CPU; its memory may be in the file of the buffer.
    """

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    hidden: torch.Tensor
    handle: SpillHandle


@dataclass
class FirstOutputs:
    """What A predicts, kept until B is measured.

    Parameters
    ----------
    phase
        ``"before"``, or ``"after"`` for the pass with ARM.
    spill
        Holds the inputs of the head.

    Attributes
    ----------
    head
        The language head of A; None before the first batch.
    """

    phase: str
    spill: SpillBuffer
    head: Head | None = None
    _windows: dict[_Window, _Kept] = field(default_factory=dict)

    def add(self, head: HeadInput, batch: Batch, before: torch.Tensor, after: Any) -> None:
        """Keep a batch; ``before`` and ``after`` are inputs of the head, (batch, tokens, width)."""
        self.head = self.head or head.alone()
        hidden = before if self.phase == "before" else after
        for row, (window, ids, positions) in enumerate(_rows(batch)):
            kept = hidden[row, torch.from_numpy(positions).to(hidden.device)].to("cpu", copy=True)
            self._windows[window] = _Kept(ids, positions, kept, self.spill.store(kept))

    def take(self, window: _Window) -> _Kept | None:
        """Return a window, whose memory is then the caller's; None if it was not kept."""
        kept = self._windows.pop(window, None)
        if kept is not None:
            self.spill.restore(kept.handle)
        return kept


@dataclass
class PairedOutputs:
    """Compares what B predicts with what A predicts.

    Parameters
    ----------
    first
        Of A, complete.
    phase
        Of B, as in `FirstOutputs`.

    Attributes
    ----------
    documents
        By document; ``loss_before`` is that of A, ``loss_after`` that of B, ``kl`` is KL(A || B).
    refused
        Why windows could not be compared, and how many.
    """

    first: FirstOutputs
    phase: str
    documents: dict[int, Effect] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)

    def add(self, head: HeadInput, batch: Batch, before: torch.Tensor, after: Any) -> None:
        """Compare a batch; arguments as of `FirstOutputs.add`."""
        hidden = before if self.phase == "before" else after
        for row, (window, ids, positions) in enumerate(_rows(batch)):
            kept = self.first.take(window)
            if kept is None or self.first.head is None:
                self.refused["part"] += 1
            elif not (np.array_equal(kept.ids, ids) and np.array_equal(kept.positions, positions)):
                self.refused["tokens"] += 1
            elif self.first.head.vocabulary != head.vocabulary:
                self.refused["vocabulary"] += 1
            else:
                own = hidden[row, torch.from_numpy(positions).to(hidden.device)]
                found = _compare(self.first.head, kept.hidden, head, own, ids[positions + 1])
                self.documents[window[0]] = self.documents.get(window[0], Effect()) + found

    def gather(self, world: World | None = None) -> None:
        """Add what the other processes have compared."""
        world = world or current()
        own = [[number, effect.state()] for number, effect in self.documents.items()]
        states = [decode(data) for data in world.broadcast(encode([own, dict(self.refused)]))]
        self.documents, self.refused = {}, Counter()
        for documents, refused in states:
            self.refused.update(refused)
            for number, state in documents:
                part = Effect.from_state(state)
                self.documents[number] = self.documents.get(number, Effect()) + part


def _rows(batch: Batch) -> list[tuple[_Window, NDArray[np.int64], NDArray[np.int64]]]:
    """Return each row: document and window, token ids, positions whose next token counts."""
    names = zip(batch.documents.tolist(), batch.windows.tolist(), strict=True)
    return [
        (name, batch.ids[row, batch.valid[row]], np.flatnonzero(batch.counted[row, 1:]))
        for row, name in enumerate(names)
    ]


def _compare(
    first_head: Head,
    first: torch.Tensor,
    second_head: HeadInput,
    second: torch.Tensor,
    targets: NDArray[np.int64],
) -> Effect:
    """Compare two inputs of heads, (positions, width), with the next tokens as targets."""
    total, size = Effect(), min(first_head.slice_size(), second_head.slice_size())
    for start in range(0, len(targets), size):
        part = slice(start, start + size)
        logits = first_head.logits(first[part].to(first_head.device))
        # float64 is not on every device
        a = logits.cpu() if logits.device.type == "mps" else logits
        b = second_head.logits(second[part]).to(a.device)
        rows = torch.arange(len(a), device=a.device), torch.from_numpy(targets[part]).to(a.device)
        is_same = int((most_likely(a) == most_likely(b)).sum())
        a, b = (functional.log_softmax(side.double(), dim=1) for side in (a, b))
        losses = [-float(side[rows].sum()) for side in (a, b)]
        total += Effect.of(len(a), is_same, losses[0], losses[1], _divergence(a, b))
    return total


def _divergence(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the sum of KL(A || B) over rows of log-probabilities; overwrites ``b``."""
    terms = b.sub_(a).masked_fill_(a.isneginf(), 0)  # what A excludes adds nothing
    return -float(torch.linalg.vecdot(a.exp(), terms).sum())


OutputSink = FirstOutputs | PairedOutputs
