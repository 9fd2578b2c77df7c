"""Gradient checkpointing: a part of the model that runs again inside the backward pass.

The second run is no forward call: its values were counted in the first. A redistribution has to
change them again, in the same way, or the gradients would be those of another function.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from distviz.errors import MeasurementError
from distviz.hooks.token_tracker import Tracker
from distviz.hooks.tokens import Tokens
from distviz.sites import HookPoint

if TYPE_CHECKING:
    import torch

_N_SAMPLED, _N_CHANNELS = 16, 256
_N_REMEMBERED = 4096
"""Most runs of one point between a forward pass and its backward pass."""
_PRIME = 1_000_003


def is_recomputing() -> bool:
    """Whether this thread is inside a backward pass."""
    import torch

    return torch._C._current_graph_task_id() != -1  # noqa: SLF001


def _is_inference() -> bool:
    """Whether no backward pass can follow; gradient checkpointing itself runs under no_grad."""
    import torch

    return torch.is_inference_mode_enabled()


@dataclass(frozen=True)
class _PastRun:
    """One run of a point: a checksum of its values, and the tokens of the call."""

    checksum: torch.Tensor
    tokens: Tokens | None
    decoder: Tokens | None

    def has_tokens_of(self, other: _PastRun) -> bool:
        """Whether both runs have the same padding, documents and indices."""
        return all(
            _equal(*pair) for pair in ((self.tokens, other.tokens), (self.decoder, other.decoder))
        )


@dataclass
class PastRuns:
    """The tokens of past forward calls, found again by the values that arrive at a point."""

    _by_point: dict[HookPoint, deque[_PastRun]] = field(default_factory=dict)

    @contextmanager
    def tokens_of(self, point: HookPoint, rows: torch.Tensor, tracker: Tracker) -> Iterator[bool]:
        """Let ``tracker`` hold the tokens of these rows.

        In a forward call these are the current ones, which are remembered. Yields False in a
        backward pass whose forward call was not observed.

        Raises
        ------
        MeasurementError
            If the rows that are computed again are those of no forward call, or of several that
            differ in their tokens.
        """
        past = self._by_point.setdefault(point, deque(maxlen=_N_REMEMBERED))
        if tracker.is_in_call or not is_recomputing():
            if tracker.given is None and not _is_inference():
                past.append(_past_run(rows, tracker))
            yield True
        elif not past:
            yield False
        else:
            found = _find(past, _past_run(rows, tracker), point)
            before = tracker.tokens, tracker.decoder
            tracker.tokens, tracker.decoder = found.tokens, found.decoder
            try:
                yield True
            finally:
                tracker.tokens, tracker.decoder = before


def _past_run(rows: torch.Tensor, tracker: Tracker) -> _PastRun:
    return _PastRun(checksum_of(rows), tracker.tokens, tracker.decoder)


def _find(past: deque[_PastRun], seen: _PastRun, point: HookPoint) -> _PastRun:
    same = [one for one in past if int(one.checksum) == int(seen.checksum)]
    if not same or not all(one.has_tokens_of(same[-1]) for one in same):
        which = "several forward calls" if same else "no forward call"
        raise MeasurementError(
            f"gradient checkpointing computes {point.module} again with the values of {which}",
            "call backward after each forward call, or disable gradient checkpointing",
        )
    return same[-1]


def checksum_of(rows: torch.Tensor) -> torch.Tensor:
    """Return an int64 of the shape and the bits of some values, evenly spaced."""
    import torch

    n_rows, n_channels = rows.shape
    last = rows.detach()[-1:] if n_rows else rows.detach()
    some = torch.cat([rows.detach()[:: n_rows // _N_SAMPLED + 1], last])
    bits = some[:, :: n_channels // _N_CHANNELS + 1].contiguous().view(torch.uint8).long()
    weights = torch.arange(_PRIME, _PRIME + bits.numel(), device=bits.device)
    return (bits.ravel() * weights).sum() + n_rows


def _equal(first: Tokens | None, second: Tokens | None) -> bool:
    if first is None or second is None:
        return first is second
    return (first.past, first.lengths) == (second.past, second.lengths) and all(
        np.array_equal(getattr(first, name), getattr(second, name))
        for name in ("valid", "documents", "index")
    )
