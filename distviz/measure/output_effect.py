"""The effect of a change on the output: loss, KL divergence and agreement of predictions.

Logits of a large vocabulary are never held completely: the input of the head is kept (a few hundred
numbers per token), and the head runs again on slices of it, for both sides at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
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

    from distviz.measure.document_effects import DocumentEffects

_SLICE_VALUES = 1 << 23
_SUMS = ("loss_before", "loss_after", "kl")


@dataclass(frozen=True)
class Head:
    """The language head of a model without the model: it computes logits.

    Attributes
    ----------
    module
        The head.
    postprocess
        What the model does with its output.
    vocabulary
        Number of logits of a position, as the configuration states it.
    """

    module: nn.Module
    postprocess: Callable[[torch.Tensor], torch.Tensor]
    vocabulary: int

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next((one.device for one in self.module.parameters()), torch.device("cpu"))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the float32 logits of the model for a head input (positions, width)."""
        raw: torch.Tensor = self.module.forward(hidden)
        return self.postprocess(raw).float()

    def slice_size(self) -> int:
        """Return the number of positions whose logits take about 32 MB for one side."""
        return max(1, _SLICE_VALUES // self.vocabulary)


@dataclass
class HeadInput:
    """Captures the input of a model's language head during a forward call.

    Meanwhile the head computes the last position only, unless ``computes_all``. That position shows
    how the model post-processes its logits (soft capping, scaling); an unknown way is refused.
    Several calls may run at the same time, if no two of them are between the head and their end.
    """

    model: Any
    head: nn.Module
    computes_all: bool = False
    _hidden: torch.Tensor | None = None
    _postprocess: Callable[[torch.Tensor], torch.Tensor] | None = None
    _calls: int = 0

    def __post_init__(self) -> None:
        self._handle = self.head.register_forward_pre_hook(self._capture)

    @classmethod
    def of(cls, model: Any, observed: Collection[str] = ()) -> HeadInput | None:
        """Capture the input of a model's head; None if it has no head.

        If its path is among those observed, it computes all positions.
        """
        head = model.get_output_embeddings()
        if head is None:
            return None
        paths = (path for path, module in model.named_modules() if module is head)
        return cls(model, head, computes_all=not set(observed).isdisjoint(paths))

    def close(self) -> None:
        """Remove the hook."""
        self._handle.remove()

    def _capture(self, _module: nn.Module, args: tuple[torch.Tensor, ...]) -> Any:
        if not self._calls:
            return None
        self._hidden = args[0]
        if self.computes_all:
            return None
        return (args[0][:, -1:], *args[1:])

    def run(self, **inputs: Any) -> torch.Tensor:
        """Call the model and return the input of its head, (batch, tokens, width).

        Raises
        ------
        MeasurementError
            If the head was not reached, or logits are post-processed in an unsupported way.
        """
        self._calls += 1
        try:
            output = self.model(**inputs)
        finally:
            self._calls -= 1
        hidden, self._hidden = self._hidden, None
        if hidden is None:
            raise MeasurementError("the language head was never reached in the forward pass")
        if self._postprocess is None:
            seen = hidden if self.computes_all else hidden[:, -1:]
            self._postprocess = self._find_postprocess(seen, output.logits)
        return hidden

    def _find_postprocess(
        self, hidden: torch.Tensor, logits: torch.Tensor
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        raw = self._head(hidden)
        for postprocess in _postprocessors(self.model.config):
            found = postprocess(raw).float().to(logits.device)  # the model may use several devices
            if torch.equal(found.nan_to_num(), logits.float().nan_to_num()):
                return postprocess
        raise MeasurementError(
            f"{type(self.model).__name__} post-processes its logits in an unsupported way",
            "the effect on the output cannot be measured in slices; please report this model",
        )

    def alone(self) -> Head:
        """Return the head alone, which does not hold the model in memory."""
        if self._postprocess is None:
            raise MeasurementError("no forward pass has been made yet")
        return Head(self.head, self._postprocess, self.vocabulary)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the float32 logits of the model for a head input (positions, width)."""
        return self.alone().logits(hidden)

    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Run the head on all positions, unobserved, also while a call runs."""
        raw: torch.Tensor = self.head.forward(hidden)
        return raw

    @property
    def vocabulary(self) -> int:
        """Number of logits of a position, as the configuration states it."""
        return int(self.model.config.get_text_config().vocab_size)

    def slice_size(self) -> int:
        """Return the number of positions whose logits take about 32 MB for one side."""
        return max(1, _SLICE_VALUES // self.vocabulary)


def _postprocessors(config: Any) -> list[Callable[[torch.Tensor], torch.Tensor]]:
    """Return how known models post-process logits, by the fields of their configuration."""
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
    """Positions of a batch without the change.

    ``rows`` are two int64 arrays, the sequence and the token in it; ``targets`` the next tokens and
    ``top`` the most likely ones, int64 (positions,); ``log_probabilities`` is float32 (positions,
    vocabulary).
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
        Input of the head, (batch, tokens, width).
    ids, counted
        The tokens; a position counts where its next token, in the same window, is counted.
    keep_bytes
        Bytes of slices that are kept for further comparisons; the others are computed again.
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
        self._positions = np.argwhere(counted[:, 1:])
        self._targets = ids[self._positions[:, 0], self._positions[:, 1] + 1]
        self._kept: dict[int, Slice] = {}
        self._bytes_left = keep_bytes

    @property
    def positions(self) -> int:
        """Number of positions that count."""
        return len(self._positions)

    def slices(self) -> Iterator[Slice]:
        """Yield the positions in slices; memory holds one slice and those that are kept."""
        size = self.head.slice_size()
        for start in range(0, self.positions, size):
            if start not in self._kept:
                found = self._slice(start, start + size)
                self._bytes_left -= found.log_probabilities.nbytes
                if self._bytes_left < 0:
                    yield found
                    continue
                self._kept[start] = found
            yield self._kept[start]

    def _slice(self, start: int, stop: int) -> Slice:
        device = self._before.device
        rows = tuple(
            torch.from_numpy(np.ascontiguousarray(column)).to(device)
            for column in self._positions[start:stop].T
        )
        logits = self.head.logits(self._before[rows])
        targets = torch.from_numpy(self._targets[start:stop]).to(logits.device)
        return Slice(rows, targets, functional.log_softmax(logits, dim=1), most_likely(logits))


@dataclass
class Effect:
    """Exact sums over positions whose next token counts; two of them add."""

    positions: int = 0
    same: int = 0
    loss_before: ExactSum = field(default_factory=ExactSum)
    loss_after: ExactSum = field(default_factory=ExactSum)
    kl: ExactSum = field(default_factory=ExactSum)

    @classmethod
    def of(
        cls, positions: int, same: int, loss_before: float, loss_after: float, kl: float
    ) -> Effect:
        """Return the effect with these sums over positions."""
        sums = (ExactSum().plus(number) for number in (loss_before, loss_after, kl))
        return cls(positions, same, *sums)

    def __add__(self, other: Effect) -> Effect:
        names = ("positions", "same", *_SUMS)
        return Effect(**{name: getattr(self, name) + getattr(other, name) for name in names})

    def state(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Effect:
        """Return the effect whose `state` this is."""
        sums: dict[str, Any] = {name: ExactSum(**state[name]) for name in _SUMS}
        return cls(state["positions"], state["same"], **sums)

    def compare(
        self,
        baseline: Baseline,
        after: torch.Tensor | None,
        documents: DocumentEffects | None = None,
    ) -> None:
        """Add a batch; ``after`` is the head's input with the change, (batch, tokens, width).

        ``documents`` receives the same sums by document.
        """
        for part in baseline.slices():
            first, rows = part.log_probabilities, torch.arange(len(part.targets))
            own = (rows.to(first.device), part.targets)
            self.loss_before = self.loss_before.plus(-_sum(first[own]))
            if after is None:
                continue
            second = baseline.head.logits(after[part.rows])
            is_same = most_likely(second) == part.top
            self.same += int(is_same.sum())
            second = functional.log_softmax(second, dim=1)
            losses = -second[own]
            self.loss_after = self.loss_after.plus(_sum(losses))
            divergence = _divergence(first, second)
            self.kl = self.kl.plus(_sum(divergence))
            if documents is not None:
                documents.add(part.rows[0], (-first[own], losses, divergence, is_same))
        self.positions += baseline.positions

    def result(self, *, is_paired: bool) -> dict[str, float | int | None] | None:
        """Return ``effect`` of ``run.json``; None if no position counts."""
        if not self.positions:
            return None
        sums = {name: float(getattr(self, name)) for name in _SUMS} | {"top1_agreement": self.same}
        means = {name: value / self.positions for name, value in sums.items()}
        return {
            name: mean if math.isfinite(mean) and (is_paired or name == "loss_before") else None
            for name, mean in means.items()
        } | {"positions": self.positions}


def _sum(values: torch.Tensor) -> float:
    return float(values.sum(dtype=torch.float64))


def _divergence(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return KL(first || second) of each row of log-probabilities; overwrites ``second``."""
    return torch.sub(first, second, out=second).mul_(first.exp()).sum(dim=1)


def most_likely(logits: torch.Tensor) -> torch.Tensor:
    """Return the first largest of each row of float32 logits, int64 (rows,)."""
    if logits.device.type == "cpu":  # NumPy finds it fifteen times faster
        return torch.from_numpy(logits.numpy().argmax(axis=1))
    return logits.argmax(1)
