"""What all processes have observed in one optimizer step."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from distviz.errors import first_line
from distviz.hooks import Recorder, StepRecorder
from distviz.measure.ranks import Ranks
from distviz.output import counted
from distviz.sites import HookPoint
from distviz.stats import decode, encode


@dataclass
class StepResult:
    """The observations of some processes; those of different processes add.

    Attributes
    ----------
    recorder
        The counts.
    passes, tokens, documents
        Training passes, their tokens without padding, and their rows.
    failures
        What went wrong, by process; there is no result then.
    idle
        Why a process made no training pass, by process.
    notes
        What is not measured.
    nonfinite
        The place of the first NaN or infinity.
    """

    recorder: Recorder
    passes: int = 0
    tokens: int = 0
    documents: int = 0
    failures: list[str] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    nonfinite: dict[str, Any] | None = None

    @classmethod
    def of(cls, seen: StepRecorder) -> StepResult:
        """Return what this process has observed."""
        whose = f"rank {seen.rank}: " if seen.size > 1 else ""
        found = cls(seen.recorder, seen.passes, seen.tokens, seen.documents)
        if seen.failure is not None:
            found.failures = [whose + first_line(seen.failure)]
        elif not seen.passes:
            found.idle = [whose + seen.why_nothing()]
        else:
            found.notes = [*_notes(seen)]
        found.nonfinite = seen.nonfinite.found
        return found

    @property
    def reason(self) -> str:
        """Why the step has no snapshot; empty if it has one."""
        if self.failures:
            return self.failures[0]
        return "" if self.passes else f"no training pass: {'; '.join(self.idle)}"

    def __add__(self, other: StepResult) -> StepResult:
        """Return the sum; neither side may be used afterwards."""
        return StepResult(
            self.recorder + other.recorder,
            self.passes + other.passes,
            self.tokens + other.tokens,
            self.documents + other.documents,
            self.failures + other.failures,
            self.idle + other.idle,
            [*dict.fromkeys(self.notes + other.notes)],
            self.nonfinite or other.nonfinite,
        )

    def state(self) -> dict[str, Any]:
        """Return everything as a tree for `distviz.stats.encode`."""
        names = ("passes", "tokens", "documents", "failures", "idle", "notes", "nonfinite")
        # What a failed step has counted may be incomplete.
        recorder = Recorder(self.recorder.c) if self.failures else self.recorder
        return {name: getattr(self, name) for name in names} | {"recorder": recorder.state()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> StepResult:
        """Return the result whose `state` this is."""
        return cls(**state | {"recorder": Recorder.from_state(state["recorder"])})


def gather(ranks: Ranks, own: StepResult) -> StepResult | None:
    """Return the sum of the results of all processes in the first one, else None."""
    if ranks.size == 1:
        return own
    try:
        data = encode(own.state())
    except Exception as error:  # noqa: BLE001  (the first process waits for an answer)
        failed = StepResult(Recorder(own.recorder.c), failures=[first_line(error)])
        data = encode(failed.state())
    parts = ranks.gather(data)
    found = [StepResult.from_state(decode(part)) for part in parts]
    return functools.reduce(operator.add, found) if found else None


def _notes(seen: StepRecorder) -> Iterator[str]:
    if silent := seen.without_gradient:
        yield f"no gradient reached {_named(silent)} before step()"
    if some := seen.with_some_gradients:
        n, of_all = next(iter(some.values()))
        yield f"only {n} of {counted(of_all, 'gradient')} reached {_named([*some])} before step()"
    if seen.is_half_unscaled:
        yield (
            "gradients are float16, and no scaler was given: if a GradScaler multiplies the loss, "
            "they include its scale"
        )


def _named(points: Sequence[HookPoint]) -> str:
    more = f" and {counted(len(points) - 1, 'more place')}" if len(points) > 1 else ""
    return f"layer {points[0].layer}, {points[0].site}{more}"
