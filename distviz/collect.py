"""The measuring loop: batches of tokens go through the model twice, and a `Run` comes out."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from distviz import kernels
from distviz.arm import ARM, Plan
from distviz.config import LayerSettings, RunSettings
from distviz.corpus import (
    Batch,
    Corpus,
    Filler,
    make_batches,
    random_corpus,
    read_documents,
    tokenize,
)
from distviz.effect import Baseline, Effect, HeadInput
from distviz.errors import RequestError
from distviz.hooks import Redistribution, Tracker, observing
from distviz.mlp import count_layers, find_points
from distviz.models import OpenedModel, open_model
from distviz.progress import Progress
from distviz.recording import TOKEN_CLASSES, Recorder, Tokens
from distviz.runs import SCHEMA_VERSION, Run
from distviz.sites import Point, parse_layers, parse_sites

__all__ = ["Stage", "filler_of", "measure", "open_from", "run"]

Text = str | Path | dict[str, str]


def run(
    model: str | None = None,
    *,
    text: Sequence[Text] | None = None,
    settings: RunSettings | None = None,
    progress: Progress | None = None,
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

    Raises
    ------
    RequestError
        If something asked for cannot be done; before anything is measured.
    MeasurementError
        If the measurement fails on its way.
    """
    if settings is None:
        try:
            settings = RunSettings(model=model, **options)
        except TypeError as error:
            raise RequestError(str(error).replace("RunSettings.__init__()", "run()")) from None
    elif model is not None:
        settings = replace(settings, model=model)
    told = progress or Progress()
    started = time.perf_counter()
    sources = [Path(name) for name in settings.text] if text is None else list(text)
    if text is not None and not sources:
        raise RequestError("the text is empty, there is nothing to measure")
    documents = read_documents(sources) if settings.layer is None else []
    opened = open_from(settings, told)
    loaded = time.perf_counter() - started
    if settings.layer is not None:
        corpus = _random_corpus(settings.layer, settings.seed, opened)
    else:
        corpus = tokenize(
            documents,
            opened.tokenizer,
            max_length=settings.max_length,
            max_tokens=settings.max_tokens,
            filler=filler_of(settings),
            chat_template=settings.chat_template,
        )
    measured = measure(opened, corpus, settings, told)
    measured.manifest["seconds"] |= {"load": round(loaded, 3)}
    return measured


