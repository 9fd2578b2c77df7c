"""The study of `distviz sweep`: the effect of each setting on distributions and on the output.

The model is loaded once. Each pass starts at the first layer that its setting changes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack

import pandas as pd

from distviz.data import Batch, Corpus, make_batches
from distviz.errors import RequestError
from distviz.hooks import experts_of, force_batched_experts
from distviz.measure import CheckpointFolder, check_padding, describe, note_truncated, request
from distviz.models import LoadedModel
from distviz.models.architectures import count_layers, find_points, main_stack
from distviz.output import counted
from distviz.progress import Progress
from distviz.results import SCHEMA_VERSION, Sweep, join_seeds
from distviz.settings import RunSettings
from distviz.sites import parse_layers, parse_sites
from distviz.studies.sweep_grid import Presets, Setting, SweepGrid, by_layer, combine
from distviz.studies.sweep_intervals import add_intervals
from distviz.studies.sweep_passes import BatchPasses, SweepPasses


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
    opened, corpus
        The model and its input.
    settings
        What the settings of the grid have in common.
    grid, seeds
        Each setting is measured with each seed of the redistribution.
    budget_kl
        The largest KL divergence of a recommended setting, nats.
    progress
        Receives the progress.
    is_by_layer
        Whether every setting redistributes in one layer alone.
    states
        Folder for checkpoints.

    Raises
    ------
    RequestError
        If a layer of the grid has no activation.
    MeasurementError
        If a hook point is never called.
    """
    started = time.perf_counter()
    work = SweepPasses.prepare(opened, grid, seeds)
    batches = make_batches(corpus, settings.batch_size, skip_special=settings.skip_special)
    note_truncated(corpus, settings, progress)
    numbers = counted(len(grid), "setting"), counted(corpus.tokens, "token")
    stage = f"measuring {' on '.join(numbers)}"
    make_passes(work, corpus, settings, batches, states, progress, stage)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "kind": "sweep",
        "settings": settings.as_dict(),
        "budget_kl": budget_kl,
        "by_layer": is_by_layer,
        "near_zero_c": work.near_zero_c,
        "seeds": list(seeds),
        **describe(opened, corpus, batches, [trial.settings for trial in work.trials]),
        "seconds": {"measure": round(time.perf_counter() - started, 3)},
        "warnings": list(corpus.notes),
    }
    table = pd.DataFrame([work.row(trial) for trial in work.trials])
    joined = add_intervals(join_seeds(table), work.trials, is_by_layer=is_by_layer)
    return Sweep(manifest, joined, table)


def make_passes(
    work: SweepPasses,
    corpus: Corpus,
    settings: RunSettings,
    batches: list[Batch],
    states: CheckpointFolder | None,
    progress: Progress,
    stage: str,
) -> None:
    """Make all passes of a sweep, or those that are left after an interruption.

    Parameters
    ----------
    work
        Holds the results.
    corpus, settings, batches
        The input; ``settings`` are those that all trials have in common.
    states
        Folder for checkpoints.
    progress, stage
        Receives the progress, under this name.
    """
    done = _restore(work, settings, corpus, batches, states, progress)
    progress.stage(stage)
    n_passes = 1 + len(work.trials)
    check_padding(work.opened, batches)
    progress.start(n_passes * sum(batch.tokens for batch in batches))

    def save() -> None:
        if states is not None:
            share = len(done) / (len(batches) * n_passes)
            states.save_if_due(work.state, sorted(done), share, progress, is_last=share == 1)

    model = work.opened.model
    with ExitStack() as stack:
        if work.head is not None:
            stack.callback(work.head.close)
        # Every pass runs the same code, so that only the settings differ.
        stack.enter_context(force_batched_experts(model, experts_of([*work.moved, *work.places])))
        for number, batch in enumerate(batches):
            passes = BatchPasses(number * n_passes, done, batch.tokens, progress, save)
            work.measure(batch, passes)


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
    if not is_by_layer:
        return chosen
    return by_layer(chosen, lambda at: layers_with(opened, at, grid.arm_layers))


def first_place(
    opened: LoadedModel, grid: SweepGrid, settings: RunSettings, *, is_by_layer: bool
) -> str:
    """Return the first layers that a sweep changes, as ``--arm-layers`` names them."""
    if is_by_layer:
        return str(layers_with(opened, settings.at, grid.arm_layers)[0])
    return (grid.arm_layers or settings.arm_layers).split(";")[0]


def layer_count(opened: LoadedModel) -> int:
    """Return the number of layers that ``--arm-layers`` refers to."""
    return max(count_layers(opened.mlps).values())


def layers_with(opened: LoadedModel, at: str, wanted: str | None) -> list[int]:
    """Return those of the wanted layers (None: all) that have all of some sites.

    Raises
    ------
    RequestError
        If no layer has them.
    """
    stack, known = main_stack(opened.mlps), set(range(layer_count(opened)))
    for site in parse_sites(at, "--at"):
        points = find_points(opened.mlps, opened.model, [site])
        known &= {point.layer for point in points if point.stack == stack}
    if not known:
        raise RequestError(f"--at {at}: no layer has it", "distviz inspect shows what a layer has")
    if wanted is None:
        return sorted(known)
    parts = [parse_layers(part, layer_count(opened), "--arm-layers") for part in wanted.split(";")]
    return sorted(known & set().union(*parts))


def _restore(
    work: SweepPasses,
    settings: RunSettings,
    corpus: Corpus,
    batches: list[Batch],
    states: CheckpointFolder | None,
    progress: Progress,
) -> set[int]:
    """Restore interrupted passes; return the numbers of those that are finished."""
    if states is None:
        return set()
    tried = [trial.settings for trial in work.trials]
    asked = request(work.opened, settings, corpus, batches, tried=tried)
    asked["settings"] = str(
        [t.setting.named() | {"seed": t.settings.seed, "by": t.setting.table} for t in work.trials]
    )
    found, done = states.begin(asked, progress)
    for state in found:
        work.restore(state)
    return done
