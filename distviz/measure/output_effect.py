"""What a change does to the output: loss, KL divergence and agreement of next-token predictions.

Logits of a large vocabulary are never held whole: the input of the head is kept (a few hundred
numbers a token), and the head is run again on slices of it for both sides at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from distviz.errors import MeasurementError
from distviz.stats import ExactSum

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

__all__ = ["Baseline", "Effect", "HeadInput"]

_SLICE_VALUES = 1 << 23
_SUMS = ("loss_before", "loss_after", "kl")


@dataclass
class HeadInput:
    """Keeps what enters the language head of a model during a forward call.

    While it listens, the head computes the last position alone. From that one position it learns
    what the model does to logits behind the head (soft capping, scaling), and refuses to guess.
    Several calls may be under way, if no two of them are between the head and their end.
    """

    model: Any
    head: nn.Module
    _hidden: torch.Tensor | None = None
    _finish: Callable[[torch.Tensor], torch.Tensor] | None = None
    _calls: int = 0

    def __post_init__(self) -> None:
        self._handle = self.head.register_forward_pre_hook(self._keep)

    @classmethod
    def of(cls, model: Any) -> HeadInput | None:
        """Listen to a model's head; None where it has none."""
        head = model.get_output_embeddings()
        return None if head is None else cls(model, head)

    def close(self) -> None:
        """Take the hook off."""
        self._handle.remove()

    def _keep(self, _module: nn.Module, args: tuple[torch.Tensor, ...]) -> Any:
        if not self._calls:
            return None
        self._hidden = args[0]
        return (args[0][:, -1:], *args[1:])

    def run(self, **inputs: Any) -> torch.Tensor:
        """Call the model and return what entered its head, (batch, tokens, width).

        Raises
        ------
        MeasurementError
            If the head was not reached, or logits are changed behind it in an unknown way.
        """
        self._calls += 1
        try:
            output = self.model(**inputs)
        finally:
            self._calls -= 1
        hidden, self._hidden = self._hidden, None
        if hidden is None:
            raise MeasurementError("the language head was never reached in the forward pass")
        if self._finish is None:
            self._finish = self._learn(hidden[:, -1:], output.logits)
        return hidden

    def _learn(
        self, hidden: torch.Tensor, logits: torch.Tensor
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        raw = self._head(hidden)
        for finish in _finishers(self.model.config):
            here = finish(raw).float().to(logits.device)  # of a model that is spread over several
            if torch.equal(here.nan_to_num(), logits.float().nan_to_num()):
                return finish
        raise MeasurementError(
            f"{type(self.model).__name__} changes its logits behind the head in a way not known",
            "the effect on the output cannot be measured in slices; please report this model",
        )

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return float32 logits of (positions, width), as the model would give them."""
        if self._finish is None:
            raise MeasurementError("no forward pass was made yet")
        return self._finish(self._head(hidden)).float()

    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Run the head on all that is given, while calls may be under way."""
        calls, self._calls = self._calls, 0
        try:
            raw: torch.Tensor = self.head(hidden)
        finally:
            self._calls = calls
        return raw

    def slice_size(self) -> int:
        """Positions at a time that keep the logits of one side near 32 MB."""
        config = self.model.config.get_text_config()
        return max(1, _SLICE_VALUES // int(config.vocab_size))


def _finishers(config: Any) -> list[Callable[[torch.Tensor], torch.Tensor]]:
    """What known models do behind the head, by the fields of their configuration."""
    text = config.get_text_config()
    cap = getattr(text, "final_logit_softcapping", None)
    divisor = getattr(text, "logits_scaling", None)
    factors = [getattr(text, name, None) for name in ("logit_scale", "lm_head_multiplier")]
    found: list[Callable[[torch.Tensor], torch.Tensor]] = [lambda raw: raw]
    if cap:
        found.append(lambda raw: torch.tanh(raw / cap) * cap)
        found.append(lambda raw: torch.tanh(raw.float() / cap) * cap)
    if divisor:
        found.append(lambda raw: raw / divisor)
    found += [partial(torch.mul, factor) for factor in factors if factor]
    return found


@dataclass
class Slice:
    """Some positions of a batch without the change.

    Attributes
    ----------
    rows
        Two int64 arrays: the sequence, and the token in it.
    targets
        int64 (positions,): the token that follows.
    log_probabilities
        float32 (positions, vocabulary).
    top
        int64 (positions,): the most likely token.
    """

    rows: tuple[torch.Tensor, ...]
    targets: torch.Tensor
    log_probabilities: torch.Tensor
    top: torch.Tensor


class Baseline:
    """The next-token predictions of a batch without the change, slice by slice.

    Parameters
    ----------
    head
        Computes logits.
    before
        What entered the head, (batch, tokens, width).
    ids, counted
        The tokens; a position counts where its next token, in the same window, is counted.
    keep_bytes
        Slices are kept up to so many bytes, for further comparisons; the rest is computed anew.
    """

    def __init__(
        self,
        head: HeadInput,
        before: torch.Tensor,
        ids: NDArray[np.int64],
        counted: NDArray[np.bool_],
        keep_bytes: int = 0,
    ) -> None:
        self.head = head
        self._before = before
        self._places = np.argwhere(counted[:, 1:])
        self._targets = ids[self._places[:, 0], self._places[:, 1] + 1]
        self._kept: dict[int, Slice] = {}
        self._room = keep_bytes

    @property
    def positions(self) -> int:
        """Positions that count."""
        return len(self._places)

    def slices(self) -> Iterator[Slice]:
        """Go through the positions; the logits of one slice are held at a time, and those kept."""
        size = self.head.slice_size()
        for start in range(0, self.positions, size):
            if start not in self._kept:
                found = self._slice(start, start + size)
                self._room -= found.log_probabilities.nbytes
                if self._room < 0:
                    yield found
                    continue
                self._kept[start] = found
            yield self._kept[start]

    def _slice(self, start: int, stop: int) -> Slice:
        device = self._before.device
        rows = tuple(
            torch.from_numpy(np.ascontiguousarray(column)).to(device)
            for column in self._places[start:stop].T
        )
        logits = self.head.logits(self._before[rows])
        targets = torch.from_numpy(self._targets[start:stop]).to(logits.device)
        return Slice(rows, targets, functional.log_softmax(logits, dim=1), logits.argmax(1))


@dataclass
class Effect:
    """Sums over positions whose next token counts, without rounding; two of them add."""

    positions: int = 0
    same: int = 0
    loss_before: ExactSum = field(default_factory=ExactSum)
    loss_after: ExactSum = field(default_factory=ExactSum)
    kl: ExactSum = field(default_factory=ExactSum)

    def __add__(self, other: Effect) -> Effect:
        return Effect(
            self.positions + other.positions,
            self.same + other.same,
            self.loss_before + other.loss_before,
            self.loss_after + other.loss_after,
            self.kl + other.kl,
        )

    def state(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Effect:
        """Return what `state` was taken of."""
        sums: dict[str, Any] = {name: ExactSum(**state[name]) for name in _SUMS}
        return cls(state["positions"], state["same"], **sums)

    def compare(self, baseline: Baseline, after: torch.Tensor | None) -> None:
        """Add a batch: ``after`` entered the head with the change, (batch, tokens, width)."""
        for part in baseline.slices():
            first, places = part.log_probabilities, torch.arange(len(part.targets))
            own = (places.to(first.device), part.targets)
            self.loss_before = self.loss_before.plus(-_sum(first[own]))
            if after is None:
                continue
            second = baseline.head.logits(after[part.rows])
            self.same += int((second.argmax(1) == part.top).sum())
            second = functional.log_softmax(second, dim=1)
            self.loss_after = self.loss_after.plus(-_sum(second[own]))
            self.kl = self.kl.plus(_sum_kl(first, second))
        self.positions += baseline.positions

    def result(self, *, is_paired: bool) -> dict[str, float | int | None] | None:
        """Return the ``effect`` of ``run.json``; None where nothing could be measured."""
        if not self.positions:
            return None
        shares: dict[str, float | None] = {
            "loss_before": float(self.loss_before) / self.positions,
            "loss_after": float(self.loss_after) / self.positions if is_paired else None,
            "kl": float(self.kl) / self.positions if is_paired else None,
            "top1_agreement": self.same / self.positions if is_paired else None,
        }
        finite = {
            name: value if value is None or math.isfinite(value) else None
            for name, value in shares.items()
        }
        return finite | {"positions": self.positions}


def _sum(values: torch.Tensor) -> float:
    return float(values.sum(dtype=torch.float64))


def _sum_kl(first: torch.Tensor, second: torch.Tensor) -> float:
    """Sum of KL(first || second) over rows of log-probabilities."""
    return _sum(((first - second) * first.exp()).sum(dim=1))
