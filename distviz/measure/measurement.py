"""The measuring loop: batches of tokens go through the model twice, and a `Run` comes out."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
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
    make_batches,
    random_corpus,
    read_documents,
    tokenize,
)
from distviz.errors import RequestError
from distviz.measure.forward import Measurement, capture_head_input, measure_batch, needed_points
from distviz.measure.layerwise_batches import BatchCheckpoint, Keeping, stream_batches
from distviz.measure.manifest import assemble, request
from distviz.measure.partial import batches_of_documents, gather, partition_batches
from distviz.measure.resume import CheckpointFolder
from distviz.measure.resume_point import check_kept, keeping_in, take_up
from distviz.measure.spill import SpillBuffer
from distviz.measure.world import agree, current
from distviz.models import (
    HIDDEN_VOCABULARY,
    LoadedModel,
    as_written,
    entry_device,
    free_bytes,
    open_model,
    refuse_opened,
)
from distviz.progress import Progress
from distviz.results import Run
from distviz.settings import LayerSettings, RunSettings, build_settings
from distviz.stats import kernels

__all__ = ["corpus_of", "filler_of", "measure", "open_from", "pilot_run", "random_input", "run"]

_FIRST_LOOK = 16
"""Windows that a proposal of settings rests on."""

Text = str | Path | dict[str, str]


def run(
    model: str | Path | None = None,
    *,
    text: Sequence[Text] | None = None,
    settings: RunSettings | None = None,
    progress: Progress | None = None,
    states: CheckpointFolder | None = None,
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
        Everything at once; or single ``options`` by the names of `RunSettings`.
    progress
        Told how far it is.
    states
        Where to keep what is finished, and to go on from.

    Raises
    ------
    RequestError
        If something asked for cannot be done; before anything is measured.
    MeasurementError
        If the measurement fails on its way.
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
    told = progress or Progress()
    started = time.perf_counter()
    sources = [Path(name) for name in settings.text] if text is None else list(text)
    if text is not None and not sources:
        raise RequestError("the text is empty, there is nothing to measure")
    documents = read_documents(sources) if settings.layer is None else []
    opened = open_from(settings, told, is_for_measure=True)
    loaded = time.perf_counter() - started
    corpus = corpus_of(documents, opened, settings)
    settings, preset = with_preset(opened, corpus, settings, told)
    measured = measure(opened, corpus, settings, told, states=states)
    measured.manifest["seconds"] |= {"load": round(loaded, 3)}
    if preset is not None and measured.manifest["arm"] is not None:
        measured.manifest["arm"] |= {"preset": preset}
    return measured


def with_preset(
    opened: LoadedModel, corpus: Corpus, settings: RunSettings, progress: Progress
) -> tuple[RunSettings, dict[str, str] | None]:
    """Say which preset holds; where ``auto`` found none published, propose one from a first look.

    Returns
    -------
    The settings, and what ``run.json`` says of the preset (None without one).
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
    """Propose settings for a model without published ones from its first windows, and say why.

    The look is at the first of the layers where ARM is to stand; the evidence names it.
    """
    few = replace(corpus, windows=corpus.windows[:_FIRST_LOOK])
    asked = replace(
        settings, layers=settings.arm_layers, arm_layers="none", sites="act", ripple=False
    )
    looked = measure(opened, few, asked)
    found = propose(looked.merged[looked.keys[0]])
    evidence = f"layer {looked.keys[0].layer}: {found.evidence}"
    chosen = settings.with_proposal(found.settings)
    progress.stage(
        f"preset auto: none published for {opened.name}; proposed {chosen.arm().described()}, "
        f"since in {evidence}"
    )
    return Proposal(found.settings, evidence)


def corpus_of(documents: Sequence[Document], opened: LoadedModel, settings: RunSettings) -> Corpus:
    """Tokenize documents as the settings say; random input where layers were built."""
    if settings.layer is not None:
        return random_input(settings.layer, settings.seed, opened.model.config)
    return tokenize(
        documents,
        opened.tokenizer,
        max_length=settings.max_length,
        max_tokens=settings.max_tokens,
        filler=filler_of(settings),
        chat_template=settings.chat_template,
    )


def open_from(
    settings: RunSettings, progress: Progress, *, is_for_measure: bool = False
) -> LoadedModel:
    """Open the model that the settings name, on as many threads as they say.

    With ``is_for_measure`` it is for `measure` with these settings alone: layers that are not
    needed are not read, and those of a model that does not fit into memory are streamed.
    """
    if settings.stream and not is_for_measure:
        raise RequestError("--stream is for measuring alone, this command needs the whole model")
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    world, threads = current(), torch.get_num_threads()
    if world.size > 1:
        progress.stage(f"{world.size} processes of {threads} thread{'s' * (threads > 1)} each")
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
    )
    if opened.on_disk is not None and opened.on_disk.streams:
        progress.stage(f"{opened.on_disk.why}streaming, layers are read one by one")
    return opened


