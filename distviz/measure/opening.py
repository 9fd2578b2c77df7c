"""Open a model for a measurement, and tokenize its text; check both before weights are read."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from distviz import models
from distviz.data import (
    Corpus,
    Document,
    Filler,
    Reading,
    check_ids,
    check_lengths,
    list_sources,
    random_corpus,
    read_documents,
    tokenize,
    without_special,
)
from distviz.errors import RequestError
from distviz.measure.forward import choose_points, needed_points
from distviz.measure.world import current
from distviz.models import (
    HIDDEN_VOCABULARY,
    LoadedModel,
    check_input,
    embedding_rows,
    open_inspected,
    open_model,
    position_rows,
)
from distviz.models.architectures import find_mlps
from distviz.output import counted
from distviz.progress import Progress
from distviz.settings import LayerSettings, RunSettings
from distviz.sites import HookPoint
from distviz.stats import kernels

Text = str | Path | dict[str, str]


@dataclass(frozen=True)
class EmptyModel:
    """A model as `open_model` would return it, but on the meta device.

    ``info`` is what is known of the checkpoint; None where layers are built.
    """

    opened: models.LoadedModel
    info: models.CheckpointInfo | None

    @property
    def plan(self) -> models.LoadPlan | None:
        """Which layers stay on disk; None where the whole model is loaded."""
        return None if self.info is None else self.info.disk

    @property
    def streams(self) -> bool:
        """Whether layers are read one by one."""
        return self.plan is not None and self.plan.streams

    @property
    def unread(self) -> set[str]:
        """Layers that are not needed."""
        if self.plan is None or not self.plan.wanted:
            return set()
        return {*self.plan.layers} - {*models.layers_up_to(self.plan.layers, self.plan.wanted)}

    def layer_share(self) -> float:
        """Return the share of the layers that a forward pass goes through."""
        return 1 - len(self.unread) / len(self.plan.layers) if self.plan is not None else 1.0

    def files(self) -> dict[str, int]:
        """Return the bytes that are read of each file."""
        if self.info is None:
            return {}
        checkpoint, unread = self.info.checkpoint, self.unread
        if not unread:
            return {path.name: path.stat().st_size for path in checkpoint.files}
        found: Counter[str] = Counter()
        for name, tensor in checkpoint.tensors.items():
            if not any(f".{path}." in f".{name}" for path in unread):
                found[tensor.file.name] += tensor.bytes
        return dict(found)

    def weight_bytes(self) -> int:
        """Return the memory of all weights that are loaded at once."""
        model, plan = self.opened.model, self.plan
        if plan is None:
            return models.bytes_in_memory(model, (), ())
        if not plan.streams:
            return models.bytes_in_memory(model, plan.layers, plan.wanted)
        layers = [model.get_submodule(path).parameters() for path in plan.layers]
        sizes = [sum(value.nbytes for value in layer) for layer in layers]
        rest = models.bytes_in_memory(model, plan.layers, ()) - sum(sizes)
        return rest + 2 * max(sizes, default=0)


def open_empty(settings: RunSettings, *, is_for_measure: bool = True) -> EmptyModel:
    """Make every check of opening a model that needs no weights; raises RequestError."""
    if current().size > 1 and settings.device_map is not None:
        raise RequestError(
            "--device-map spreads the model of one process over all devices, "
            f"{counted(current().size, 'process')} would compete for the same devices",
            "start it without torchrun or accelerate",
        )
    remote_code = settings.trust_remote_code
    options = models.LoadOptions(
        models.parse_dtype(settings.dtype),
        models.parse_device(_own_device(settings.device)),
        models.parse_device_map(settings.device_map),
        settings.attn_implementation,
        remote_code,
    )
    dtype, info = options.dtype, None
    if settings.layer is not None:
        model, details = models.describe(None, trust_remote_code=remote_code, layer=settings.layer)
        name = str(details["source"]).removeprefix("built: ")
        opened = models.LoadedModel(model, None, name, details, find_mlps(model), has_head=False)
    else:
        checkpoint = models.locate(
            settings.model, revision=settings.revision, allow_pickle=settings.allow_pickle
        )
        info = models.inspect_checkpoint(
            checkpoint,
            options,
            choose=partial(needed_points, settings) if is_for_measure else None,
            stream=settings.stream if is_for_measure else False,
        )
        model, mlps = info.empty, info.mlps
        details = models.model_details(model, info.config, mlps, checkpoint, info.notes)
        opened = models.LoadedModel(
            model, info.tokenizer, checkpoint.name, details, mlps, has_head=info.has_head
        )
    if dtype is None and (info is None or info.checkpoint.gguf is not None):
        dtype = torch.float32
    if dtype is not None:
        opened.model = copy.deepcopy(model).to(dtype)  # weights are read into the other one
        details["dtype"] = str(dtype).removeprefix("torch.")
    details["device"] = str(options.device)
    return EmptyModel(opened, info)


@dataclass(frozen=True)
class Checked:
    """A model and its text, after every check that needs no weights.

    Attributes
    ----------
    empty, corpus
        The model without weights, and the text in its tokens.
    watched, moved
        The points that are observed, and those where ARM is applied.
    """

    empty: EmptyModel
    corpus: Corpus
    watched: list[HookPoint]
    moved: list[HookPoint]

    def open(self, settings: RunSettings, progress: Progress) -> LoadedModel:
        """Open the model with its weights, to measure it as the settings ask."""
        return open_from(settings, progress, is_for_measure=True, info=self.empty.info)


def check(
    settings: RunSettings,
    text: Sequence[Text] | None = None,
    documents: Sequence[Document] | None = None,
) -> Checked:
    """Check whatever `run` checks before it reads weights; ``text`` as of `run`.

    ``documents`` are those of the text, where it was read already.

    Raises
    ------
    RequestError
        If the model cannot be opened as asked, has no such layers or sites, or cannot read the
        text.
    """
    empty = open_empty(settings)
    opened = empty.opened
    found = documents_of(settings, text) if documents is None else documents
    corpus = corpus_of(found, opened, settings)
    return Checked(empty, corpus, *choose_points(settings, opened.model, opened.mlps))


def documents_of(settings: RunSettings, text: Sequence[Text] | None = None) -> list[Document]:
    """Return the documents of the settings, or of ``text``; none for built layers."""
    if settings.layer is not None:
        return []
    given = settings.texts or None if text is None else text
    sources = list(map(Path, settings.text)) if given is None else list_sources(given)
    reading = Reading(
        settings.text_field,
        settings.text_lines,
        settings.dataset,
        settings.max_documents,
        settings.seed if settings.shuffle else None,
    )
    return read_documents(sources, reading)


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


def open_from(
    settings: RunSettings,
    progress: Progress,
    prepare: Callable[[LoadedModel], object] | None = None,
    *,
    is_for_measure: bool = False,
    info: models.CheckpointInfo | None = None,
) -> LoadedModel:
    """Open the model of the settings, with their number of threads.

    ``is_for_measure``: only what `measure` needs is read, layer by layer if it does not fit.
    ``info`` is what is known of the checkpoint, which is then not inspected again.
    """
    if settings.stream and not is_for_measure:
        raise RequestError("--stream cannot be used here: this command needs the whole model")
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    world, threads = current(), torch.get_num_threads()
    if world.size > 1:
        progress.stage(f"{counted(world.size, 'process')} of {counted(threads, 'thread')} each")
    progress.stage("loading the model")
    if is_for_measure and (settings.device == "cpu" or not torch.cuda.is_available()):
        kernels.compile_ahead(plans=settings.arm_layers != "none")
    choose = partial(needed_points, settings) if is_for_measure else None
    stream = settings.stream if is_for_measure else False
    if info is not None:
        opened = open_inspected(info, choose=choose, stream=stream)
    else:
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
            choose=choose,
            stream=stream,
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
