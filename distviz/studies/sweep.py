"""The study behind `distviz sweep`: what each setting does to distributions and to the output.

The model is loaded once. For every batch one pass is made as the model is, then one a setting and
seed; it starts at the first layer that the setting changes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from distviz.data import Batch, Corpus, make_batches
from distviz.hooks import (
    Redistribution,
    Tokens,
    Tracker,
    experts_of,
    force_batched_experts,
    observe,
)
from distviz.measure import (
    Baseline,
    CheckpointFolder,
    Effect,
    HeadInput,
    describe,
    inputs_of,
    request,
    tokens_of,
)
from distviz.models import LoadedModel
from distviz.models.architectures import count_layers, find_points, main_stack
from distviz.progress import Progress
from distviz.results import SCHEMA_VERSION, Sweep, join_seeds
from distviz.settings import RunSettings
from distviz.sites import HookPoint, parse_layers
from distviz.stats import Sketch, kernels, pack_sketches, statistics, unpack_sketches
from distviz.studies.layer_cache import LayerCache, find_layers
from distviz.studies.sweep_grid import Presets, Setting, SweepGrid, by_layer, combine

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["activation_layers", "every_setting", "first_place", "layer_count", "sweep_model"]

_BASELINE_BYTES = 1 << 30
"""Log-probabilities of a batch that are kept for its settings; the rest is computed again."""


@dataclass
class Trial:
    """One setting with one seed, and what was seen of it so far.

    Attributes
    ----------
    moved
        ``act`` points where the redistribution stands.
    after
        By point, the distribution there and at the last layer.
    changed
        Values that were selected, of those that count.
    """

    setting: Setting
    settings: RunSettings
    moved: list[HookPoint]
    after: dict[HookPoint, Sketch] = field(default_factory=dict)
    effect: Effect = field(default_factory=Effect)
    changed: int = 0


def sweep_model(
    opened: LoadedModel,
    corpus: Corpus,
    settings: RunSettings,
    grid: Sequence[Setting],
    seeds: Sequence[int],
    budget_kl: float,
    progress: Progress,
    *,
    is_by_layer: bool = False,
    states: CheckpointFolder | None = None,
) -> Sweep:
    """Measure every setting of a grid on an open model.

    Parameters
    ----------
    opened
        The model.
    corpus
        What it reads.
    settings
        What does not vary.
    grid
        The settings to try.
    seeds
        Seeds of the redistribution; each setting is measured with each.
    budget_kl
        The largest KL divergence of a recommended setting, nats.
    progress
        Told how far it is.
    is_by_layer
        Whether the grid goes through the layers one at a time.
    states
        Where to keep what is finished, and to go on from.

    Raises
    ------
    RequestError
        If a layer of the grid has no activation.
    MeasurementError
        If a place never fires.
    """
    started = time.perf_counter()
    work = _Work.prepare(opened, grid, seeds)
    batches = make_batches(corpus, settings.batch_size, skip_special=settings.skip_special)
    done = _go_on(work, opened, settings, corpus, batches, states, progress)
    progress.stage(f"measuring {len(grid)} settings on {corpus.tokens:,} tokens")
    progress.start((1 + len(work.trials)) * corpus.tokens)
    with ExitStack() as stack:
        if work.head is not None:
            stack.callback(work.head.close)
        # All passes on the same code, so that the settings alone tell them apart.
        stack.enter_context(force_batched_experts(opened.model, experts_of(work.places)))
        for number, batch in enumerate(batches):
            units = Units(number * (1 + len(work.trials)), done, batch.tokens, progress)
            if states is not None:
                share = len(batches) * (1 + len(work.trials))
                units.kept = partial(_keep, states, work, done, share, progress)
            work.measure(batch, units)
    table = pd.DataFrame([work.row(trial) for trial in work.trials])
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "kind": "sweep",
        "settings": settings.as_dict(),
        "budget_kl": budget_kl,
        "by_layer": is_by_layer,
        "seeds": list(seeds),
        **describe(opened, corpus, batches),
        "seconds": {"measure": round(time.perf_counter() - started, 3)},
    }
    return Sweep(manifest, join_seeds(table), table)


def every_setting(
    opened: LoadedModel,
    grid: SweepGrid,
    settings: RunSettings,
    *,
    is_by_layer: bool,
    presets: Presets | None = None,
) -> list[Setting]:
    """Return every setting that a sweep of a model tries."""
    chosen = combine(grid, settings, layer_count(opened), presets)
    return by_layer(chosen, activation_layers(opened, grid.arm_layers)) if is_by_layer else chosen


def first_place(
    opened: LoadedModel, grid: SweepGrid, settings: RunSettings, *, is_by_layer: bool
) -> str:
    """Return the first layers that a sweep changes, as ``--arm-layers`` names them."""
    if is_by_layer:
        return str(activation_layers(opened, grid.arm_layers)[0])
    return (grid.arm_layers or settings.arm_layers).split(";")[0]


def layer_count(opened: LoadedModel) -> int:
    """Return how many layers ``--arm-layers`` counts."""
    return max(count_layers(opened.mlps).values())


def activation_layers(opened: LoadedModel, wanted: str | None) -> list[int]:
    """Return the layers that have an activation, of those wanted (None: all)."""
    stack = main_stack(opened.mlps)
    offered = [point for mlp in opened.mlps for point in mlp.points if point.site == "act"]
    known = {point.layer for point in offered if point.stack == stack}
    if wanted is None:
        return sorted(known)
    parts = [parse_layers(part, layer_count(opened), "--arm-layers") for part in wanted.split(";")]
    return sorted(known & set().union(*parts))


def _go_on(
    work: _Work,
    opened: LoadedModel,
    settings: RunSettings,
    corpus: Corpus,
    batches: list[Batch],
    states: CheckpointFolder | None,
    progress: Progress,
) -> set[int]:
    """Take over what an interrupted sweep kept; return the numbers of its finished passes."""
    if states is None:
        return set()
    asked = request(opened, settings, corpus, batches)
    asked["settings"] = str([t.setting.named() | {"seed": t.settings.seed} for t in work.trials])
    found, done = states.begin(asked, progress)
    for state in found:
        work.go_on_from(state)
    return done


def _keep(
    states: CheckpointFolder, work: _Work, done: set[int], passes: int, progress: Progress
) -> None:
    states.save_if_due(work.state, sorted(done), len(done) / passes, progress)


@dataclass
class Units:
    """The passes of one batch: which are made. The first is that of the model as it is.

    Parameters
    ----------
    first
        Number of the batch's first pass, counted over all batches.
    done
        Numbers of all passes that are made.
    tokens
        Of the batch.
    progress
        Told of every pass that is over.
    kept
        Called when one more is made.
    """

    first: int
    done: set[int]
    tokens: int
    progress: Progress
    kept: Callable[[], None] = lambda: None

    def is_open(self, number: int) -> bool:
        """Whether a pass is still to be made."""
        return self.first + number not in self.done

    def is_over(self, trials: int) -> bool:
        """Whether all passes are made; then their tokens are told at once."""
        over = not any(self.is_open(number) for number in range(1 + trials))
        if over:
            self.progress.advance((1 + trials) * self.tokens)
        return over

    def close(self, number: int) -> None:
        """Note that a pass is made (that of the model as it is may be made again)."""
        self.progress.advance(self.tokens)
        if self.is_open(number):
            self.done.add(self.first + number)
            self.kept()


@dataclass
class _Work:
    """Everything that the passes of a sweep share."""

    opened: LoadedModel
    trials: list[Trial]
    last: list[HookPoint]
    head: HeadInput | None
    shortcut: LayerCache
    before: dict[HookPoint, Sketch] = field(default_factory=dict)
    tracker: Tracker = field(default_factory=Tracker)
    is_exact: bool | None = None

    @classmethod
    def prepare(
        cls,
        opened: LoadedModel,
        grid: Sequence[Setting],
        seeds: Sequence[int],
    ) -> _Work:
        """Find the points of every setting, once for all."""
        offered = [point for mlp in opened.mlps for point in mlp.points if point.site == "act"]
        stack = main_stack(opened.mlps)
        final = max(point.layer for point in offered if point.stack == stack)
        last = find_points(opened.mlps, opened.model, ["act"], {stack: [final]})
        trials = [
            Trial(
                setting,
                replace(setting.settings, seed=seed),
                find_points(opened.mlps, opened.model, ["act"], setting.layers),
            )
            for setting in grid
            for seed in seeds
        ]
        head = HeadInput.of(opened.model) if opened.has_head else None
        layers = LayerCache(find_layers(opened.model, opened.mlps, stack))
        return cls(opened, trials, last, head, layers)

    @property
    def places(self) -> list[HookPoint]:
        """Every point that some trial changes, and the last layer's."""
        moved = [point for trial in self.trials for point in trial.moved]
        return list(dict.fromkeys([*moved, *self.last]))

    def measure(self, batch: Batch, open_units: Units) -> None:
        """Make the passes of one batch that are not made yet."""
        if open_units.is_over(len(self.trials)):
            return
        starts = {min(trial.setting.layers) - 1 for trial in self.trials} - {-1}
        self.tracker.given = tokens_of(batch)
        inputs = inputs_of(batch, self.opened.model)
        with torch.inference_mode():
            kept = starts if self.is_exact is not False else set()
            seen = self.before if open_units.is_open(0) else {}
            with self.shortcut.keeping(kept), self._seeing(self.places, seen):
                hidden = self._pass(inputs)
            if self.is_exact is None and starts:
                with self.shortcut.start_after(max(starts)):
                    self.is_exact = self._agrees(inputs, hidden)
            open_units.close(0)
            baseline = None
            if self.head is not None:
                baseline = Baseline(self.head, hidden, batch.ids, batch.counted, _BASELINE_BYTES)
            for number, trial in enumerate(self.trials, start=1):
                if not open_units.is_open(number):
                    continue
                changed = self._changed(trial, inputs)
                if baseline is not None:
                    trial.effect.compare(baseline, changed)
                open_units.close(number)

    def state(self) -> dict[str, Any]:
        """Return plain data, to go on from."""
        sketches = [
            *(self.before.get(point, Sketch()) for point in self.places),
            *(trial.after.get(p, Sketch()) for trial in self.trials for p in self._points(trial)),
        ]
        return {
            "sketches": pack_sketches(sketches),
            "effects": [trial.effect.state() for trial in self.trials],
            "changed": [trial.changed for trial in self.trials],
        }

    def go_on_from(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned."""
        sketches = iter(unpack_sketches(state["sketches"]))
        self.before = {point: next(sketches) for point in self.places}
        rows = zip(self.trials, state["effects"], state["changed"], strict=True)
        for trial, effect, changed in rows:
            trial.after = {point: next(sketches) for point in self._points(trial)}
            trial.effect, trial.changed = Effect.from_state(effect), changed

    def _points(self, trial: Trial) -> list[HookPoint]:
        return list(dict.fromkeys([*trial.moved, *self.last]))

    def _pass(self, inputs: dict[str, Any]) -> Any:
        return self.head.run(**inputs) if self.head else self.opened.model(**inputs)

    def _agrees(self, inputs: dict[str, Any], expected: Any) -> bool:
        """Whether a pass that starts behind the highest kept layer ends as the whole one did."""
        if self.head is None:
            return False
        try:
            return bool(torch.equal(self._pass(inputs), expected))
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError):
            return False

    def _changed(self, trial: Trial, inputs: dict[str, Any]) -> Any:
        """Make one trial's pass; return what entered the head."""
        start = min(trial.setting.layers) - 1 if self.is_exact else -1

        def report(
            _point: HookPoint,
            _old: torch.Tensor,
            _new: torch.Tensor,
            moved: torch.Tensor,
            _plans: Any,
            tokens: Tokens,
        ) -> None:
            rows = torch.from_numpy(np.flatnonzero(tokens.counted)).to(moved.device)
            trial.changed += int(moved.reshape(-1, moved.shape[-1])[rows].sum())

        points = self._points(trial)
        work = Redistribution(trial.settings.arm(), trial.moved, self.tracker, report=report)
        with (
            self.shortcut.start_after(start),
            self._seeing(points, trial.after),
            work.active(self.opened.model),
        ):
            return self._pass(inputs)

    def _seeing(self, points: Sequence[HookPoint], sketches: dict[HookPoint, Sketch]) -> Any:
        """Count what leaves the points into sketches."""

        def receive(point: HookPoint, values: torch.Tensor, tokens: Tokens) -> None:
            slots: NDArray[np.int64] = np.where(tokens.counted.ravel(), 0, -1)
            seen = kernels.observe(values, slots, 1, channels=False)
            sketches.setdefault(point, Sketch()).absorb(seen, [0])

        return observe(self.opened.model, points, receive, self.tracker)

    def row(self, trial: Trial) -> dict[str, Any]:
        """Return a row of ``sweep_seeds.csv``."""
        own, last = self._change(trial, trial.moved), self._change(trial, self.last)
        values = sum(trial.after[point].count for point in trial.moved)
        effect = trial.effect.result(is_paired=True) or {}
        return {
            **trial.setting.named(),
            "seed": trial.settings.seed,
            "fraction_moved": trial.changed / values if values else math.nan,
            "near_zero_removed": own["near_zero_before"] - own["near_zero_after"],
            **own,
            **{f"last_{name}": value for name, value in last.items()},
            **{name: effect.get(name) for name in _EFFECT},
        }

    def _change(self, trial: Trial, points: Sequence[HookPoint]) -> dict[str, float]:
        """Compare distributions before and after at some points; means over them."""
        rows = []
        for point in points:
            before, after = self.before[point], trial.after[point]
            band = statistics.near_zero_eps(before, trial.settings.c)
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


_EFFECT = ("loss_before", "loss_after", "kl", "top1_agreement")