def _own_device(asked: str) -> str:
    """Return the device of this process: where several share a machine, a GPU each."""
    world, gpus = current(), torch.cuda.device_count()
    if world.size > 1 and asked in ("auto", "cuda") and gpus:
        return f"cuda:{world.local_rank % gpus}"
    return asked


def filler_of(settings: RunSettings) -> Filler | None:
    """Return the filler that the settings ask for, None where they ask for none."""
    if settings.filler is None:
        return None
    if not settings.filler:
        raise RequestError("--filler is empty", "give a string such as /")
    return Filler(
        settings.filler,
        settings.filler_count,
        settings.filler_position,
        settings.seed,
        settings.filler_kind,
    )


def random_input(layer: LayerSettings, seed: int, config: Any) -> Corpus:
    """Return seeded random input for built layers; of equal shapes it is equal.

    ``config`` is that of the layers, which decides the width.
    """
    is_hidden = layer.input == "hidden"
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
    stage: Measurement | None = None,
) -> Run:
    """Send a corpus through an open model and return what was seen.

    ``own_only`` leaves the tokens of a filler out of everything that is counted; ``states`` keeps
    what is finished, to go on from; ``stage`` is given where a study keeps more than a run does.

    Raises
    ------
    RequestError
        If layers or sites do not exist in this model, or a state belongs to another request.
    MeasurementError
        If a place never fires.
    """
    told = progress or Progress()
    stage = stage or Measurement.prepare(opened, settings)
    batches = make_batches(
        corpus, settings.batch_size, skip_special=settings.skip_special, own_only=own_only
    )
    world, wanted = current(), request(opened, settings, corpus, batches, own_only=own_only)
    agree(world, "request", wanted)
    done: set[int] = set()
    halfway: dict[int, BatchCheckpoint] = {}
    if states is not None:
        kept, done = states.begin(wanted, told, partial(check_kept, stage, states))
        halfway = take_up(stage, states, kept)
    if not kernels.is_compiled():
        told.stage("compiling the counting loops (once, some ten seconds)")
    told.stage("measuring")
    passes = 1 + stage.is_paired
    finished = sum(batches[n].tokens for n in done if n not in halfway)
    told.start(passes * corpus.tokens, passes * finished)
    started = time.perf_counter()
    with as_written(opened.model) as notes:
        _measure_share(stage, batches, done, halfway, states, told)
    stage.portion = gather(world, stage.portion)
    stage.portion.recorder.documents.close()
    run = assemble(stage, corpus, batches, time.perf_counter() - started)
    run.manifest["warnings"] = [*notes, *run.manifest["warnings"]]
    return run


def _measure_share(
    stage: Measurement,
    batches: Sequence[Batch],
    done: Collection[int],
    halfway: Mapping[int, BatchCheckpoint],
    states: CheckpointFolder | None,
    told: Progress,
) -> None:
    """Measure this process's share of the batches, and keep it now and then.

    ``done`` are those that no process has to begin; of these, ``halfway`` are those that this one
    has to bring to an end.
    """
    world = current()
    sizes = {n: batch.valid.size for n, batch in enumerate(batches)}
    left = {number: size for number, size in sizes.items() if number not in done}
    mine = sorted({*partition_batches(left, world.size)[world.rank], *halfway})
    keeping = None
    if states is not None:
        keeping = keeping_in(states, stage, batches, mine, halfway, told)
    total, own = sum(sizes.values()), sum(sizes[number] for number in mine)
    # Other processes are taken to be as far as this one.
    missing = sum(left.values()) + sum(sizes[number] for number in halfway)
    finished = float(total - missing)
    if states is not None:
        states.share = finished / total
    for number in _sweep(stage, batches, mine, told, keeping):
        finished += sizes[number] * missing / own
        if states is not None:
            content, numbers = stage.portion.state, sorted(stage.portion.batches)
            share, is_last = finished / total, number == mine[-1]
            states.save_if_due(content, numbers, share, told, is_last=is_last)


def _sweep(
    stage: Measurement,
    batches: Sequence[Batch],
    numbers: Sequence[int],
    told: Progress,
    keeping: Keeping | None,
) -> Iterator[int]:
    """Send some batches through the model: one after the other, or all layer by layer.

    Yields the number of each when it is finished.
    """
    spans, on_disk = batches_of_documents(batches), stage.opened.on_disk
    if on_disk is not None and on_disk.streams:
        chosen = {number: batches[number] for number in numbers}
        with closing(SpillBuffer(_waiting_bytes(stage))) as room:
            stream_batches(stage, on_disk, chosen, spans, told, room, keeping)
        yield from numbers
        return
    with capture_head_input(stage) as head:
        for number in numbers:
            measure_batch(stage, batches[number], head, told)
            stage.portion.finish(number, batches[number], spans)
            yield number


def _waiting_bytes(stage: Measurement) -> int:
    """Return how much of the hidden states may wait in memory: as asked, or a quarter of it."""
    asked = stage.settings.stream_memory
    device = entry_device(stage.opened.model)
    return free_bytes(device) // 4 if asked is None else asked * 1_000_000
