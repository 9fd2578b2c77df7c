"""The measuring loop: batches of tokens pass through the model twice and become a `Run`."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from distviz.arm import Proposal, propose, published_for
from distviz.data import (
    Batch,
    Corpus,
    Document,
    Filler,
    check_ids,
    check_lengths,
    list_sources,
    make_batches,
    random_corpus,
    read_documents,
    tokenize,
    without_special,
)
from distviz.errors import RequestError
from distviz.measure.forward import Measurement, capture_head_input, measure_batch, needed_points
from distviz.measure.layer_checkpoint import (
    BatchCheckpoint,
    LayerCheckpointer,
    check_state,
    restore,
)
from distviz.measure.layerwise_batches import stream_batches
from distviz.measure.manifest import assemble, note_truncated, request
from distviz.measure.padding import check_padding
from distviz.measure.paired_outputs import OutputSink
from distviz.measure.partial import batches_of_documents, gather, partition_batches
from distviz.measure.resume import CheckpointFolder
from distviz.measure.tensor_files import SpillBuffer
from distviz.measure.world import agree, current
from distviz.models import (
    HIDDEN_VOCABULARY,
    LoadedModel,
    as_written,
    check_input,
    embedding_rows,
    entry_device,
    open_model,
    position_rows,
    refuse_opened,
)
from distviz.output import counted
from distviz.progress import Progress
from distviz.results import Run
from distviz.settings import LayerSettings, RunSettings, build_settings
from distviz.stats import kernels

_PILOT_WINDOWS = 16
"""Windows from which settings are proposed."""

Text = str | Path | dict[str, str]


def run(
    model: str | Path | None = None,
    *,
    text: Sequence[Text] | None = None,
    settings: RunSettings | None = None,
    progress: Progress | None = None,
    states: CheckpointFolder | None = None,
    outputs: OutputSink | None = None,
    **options: Any,
) -> Run:
    """Measure one model: without ARM, with ARM, paired.

    Parameters
    ----------
    model
        Folder, hub id or ``.gguf`` file; None measures the embedded demo.
    text
        Documents: a ``str`` is a text, a ``Path`` a file, a ``dict`` a prompt. None measures the
        embedded documents.
    settings
        All settings; or single ``options`` by the names of `RunSettings`.
    progress
        Receives the progress.
    states
        Where to save checkpoints, and to resume from.
    outputs
        Receives what the model predicts, to compare it with another model.

    Raises
    ------
    RequestError
        If the request cannot be carried out; before anything is measured.
    MeasurementError
        If the measurement fails.
    """
    if model is not None:
        refuse_opened(model, "run")
    if settings is None:
        try:
            settings = build_settings(options, None, None if model is None else str(model))
        except TypeError as error:
            raise RequestError(str(error).replace("RunSettings.__init__()", "run()")) from None
    elif model is not None:
        settings = replace(settings, model=str(model))
    progress = progress or Progress()
    started = time.perf_counter()
    sources = [Path(name) for name in settings.text] if text is None else list_sources(text)
    documents = read_documents(sources) if settings.layer is None else []
    opened, corpus = open_with_corpus(documents, settings, progress, is_for_measure=True)
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
        settings, layers=settings.arm_layers, arm_layers="none", sites="act", ripple=False
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


def corpus_of(documents: Sequence[Document], opened: LoadedModel, settings: RunSettings) -> Corpus:
    """Tokenize documents as the settings ask; random input for built layers.

    Weights are not needed. Raises RequestError as `distviz.data.tokenize` does, and for tokens
    that the model cannot read.
    """
    if settings.layer is not None:
        return random_input(settings.layer, settings.seed, opened.model.config)
    corpus = tokenize(
        documents,
        opened.tokenizer,
        max_length=settings.max_length,
        max_tokens=settings.max_tokens,
        filler=filler_of(settings),
        chat_template=settings.chat_template,
    )
    if (rows := embedding_rows(opened.model)) is not None:
        check_ids(corpus, rows, opened.tokenizer)
    if (positions := position_rows(opened.model)) is not None:
        check_lengths(corpus, positions)
    return without_special(corpus) if settings.skip_special else corpus


def open_with_corpus(
    documents: Sequence[Document],
    settings: RunSettings,
    progress: Progress,
    *,
    is_for_measure: bool = False,
) -> tuple[LoadedModel, Corpus]:
    """Open the model as `open_from`; the documents are tokenized before its weights are read."""
    found: list[Corpus] = []

    def prepare(empty: LoadedModel) -> None:
        found.append(corpus_of(documents, empty, settings))

    opened = open_from(settings, progress, prepare, is_for_measure=is_for_measure)
    return opened, found[0] if found else corpus_of(documents, opened, settings)


def open_from(
    settings: RunSettings,
    progress: Progress,
    prepare: Callable[[LoadedModel], object] | None = None,
    *,
    is_for_measure: bool = False,
) -> LoadedModel:
    """Open the model of the settings, with their number of threads.

    ``is_for_measure``: only what `measure` needs is read, layer by layer if it does not fit.
    """
    if settings.stream and not is_for_measure:
        raise RequestError("--stream cannot be used here: this command needs the whole model")
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    world, threads = current(), torch.get_num_threads()
    if world.size > 1:
        progress.stage(f"{counted(world.size, 'process')} of {counted(threads, 'thread')} each")
    progress.stage("loading the model")
    opened = open_model(
        settings.model,
        dtype=settings.dtype,
        device=_own_device(settings.device),
        revision=settings.revision,
        trust_remote_code=settings.trust_remote_code,
        allow_pickle=settings.allow_pickle,
        attn_implementation=settings.attn_implementation,
        device_map=settings.device_map,
        layer=settings.layer,
        choose=partial(needed_points, settings) if is_for_measure else None,
        stream=settings.stream if is_for_measure else False,
        prepare=prepare,
    )
    if opened.on_disk is not None and opened.on_disk.streams:
        progress.stage(f"{opened.on_disk.why}streaming, layers are read one by one")
    elif settings.stream_memory is not None:
        progress.note("warning: --stream-memory has no effect: the model is not streamed")
    return opened


def _own_device(asked: str) -> str:
    """Return the device of this process; processes of one machine get different GPUs."""
    world, gpus = current(), torch.cuda.device_count()
    if world.size > 1 and asked in ("auto", "cuda") and gpus:
        return f"cuda:{world.local_rank % gpus}"
    return asked


def filler_of(settings: RunSettings) -> Filler | None:
    """Return the filler that the settings ask for; None without one."""
    if settings.filler is None:
        return None
    return Filler(
        settings.filler,
        settings.filler_count,
        settings.filler_position,
        settings.seed,
        settings.filler_kind,
    )


def random_input(layer: LayerSettings, seed: int, config: Any) -> Corpus:
    """Return seeded random input for built layers, as wide as their ``config``."""
    is_hidden = layer.input == "hidden"
    check_input(layer, config.hidden_size if is_hidden else 0)
    return random_corpus(
        layer.documents,
        layer.tokens,
        seed=seed,
        vocabulary=HIDDEN_VOCABULARY if is_hidden else config.vocab_size,
        width=config.hidden_size if is_hidden else None,
        scale=layer.scale,
    )


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
