"""Record what the training passes of one optimizer step show at the points of a model.

A training pass is a call of the model in training mode with gradients enabled. Each row of a pass
is a document. Whatever goes wrong is kept in `failure`: observing never ends a training.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from distviz.errors import DistvizError, MeasurementError
from distviz.hooks.attach import attach_hook, part_of
from distviz.hooks.gradients import GRADIENT_PREFIX, Gradients
from distviz.hooks.nonfinite import FirstNonfinite
from distviz.hooks.observation import HookedCalls, hooked_calls, phase_of, rows_with_tokens
from distviz.hooks.recomputation import is_recomputing
from distviz.hooks.recorder import Recorder
from distviz.hooks.token_tracker import Tracker
from distviz.hooks.tokens import Tokens
from distviz.models import unwrapped_path
from distviz.output import counted
from distviz.sites import HookPoint, SiteKey
from distviz.stats import Sketch

if TYPE_CHECKING:
    import torch
    from torch import nn

_NO_TRAINING = "in evaluation mode (model.eval())"
_NO_GRADIENTS = "without gradients (torch.no_grad())"


@dataclass
class StepRecorder:
    """What one process observes in one optimizer step.

    Parameters
    ----------
    model
        The bare model.
    points
        Where to observe.
    recorder
        Counts the values.
    rank, size
        Of this process: its documents have the numbers ``rank``, ``rank + size`` and so on.
    scale
        Returns by what the loss is multiplied; None measures no gradients.
    is_scaled
        Whether ``scale`` is known rather than assumed to be 1.
    report
        Called with the place of the first NaN or infinity.

    Attributes
    ----------
    passes, tokens, documents
        Training passes, their tokens without padding, and their rows.
    """

    model: nn.Module
    points: Sequence[HookPoint]
    recorder: Recorder
    rank: int = 0
    size: int = 1
    scale: Callable[[], float] | None = None
    is_scaled: bool = False
    report: Callable[[dict[str, Any]], None] = lambda _: None
    passes: int = 0
    tokens: int = 0
    documents: int = 0
    tracker: _LenientTracker = field(init=False)
    nonfinite: FirstNonfinite = field(init=False)
    _failure: Exception | None = None
    _gradients: Gradients | None = None
    _seen: Counter[HookPoint] = field(default_factory=Counter)
    _reached: Counter[HookPoint] = field(default_factory=Counter)
    _left_out: Counter[str] = field(default_factory=Counter)
    _call: int = 0
    _first: int = 0
    _is_counted: bool = False
    _given: Tokens | None = None
    _numbered: Tokens | None = None
    _lock: Any = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.tracker = _LenientTracker()
        self.nonfinite = FirstNonfinite(self.report)

    @property
    def failure(self) -> Exception | None:
        """The first error; nothing is observed after it."""
        return self._failure or self.tracker.failure

    def fail(self, error: Exception) -> None:
        """Note an error; the first one stays."""
        self._failure = self.failure or error

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Observe the calls of the model while the context lasts.

        Raises
        ------
        MeasurementError
            On leaving, if the model was called and a point never fired.
        """
        with hooked_calls(self.model, self.points, self.tracker, None) as calls:

            def deliver(point: HookPoint, value: torch.Tensor) -> None:
                calls.fired.add(point)
                if self.failure is None:
                    try:
                        self._see(calls, point, value)
                    except Exception as error:  # noqa: BLE001  (it must not end a training)
                        self.fail(error)

            attach_hook(self.model, self.points, deliver, calls.stack, whole=True)
            if self.scale is not None:
                self._gradients = Gradients(self._receive_gradient, self.fail, self.scale)
                calls.stack.callback(self._close)
            yield

    def _close(self) -> None:
        """Leave the gradients: they refer to this recorder, and its tables are large."""
        if self._gradients is not None:
            self._gradients.close()
            self._seen, self._reached = self._gradients.seen, self._gradients.reached
            self._gradients = None

    def add_sketches(self, found: Mapping[SiteKey, Sketch]) -> None:
        """Add distributions without tokens."""
        for key, sketch in found.items():
            self.recorder.sketches[key] = {"all": sketch}
            self.nonfinite.see_sketch(self.recorder, key)

    def why_nothing(self) -> str:
        """Return why there was no training pass; empty if there was one."""
        if self.passes:
            return ""
        found = [f"{counted(n, 'pass')} ran {why}" for why, n in self._left_out.items()]
        return "; ".join(found) or "the model was not called"

    def finish(self) -> None:
        """Take what is still on devices; waits for it."""
        self._check_finished()
        self.recorder.documents.close()
        self.recorder.flush()
        self.nonfinite.finish()

    @property
    def without_gradient(self) -> list[HookPoint]:
        """The points that no gradient has reached."""
        if self.scale is None:
            return []
        return [point for point in self.points if not point.is_in(self._reached)]

    @property
    def with_some_gradients(self) -> dict[HookPoint, tuple[int, int]]:
        """The points that gradients of some passes have reached: how many, and of how many."""
        both = {point: (self._reached[point], n) for point, n in self._seen.items()}
        return {point: (n, of_all) for point, (n, of_all) in both.items() if 0 < n < of_all}

    @property
    def is_half_unscaled(self) -> bool:
        """Whether gradients are float16 and the scale of the loss is not known."""
        gradients = [key for key in self.recorder.sketches if key.site.startswith(GRADIENT_PREFIX)]
        found = (one.grid for key in gradients for one in self.recorder.sketches[key].values())
        return not self.is_scaled and "fp16" in found

    def _see(self, calls: HookedCalls, point: HookPoint, whole: torch.Tensor) -> None:
        if is_recomputing():
            if self._gradients is not None:
                self._gradients.see_again(point, whole)
            return
        if not self.tracker.is_in_call:
            raise MeasurementError(
                f"{point.module} ran outside a call of the observed model",
                "call the model that was given to the Monitor, not a part of it or its forward",
            )
        if self._call != self.tracker.calls:
            self._check_finished()
            self._call = self.tracker.calls
            self._begin_call()
        if not self._is_counted:
            return
        found = rows_with_tokens(calls, point, part_of(point, whole), self.tracker)
        if found is None:
            return
        tokens = self._with_numbers(found[1])
        self._record(point, found[0], tokens)
        if self._gradients is not None:
            self._gradients.see(point, whole, tokens, self.tracker.tokens)

    def _check_finished(self) -> None:
        """Fail if the latest call was counted and did not finish."""
        if self._is_counted and self._call in self.tracker.unfinished:
            self.fail(
                MeasurementError(
                    "a training pass did not finish (error or interruption), and counts only in "
                    "the layers before its end"
                )
            )

    def _begin_call(self) -> None:
        self.recorder.send()
        tracker = self.tracker
        self._is_counted = tracker.in_training and tracker.with_gradients
        if not self._is_counted:
            self._left_out[_NO_GRADIENTS if tracker.in_training else _NO_TRAINING] += 1
            return
        self.passes += 1
        self._first = self.documents
        for tokens in (tracker.tokens, tracker.decoder):
            self.tokens += 0 if tokens is None else int(tokens.counted.sum())

    def _with_numbers(self, tokens: Tokens) -> Tokens:
        """Return tokens with the numbers of their documents in this step."""
        if self._given is not tokens:  # once for all layers
            numbers = (tokens.documents + self._first) * self.size + self.rank
            self.documents = max(self.documents, self._first + len(tokens.documents))
            whole = frozenset(numbers.tolist())
            self._numbered = replace(tokens, documents=numbers, whole=whole)
            self._given = tokens
        return self._numbered or tokens

    def _receive_gradient(self, point: HookPoint, rows: torch.Tensor, tokens: Tokens) -> None:
        if self.failure is None:
            self._record(replace(point, site=f"{GRADIENT_PREFIX}{point.site}"), rows, tokens)

    def _record(self, point: HookPoint, rows: torch.Tensor, tokens: Tokens) -> None:
        point = replace(point, module=unwrapped_path(point.module))
        phase = phase_of(self.model)
        key = SiteKey(point.layer, point.stack, point.site, phase, point.module)
        with self._lock:  # the backward pass has a thread for each device
            self.recorder.add(point, phase, rows, tokens)
            self.nonfinite.see(self.recorder, key, rows, tokens)


class _LenientTracker(Tracker):
    """A tracker that keeps its first error, instead of raising it inside a call of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.failure: DistvizError | None = None

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """See `Tracker`."""
        try:
            super().enter(module, args, kwargs)
        except DistvizError as error:
            self.failure = self.failure or error
