"""The passes of a sweep: per batch one of the unchanged model, then one per setting and seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from distviz.arm import ARM
from distviz.data import Batch
from distviz.hooks import Redistribution, Tokens, Tracker, check_replaceable, observe
from distviz.measure import Baseline, DocumentEffects, Effect, HeadInput, inputs_of, tokens_of
from distviz.models import LoadedModel
from distviz.models.architectures import find_points, main_stack
from distviz.progress import Progress
from distviz.settings import RunSettings
from distviz.sites import HookPoint, parse_sites
from distviz.stats import (
    Difference,
    Sketch,
    difference_of,
    kernels,
    pack_sketches,
    statistics,
    unpack_sketches,
)
from distviz.studies.layer_cache import LayerCache, find_layers
from distviz.studies.sweep_grid import Setting

if TYPE_CHECKING:
    from numpy.typing import NDArray

_EFFECT = ("loss_before", "loss_after", "kl", "top1_agreement")
_BASELINE_BYTES = 1 << 30
"""Limit of the log-probabilities of a batch in memory; others are computed again."""


@dataclass
class Trial:
    """One setting with one seed, and its results so far.

    Attributes
    ----------
    settings, arm
        With the seed.
    moved
        The points that are redistributed.
    documents
        The effect by document.
    errors
        At each of these points: the new values against those that arrive there.
    after
        The distribution at each of these points and at the last layer; with ``"arrivals"`` that of
        the values that arrive at these points.
    changed
        Number of values that were selected.
    """

    setting: Setting
    settings: RunSettings
    arm: ARM
    moved: list[HookPoint]
    last: list[HookPoint]
    after: dict[HookPoint, Sketch] = field(default_factory=dict)
    effect: Effect = field(default_factory=Effect)
    changed: int = 0
    documents: DocumentEffects = field(default_factory=DocumentEffects)
    errors: dict[HookPoint, Difference] = field(default_factory=dict)

    @property
    def start(self) -> int:
        """The last layer that the redistribution cannot reach; -1 for none."""
        return max(min((point.layer for point in self.moved), default=0) - 1, -1)


Counts = Literal["after", "arrivals", "nothing"]
"""Which distributions a trial counts besides its effect."""


def _last_points(opened: LoadedModel, sites: list[str], stack: str) -> list[HookPoint]:
    """Return the points of some sites in the last layer that has them."""
    offered = find_points(opened.mlps, opened.model, sites)
    final = max(point.layer for point in offered if point.stack in (stack, "model"))
    return [p for p in offered if p.layer == final and p.stack in (stack, "model")]


def _count(
    sketches: dict[HookPoint, Sketch], point: HookPoint, values: torch.Tensor, tokens: Tokens
) -> None:
    """Count the values of a point, without rows that do not count."""
    slots: NDArray[np.int64] = np.where(tokens.rows_that_count(), 0, -1)
    seen = kernels.observe(values, slots, 1, channels=False)
    sketches.setdefault(point, Sketch()).absorb(seen, [0])


def mean_of(values: Iterable[float]) -> float:
    """Return the mean; infinite if a value is."""
    found = list(values)
    return sum(found) / len(found) if found else math.nan


@dataclass
class BatchPasses:
    """The passes of one batch; pass 0 is that of the unchanged model.

    Parameters
    ----------
    first
        Number of the batch's first pass, counted over all batches.
    done
        Numbers of all finished passes.
    tokens
        Number of tokens of the batch.
    progress
        Advanced by every finished pass.
    save
        Called after every newly finished pass.
    """

    first: int
    done: set[int]
    tokens: int
    progress: Progress
    save: Callable[[], None] = lambda: None

    def is_pending(self, number: int) -> bool:
        """Whether a pass is not finished."""
        return self.first + number not in self.done

    def begin(self, number: int, trials: int) -> None:
        """Report which pass starts."""
        name = f"setting {number} of {trials}" if number else "without any setting"
        self.progress.step(name)

    def skip_if_done(self, trials: int) -> bool:
        """Whether all passes are finished; if so, advance the progress by their tokens."""
        if any(self.is_pending(number) for number in range(1 + trials)):
            return False
        self.progress.advance((1 + trials) * self.tokens)
        return True

    def finish(self, number: int) -> None:
        """Mark a pass as finished; pass 0 may be repeated after a restore."""
        self.progress.advance(self.tokens)
        if self.is_pending(number):
            self.done.add(self.first + number)
            self.save()


@dataclass
class SweepPasses:
    """What the passes of a sweep share; ``watched`` are points to count without any change."""

    opened: LoadedModel
    trials: list[Trial]
    head: HeadInput | None
    cache: LayerCache
    counts: Counts = "after"
    watched: Sequence[HookPoint] = ()
    before: dict[HookPoint, Sketch] = field(default_factory=dict)
    tracker: Tracker = field(default_factory=Tracker)
    is_exact: bool | None = None

    @classmethod
    def prepare(
        cls,
        opened: LoadedModel,
        grid: Sequence[Setting],
        seeds: Sequence[int],
        counts: Counts = "after",
        watched: Sequence[HookPoint] = (),
    ) -> SweepPasses:
        """Find the points of every setting."""
        stack, trials = main_stack(opened.mlps), []
        for setting in grid:
            sites = parse_sites(setting.settings.at, "--at")
            moved = find_points(opened.mlps, opened.model, sites, setting.layers)
            check_replaceable(opened.model, moved)
            last = _last_points(opened, sites, stack)
            for seed in seeds:
                settings = replace(setting.settings, seed=seed)
                arm = setting.redistribution(settings)
                for point in moved:
                    arm.at(point)  # a file of thresholds may lack one
                trials.append(Trial(setting, settings, arm, moved, last))
        head = HeadInput.of(opened.model) if opened.has_head else None
        layers = LayerCache(find_layers(opened.model, opened.mlps, stack))
        return cls(opened, trials, head, layers, counts, watched)

    @property
    def near_zero_c(self) -> float:
        """The widest c of all settings: one band for all rows makes their shares comparable."""
        return max(trial.settings.c for trial in self.trials)

    @property
    def moved(self) -> list[HookPoint]:
        """Every point that a trial redistributes."""
        return list(dict.fromkeys(point for trial in self.trials for point in trial.moved))

    @property
    def places(self) -> list[HookPoint]:
        """Every point that is counted in the unchanged model."""
        if self.counts != "after":
            return list(self.watched)
        last = [point for trial in self.trials for point in trial.last]
        return list(dict.fromkeys([*self.moved, *last]))

    def measure(self, batch: Batch, passes: BatchPasses) -> None:
        """Make the unfinished passes of one batch."""
        if passes.skip_if_done(len(self.trials)):
            return
        starts = {trial.start for trial in self.trials} - {-1}
        self.tracker.given = tokens_of(batch)
        inputs = inputs_of(batch, self.opened.model)
        with torch.inference_mode():
            passes.begin(0, len(self.trials))
            recorded = starts if self.is_exact is not False else set()
            seen = self.before if passes.is_pending(0) else {}
            with self.cache.recording(recorded), self._counting(self.places, seen):
                hidden = self._pass(inputs)
            if self.is_exact is None and starts:
                with self.cache.start_after(max(starts)):
                    self.is_exact = self._agrees(inputs, hidden)
            passes.finish(0)
            baseline = None
            if self.head is not None:
                baseline = Baseline(self.head, hidden, batch.ids, batch.counted, _BASELINE_BYTES)
            for number, trial in enumerate(self.trials, start=1):
                if not passes.is_pending(number):
                    continue
                passes.begin(number, len(self.trials))
                changed = self._changed(trial, inputs)
                if baseline is not None:
                    trial.documents.owners = batch.documents
                    trial.effect.compare(baseline, changed, trial.documents)
                passes.finish(number)

    def state(self) -> dict[str, Any]:
        """Return plain data for a checkpoint."""
        sketches = [
            *(self.before.get(point, Sketch()) for point in self.places),
            *(trial.after.get(p, Sketch()) for trial in self.trials for p in self._points(trial)),
        ]
        return {
            "sketches": pack_sketches(sketches),
            "effects": [trial.effect.state() for trial in self.trials],
            "changed": [trial.changed for trial in self.trials],
            "documents": [trial.documents.state() for trial in self.trials],
            "errors": [
                [list(astuple(trial.errors.get(point, Difference()))) for point in trial.moved]
                for trial in self.trials
            ],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned."""
        sketches = iter(unpack_sketches(state["sketches"]))
        self.before = {point: next(sketches) for point in self.places}
        names = ("effects", "changed", "documents", "errors")
        rows = zip(self.trials, *(state[name] for name in names), strict=True)
        for trial, effect, changed, documents, errors in rows:
            trial.after = {point: next(sketches) for point in self._points(trial)}
            trial.effect, trial.changed = Effect.from_state(effect), changed
            trial.documents = DocumentEffects.from_state(documents)
            trial.errors = {
                point: Difference(*sums) for point, sums in zip(trial.moved, errors, strict=True)
            }

    def _points(self, trial: Trial) -> list[HookPoint]:
        """Return the points whose distribution a trial counts."""
        if self.counts == "after":
            return list(dict.fromkeys([*trial.moved, *trial.last]))
        return trial.moved if self.counts == "arrivals" else []

    def _pass(self, inputs: dict[str, Any]) -> Any:
        return self.head.run(**inputs) if self.head else self.opened.model(**inputs)

    def _agrees(self, inputs: dict[str, Any], expected: Any) -> bool:
        """Whether a pass that starts after the highest recorded layer has the same result."""
        if self.head is None:
            return False
        try:
            return bool(torch.equal(self._pass(inputs), expected))
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError):
            return False

    def _changed(self, trial: Trial, inputs: dict[str, Any]) -> Any:
        """Make one trial's pass; return the input of the head."""
        start = trial.start if self.is_exact else -1

        def report(
            point: HookPoint,
            old: torch.Tensor,
            new: torch.Tensor,
            moved: torch.Tensor,
            _plans: Any,
            tokens: Tokens,
        ) -> None:
            rows = torch.from_numpy(np.flatnonzero(tokens.rows_that_count())).to(moved.device)
            trial.changed += int(moved.reshape(-1, moved.shape[-1])[rows].sum())
            error = difference_of(kernels.compare(old[rows], new[rows], math.inf))
            trial.errors[point] = trial.errors.get(point, Difference()) + error
            if self.counts == "arrivals":
                _count(trial.after, point, old, tokens)

        points = self._points(trial) if self.counts == "after" else []
        watching = None if self.counts == "nothing" else report
        work = Redistribution(trial.arm, trial.moved, self.tracker, report=watching)
        with (
            self.cache.start_after(start),
            self._counting(points, trial.after),
            work.active(self.opened.model),
        ):
            return self._pass(inputs)

    def _counting(self, points: Sequence[HookPoint], sketches: dict[HookPoint, Sketch]) -> Any:
        """Count the outputs of the points into sketches."""

        def receive(point: HookPoint, values: torch.Tensor, tokens: Tokens) -> None:
            _count(sketches, point, values, tokens)

        return observe(self.opened.model, points, receive, self.tracker)

    def row(self, trial: Trial) -> dict[str, Any]:
        """Return a row of ``sweep_seeds.csv``."""
        changes, last = self._change(trial, trial.moved), self._change(trial, trial.last)
        values = sum(trial.after[point].count for point in trial.moved)
        effect = trial.effect.result(is_paired=True) or {}
        return {
            **trial.setting.named(),
            "seed": trial.settings.seed,
            "fraction_moved": trial.changed / values if values else math.nan,
            "near_zero_removed": changes["near_zero_before"] - changes["near_zero_after"],
            "own_near_zero_removed": self._removed(trial, trial.settings.c),
            "sqnr_db": mean_of(trial.errors[point].sqnr_db for point in trial.moved),
            **changes,
            **{f"last_{name}": value for name, value in last.items()},
            **{name: effect.get(name) for name in _EFFECT},
        }

    def _removed(self, trial: Trial, c: float) -> float:
        """Return the share that leaves the near-zero band of ``c``, mean over points."""
        shares = []
        for point in trial.moved:
            before = self.before[point]
            eps = statistics.near_zero_eps(before, c)
            near = [statistics.near_zero(one, eps) for one in (before, trial.after[point])]
            shares.append(near[0] - near[1])
        return math.fsum(shares) / len(shares)

    def _change(self, trial: Trial, points: Sequence[HookPoint]) -> dict[str, float]:
        """Compare the distributions before and after at some points; return means over them."""
        rows = []
        for point in points:
            before, after = self.before[point], trial.after[point]
            band = statistics.near_zero_eps(before, self.near_zero_c)
            spread = before.std()
            rows.append(
                {
                    "near_zero_before": statistics.near_zero(before, band),
                    "near_zero_after": statistics.near_zero(after, band),
                    "std_ratio": after.std() / spread if spread else math.nan,
                    "gini_before": statistics.gini(before),
                    "gini_after": statistics.gini(after),
                    "wasserstein_normalized": statistics.wasserstein(before, after) / spread
                    if spread
                    else math.nan,
                }
            )
        return {name: math.fsum(row[name] for row in rows) / len(rows) for name in rows[0]}