def open_from(settings: RunSettings, progress: Progress) -> OpenedModel:
    """Open the model that the settings name, on as many threads as they say."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    progress.stage("loading the model")
    return open_model(
        settings.model,
        dtype=settings.dtype,
        device=settings.device,
        revision=settings.revision,
        trust_remote_code=settings.trust_remote_code,
        allow_pickle=settings.allow_pickle,
        attn_implementation=settings.attn_implementation,
        device_map=settings.device_map,
        layer=settings.layer,
    )


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


def _random_corpus(layer: LayerSettings, seed: int, opened: OpenedModel) -> Corpus:
    config: Any = opened.model.config
    width = config.hidden_size if layer.input == "hidden" else None
    return random_corpus(
        layer.documents,
        layer.tokens,
        seed=seed,
        vocabulary=config.vocab_size,
        width=width,
        scale=layer.scale,
    )


@dataclass
class Stage:
    """Everything that one measurement needs, chosen and checked.

    Attributes
    ----------
    watched
        Points observed, in both passes.
    moved
        ``act`` points behind which ARM stands.
    """

    opened: OpenedModel
    settings: RunSettings
    watched: list[Point]
    moved: list[Point]
    recorder: Recorder
    tracker: Tracker = field(default_factory=Tracker)
    effect: Effect = field(default_factory=Effect)
    plans: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def prepare(cls, opened: OpenedModel, settings: RunSettings) -> Stage:
        """Check layers, sites and ARM layers against the model."""
        n_layers = max(count_layers(opened.mlps).values())
        layers = parse_layers(settings.layers, n_layers, "--layers")
        arm_layers = parse_layers(settings.arm_layers, n_layers, "--arm-layers")
        if not layers:
            raise RequestError("--layers none leaves nothing to observe")
        sites = parse_sites(settings.sites)
        if any(mlp.routed and mlp.layer in {*layers, *arm_layers} for mlp in opened.mlps):
            raise RequestError(
                f"{opened.name} has routed experts in these layers, they cannot be measured yet",
                "choose dense layers with --layers and --arm-layers",
            )
        watched = find_points(opened.mlps, opened.model, sites, layers)
        moved = find_points(opened.mlps, opened.model, ["act"], arm_layers) if arm_layers else []
        apart = None if settings.classes == "all" else frozenset(arm_layers)
        c = settings.c if moved else Recorder.c
        return cls(opened, settings, watched, moved, Recorder(c, apart))

    @property
    def is_paired(self) -> bool:
        """Whether a second pass, with ARM written into the model, is made."""
        return bool(self.moved) and self.settings.ripple


def measure(
    opened: OpenedModel,
    corpus: Corpus,
    settings: RunSettings,
    progress: Progress | None = None,
    *,
    own_only: bool = False,
) -> Run:
    """Send a corpus through an open model and return what was seen.

    ``own_only`` leaves the tokens of a filler out of everything that is counted.

    Raises
    ------
    RequestError
        If layers or sites do not exist in this model.
    MeasurementError
        If a place never fires.
    """
    told = progress or Progress()
    stage = Stage.prepare(opened, settings)
    batches = make_batches(
        corpus, settings.batch_size, skip_special=settings.skip_special, own_only=own_only
    )
    passes = 2 if stage.is_paired else 1
    if not kernels.is_compiled():
        told.stage("compiling the counting loops (once, some ten seconds)")
    told.stage("measuring")
    told.start(passes * corpus.tokens)
    started = time.perf_counter()
    with ExitStack() as stack:
        head = None
        if opened.has_head and (settings.ripple or not stage.moved):
            head = HeadInput.of(opened.model)
            if head is not None:
                stack.callback(head.close)
        for batch in batches:
            _measure_batch(stage, batch, head, told)
            stage.recorder.close_documents(batch.finished)
    stage.recorder.close_documents()
    seconds = time.perf_counter() - started
    return _assemble(stage, corpus, batches, seconds)


def _measure_batch(stage: Stage, batch: Batch, head: HeadInput | None, told: Progress) -> None:
    model, tracker = stage.opened.model, stage.tracker
    tracker.given = _tokens(batch)
    inputs = _inputs(batch, model)
    watching = observing(model, stage.watched, stage.recorder, tracker)
    beside = nullcontext() if stage.is_paired else _redistribution(stage, batch).active(model)
    with torch.inference_mode(), watching, beside:
        before = head.run(**inputs) if head else model(**inputs)
    told.advance(int(batch.valid.sum()))
    after = None
    if stage.is_paired:
        watching = observing(model, stage.watched, stage.recorder, tracker)
        with torch.inference_mode(), watching, _redistribution(stage, batch).active(model):
            after = head.run(**inputs) if head else model(**inputs)
        told.advance(int(batch.valid.sum()))
    if head is not None:
        with torch.inference_mode():
            stage.effect.compare(Baseline(head, before, batch.ids, batch.counted), after)


def _tokens(batch: Batch) -> Tokens:
    return Tokens(
        batch.valid,
        batch.counted,
        batch.documents,
        batch.index,
        batch.classes,
        batch.whole,
    )


def _inputs(batch: Batch, model: torch.nn.Module) -> dict[str, Any]:
    device = next(model.parameters()).device
    inputs: dict[str, Any] = {"attention_mask": torch.from_numpy(batch.valid).long().to(device)}
    if batch.hidden is None:
        inputs["input_ids"] = torch.from_numpy(batch.ids).to(device)
    else:
        dtype = next(model.parameters()).dtype
        inputs["inputs_embeds"] = torch.from_numpy(batch.hidden).to(device, dtype)
    if getattr(model.config, "use_cache", None) is not None:
        inputs["use_cache"] = False
    return inputs


def _redistribution(stage: Stage, batch: Batch) -> Redistribution:
    """ARM for one batch; its report goes to the recorder and to the table of plans."""
    observed = {point for point in stage.watched if point.site == "act"}
    first = {
        stack: min(point.layer for point in stage.moved if point.stack == stack)
        for stack in {point.stack for point in stage.moved}
    }

    def report(
        point: Point,
        old: torch.Tensor,
        new: torch.Tensor,
        moved: torch.Tensor,
        plans: list[list[Plan | None]],
    ) -> None:
        stage.plans.extend(_plan_rows(point, batch, plans))
        if point not in observed or stage.tracker.tokens is None:
            return
        tokens = stage.tracker.tokens
        old, new, moved = (part.reshape(-1, part.shape[-1]) for part in (old, new, moved))
        if stage.is_paired and point.layer > first[point.stack]:
            stage.recorder.add(point, "arriving", old, tokens)
        if not stage.is_paired:
            stage.recorder.add(point, "after", new, tokens)
        stage.recorder.add(point, "leaving", old, tokens, moved)
        stage.recorder.add(point, "landing", new, tokens, moved)

    writes = stage.is_paired
    arm = stage.settings.arm()
    return Redistribution(arm, stage.moved, stage.tracker, report=report, writes=writes)


def _plan_rows(point: Point, batch: Batch, plans: list[list[Plan | None]]) -> list[dict[str, Any]]:
    return [
        {
            "layer": point.layer,
            "document": int(batch.documents[row]),
            "window": int(batch.windows[row]),
            "n": plan.n,
            "eps": plan.eps,
            "near": plan.near,
            "fraction": plan.fraction,
            "k": plan.k,
            "upper": plan.upper,
            "lower": plan.lower,
            "pass": number,
            "module": point.module,
            "stack": point.stack,
        }
        for row, of_row in enumerate(plans)
        for number, plan in enumerate(of_row)
        if plan is not None
    ]


def _assemble(stage: Stage, corpus: Corpus, batches: list[Batch], seconds: float) -> Run:
    settings, opened = stage.settings, stage.opened
    plans = pd.DataFrame(stage.plans)
    if len(plans):
        order = ["stack", "layer", "document", "window", "pass"]
        plans = plans.sort_values(order, ignore_index=True, kind="stable")
    keep = settings.keep_text and bool(corpus.documents)
    result = Run(
        manifest=_manifest(stage, corpus, batches, seconds),
        sketches=stage.recorder.sketches,
        documents=stage.recorder.documents(),
        channels=stage.recorder.channels(),
        plans=plans,
        texts=[document.as_dict() for document in corpus.documents] if keep else None,
    )
    result.manifest["warnings"] = [
        *opened.details.get("warnings", []),
        *_warnings(result, corpus, settings),
    ]
    return result


def _manifest(stage: Stage, corpus: Corpus, batches: list[Batch], seconds: float) -> dict[str, Any]:
    settings, opened = stage.settings, stage.opened
    arm = None
    if stage.moved:
        arm = {
            "redistribution": settings.redistribution,
            "layers": sorted({point.layer for point in stage.moved}),
            "ripple": settings.ripple,
            **{name: getattr(settings.arm(), name) for name in ARM.__dataclass_fields__},
        }
    counted = np.concatenate([batch.classes[batch.counted] for batch in batches])
    details = {name: value for name, value in opened.details.items() if name != "warnings"}
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "run",
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "settings": settings.as_dict(),
        "model": {"name": opened.name, **details},
        "arm": arm,
        "text": {
            "sha256": corpus.sha256,
            "documents": len({window.document for window in corpus.windows}),
            "windows": len(corpus.windows),
            "tokens": corpus.tokens,
            "counted": int(counted.size),
            "truncated": corpus.truncated,
        },
        "token_classes": {
            name: int((counted == index).sum()) for index, name in enumerate(TOKEN_CLASSES)
        },
        "effect": stage.effect.result(is_paired=stage.is_paired),
        "versions": _versions(),
        "device": str(opened.details.get("device")),
        "dtype": str(opened.details.get("dtype")),
        "threads": torch.get_num_threads(),
        "seconds": {"measure": round(seconds, 3)},
        "warnings": [],
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("distviz", "torch", "transformers", "numba", "numpy", "pandas", "pyarrow"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def _warnings(result: Run, corpus: Corpus, settings: RunSettings) -> list[str]:
    """What a user must not miss."""
    found = []
    broken = {key: s for key, s in result.merged.items() if s.nan or s.inf}
    if broken:
        nan, inf = (sum(getattr(s, name) for s in broken.values()) for name in ("nan", "inf"))
        places = sorted({key.layer for key in broken})
        found.append(
            f"{nan} NaN and {inf} infinite values, first in layer {places[0]} "
            f"({len(places)} layers); they are in no statistic"
        )
    if settings.max_tokens is not None and corpus.truncated:
        found.append(f"--max-tokens {settings.max_tokens} left part of the text out")
    effect = result.manifest["effect"]
    if effect is not None and effect["loss_before"] is None:
        found.append("the next-token loss is not finite")
    return found
