"""The measuring loop: batches of tokens pass through the model twice and become a `Run`."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial

from distviz.arm import Proposal, propose, published_for
from distviz.data import (
    Batch,
    Corpus,
    make_batches,
)
from distviz.measure.forward import Measurement, capture_head_input, measure_batch
from distviz.measure.layer_checkpoint import (
    BatchCheckpoint,
    LayerCheckpointer,
    check_state,
    restore,
)
from distviz.measure.layerwise_batches import stream_batches
from distviz.measure.manifest import assemble, note_truncated, request
from distviz.measure.opening import Checked, check
from distviz.measure.padding import check_padding
from distviz.measure.paired_outputs import OutputSink
from distviz.measure.partial import batches_of_documents, gather, partition_batches
from distviz.measure.resume import CheckpointFolder
from distviz.measure.tensor_files import SpillBuffer
from distviz.measure.world import agree, current
from distviz.models import LoadedModel, as_written, entry_device
from distviz.progress import Progress
from distviz.results import Run
from distviz.settings import RunSettings
from distviz.stats import kernels

_PILOT_WINDOWS = 16
"""Windows from which settings are proposed."""


def run(
    settings: RunSettings,
    *,
    progress: Progress | None = None,
    states: CheckpointFolder | None = None,
    outputs: OutputSink | None = None,
    checked: Checked | None = None,
) -> Run:
    """Measure one model: without ARM, with ARM, paired.

    Parameters
    ----------
    settings
        All settings.
    progress
        Receives the progress.
    states
        Where to save checkpoints, and to resume from.
    outputs
        Receives what the model predicts, to compare it with another model.
    checked
        What ``check`` returned for these settings, which is then not checked again.

    Raises
    ------
    RequestError
        If the request cannot be carried out; before anything is measured.
    MeasurementError
        If the measurement fails.
    """
    progress = progress or Progress()
    started = time.perf_counter()
    checked = checked or check(settings)
    opened, corpus = checked.open(settings, progress), checked.corpus
    loaded = time.perf_counter() - started
    settings, preset = with_preset(opened, corpus, settings, progress)
    measurement = Measurement.prepare(opened, settings, outputs)
    measured = measure(opened, corpus, settings, progress, states=states, measurement=measurement)
    measured.manifest["seconds"] |= {"load": round(loaded, 3)}
    if preset is not None and measured.manifest["arm"] is not None:
        measured.manifest["arm"] |= {"preset": preset}
    return measured


def with_preset(
    opened: LoadedModel, corpus: Corpus, settings: RunSettings, progress: Progress
) -> tuple[RunSettings, dict[str, str] | None]:
    """Apply the preset; where ``auto`` finds none published, propose settings by a pilot run.

    Returns
    -------
    The settings, and the entry for the preset in ``run.json`` (None without a preset).
    """
    if settings.preset is None or settings.arm_layers == "none":
        return settings, None
    if settings.preset.lower() != "auto":
        return settings, {"name": settings.preset, "evidence": "published"}
    published = published_for(settings.model)
    if published is not None:
        progress.stage(f"preset auto: {published} ({settings.arm().described()})")
        return settings, {"name": published, "evidence": "published, chosen by the model's name"}
    found = pilot_run(opened, corpus, settings, progress)
    return settings.with_proposal(found.settings), {"name": "proposed", "evidence": found.evidence}


def pilot_run(
    opened: LoadedModel, corpus: Corpus, settings: RunSettings, progress: Progress
) -> Proposal:
    """Propose settings for a model without published ones, from its first windows.

    The first of the layers where ARM is applied is measured; the evidence names it.
    """
    asked = replace(
        settings, layers=settings.arm_layers, arm_layers="none", sites=settings.at, ripple=False
    )
    measured = measure(opened, replace(corpus, windows=corpus.windows[:_PILOT_WINDOWS]), asked)
    key = measured.keys[0]
    found = propose(measured.merged[key])
    evidence = f"layer {key.layer}: {found.evidence}"
    chosen = settings.with_proposal(found.settings)
    progress.stage(
        f"preset auto: none published for {opened.name}; proposed {chosen.arm().described()}, "
        f"since in {evidence}"
    )
    return Proposal(found.settings, evidence)


def measure(
    opened: LoadedModel,
    corpus: Corpus,
    settings: RunSettings,
    progress: Progress | None = None,
    *,
    own_only: bool = False,
    states: CheckpointFolder | None = None,
    measurement: Measurement | None = None,
) -> Run:
    """Send a corpus through an open model and return what was measured.

    Parameters
    ----------
    own_only
        Whether the tokens of a filler are excluded from all counts.
    states
        Where to save checkpoints, and to resume from.
    measurement
        Given by a study that records more than a run does.

    Raises
    ------
    RequestError
        If layers or sites do not exist in this model, or a state belongs to another request.
    MeasurementError
        If a point never fires.
    """
    progress = progress or Progress()
    measurement = measurement or Measurement.prepare(opened, settings)
    batches = make_batches(
        corpus, settings.batch_size, skip_special=settings.skip_special, own_only=own_only
    )
    note_truncated(corpus, settings, progress)
    world, asked = current(), request(opened, settings, corpus, batches, own_only=own_only)
    agree(world, "request", asked)
    done, saved = set[int](), dict[int, BatchCheckpoint]()
    if states is not None:
        contents, done = states.begin(asked, progress, partial(check_state, measurement, states))
        saved = restore(measurement, states, contents)
    if not kernels.is_compiled():
        progress.stage("compiling the counting loops (once, some ten seconds)")
    progress.stage("measuring")
    passes = 1 + measurement.is_paired
    finished = sum(batches[n].tokens for n in done if n not in saved)
    progress.start(passes * corpus.tokens, passes * finished)
    started = time.perf_counter()
    with as_written(opened.model) as notes:
        check_padding(measurement.opened, [] if done else batches)
        _measure_own(measurement, batches, done, saved, states, progress)
    measurement.partial = gather(world, measurement.partial)
    measurement.partial.recorder.documents.close()
    measurement.partial.flush()
    run = assemble(measurement, corpus, batches, time.perf_counter() - started)
    run.manifest["warnings"] = [*notes, *run.manifest["warnings"]]
    return run


def _measure_own(
    measurement: Measurement,
    batches: Sequence[Batch],
    done: Collection[int],
    saved: Mapping[int, BatchCheckpoint],
    states: CheckpointFolder | None,
    progress: Progress,
) -> None:
    """Measure the batches of this process, and save checkpoints.

    ``done`` are those that no process has to begin; ``saved`` are those of them that this process
    has to finish.
    """
    world, partial_result = current(), measurement.partial
    sizes = {n: batch.valid.size for n, batch in enumerate(batches)}
    left = {number: size for number, size in sizes.items() if number not in done}
    own = sorted({*partition_batches(left, world.size)[world.rank], *saved})
    checkpointer = None
    total = sum(sizes[number] for number in {*own, *partial_result.batches})

    def share() -> float:
        return sum(sizes[number] for number in partial_result.batches) / max(total, 1)

    if states is not None:
        states.share = share()
        checkpointer = LayerCheckpointer.of(states, measurement, batches, own, saved, progress)
    for number in _finish_batches(measurement, batches, own, progress, checkpointer):
        if states is not None:
            numbers, is_last = sorted(partial_result.batches), number == own[-1]
            states.save_if_due(partial_result.state, numbers, share(), progress, is_last=is_last)


def _finish_batches(
    measurement: Measurement,
    batches: Sequence[Batch],
    numbers: Sequence[int],
    progress: Progress,
    checkpointer: LayerCheckpointer | None,
) -> Iterator[int]:
    """Send batches through the model, one after the other or all layer by layer.

    Yields the number of each when it is finished.
    """
    spans, on_disk = batches_of_documents(batches), measurement.opened.on_disk
    if on_disk is not None and on_disk.streams:
        chosen = {number: batches[number] for number in numbers}
        asked, device = measurement.settings.stream_memory, entry_device(measurement.opened.model)
        with closing(SpillBuffer.within(asked, device)) as spill:
            stream_batches(measurement, on_disk, chosen, spans, progress, spill, checkpointer)
        yield from numbers
        return
    with capture_head_input(measurement) as head:
        for number in numbers:
            measure_batch(measurement, batches[number], head, progress)
            measurement.partial.finish(number, batches[number], spans)
            yield number
