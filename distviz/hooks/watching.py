"""`watch`: observe any model while the user calls it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distviz.hooks.arguments import check_common, check_observation, site_names
from distviz.hooks.observation import (
    ChannelDim,
    Layers,
    choose_points,
    note_of_others,
    observe,
    phase_of,
)
from distviz.hooks.recorder import Recorder
from distviz.hooks.token_tracker import Tracker
from distviz.hooks.tokens import Tokens
from distviz.models import bare, uncompiled
from distviz.output import counted
from distviz.results import SCHEMA_VERSION, Run
from distviz.sites import HookPoint
from distviz.stats import DEFAULT_C, Sketch

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import nn


@dataclass(repr=False)
class WatchResult:
    """The observations of a `watch` so far; grows while the model is called.

    Every row of a batch is a document; a row that continues with a cache is the same document.
    """

    recorder: Recorder
    model: nn.Module
    tracker: Tracker = field(default_factory=Tracker)
    warnings: list[str] = field(default_factory=list)
    tokenizer: Any = None
    _call: int = 0
    _unfinished: set[int] = field(default_factory=set)
    _n_documents: dict[str, int] = field(default_factory=dict)
    _offset: int = 0
    _given: Tokens | None = field(default=None)
    _numbered: Tokens | None = field(default=None)

    def receive(self, point: HookPoint, values: torch.Tensor, tokens: Tokens) -> None:
        """Record one point of one forward call."""
        phase = phase_of(self.model)
        if self._call != self.tracker.calls:
            self._note_unfinished()
            self._call = self.tracker.calls
            self.recorder.send()
            if tokens.past == 0:
                self._offset = self._n_documents.get(phase, 0)
                self._n_documents[phase] = self._offset + len(tokens.documents)
                opened = self.recorder.documents.open_documents()
                self.recorder.documents.close(number for number in opened if number < self._offset)
        if self._given is not tokens:  # once for all layers
            documents = tokens.documents + self._offset
            self._given, self._numbered = tokens, replace(tokens, documents=documents)
        self.recorder.add(point, phase, values, self._numbered or tokens)

    def __repr__(self) -> str:
        """Return a line: the model, and how much was observed."""
        keys = self.recorder.sketches
        layers = len({(key.stack, key.layer) for key in keys})
        sites = ", ".join(dict.fromkeys(key.site for key in keys))
        documents = counted(max(self._n_documents.values(), default=0), "document")
        seen = [f"{sites} of {counted(layers, 'layer')}", documents, "run() returns the result"]
        parts = [type(self.model).__name__, *(seen if keys else ["nothing observed yet"])]
        return f"{type(self).__name__}: {' · '.join(parts)}"

    def run(self) -> Run:
        """Return all observations so far as a `Run`; warn of calls that did not finish."""
        return self._run()

    def _run(self) -> Run:
        documents = max(self._n_documents.values(), default=0)
        text = {"documents": documents, "tokens": None}
        model = description(self.model)
        self._note_unfinished()
        notes = _noted(_note_of_unfinished(len(self._unfinished)))
        return run_of(self.recorder, model, text, [*self.warnings, *notes], self.tokenizer)

    def _note_unfinished(self) -> None:
        """Note the latest call that was counted, if it did not finish."""
        if self._call in self.tracker.unfinished:
            self._unfinished.add(self._call)

    def stats(self) -> pd.DataFrame:
        """Return one row per layer, site and phase: the columns of ``stats.csv``."""
        return self._run().stats()

    def save(self, folder: str | Path, *, force: bool = False) -> Path:
        """Write a run folder, see `Run.save`."""
        return self._run().save(folder, force=force)


def description(model: nn.Module) -> dict[str, Any]:
    """Return the entry ``model`` of ``run.json`` for a model of the user."""
    name = type(model).__name__
    return {"name": name, "architecture": name}


def run_of(
    recorder: Recorder,
    model: dict[str, Any],
    text: dict[str, Any],
    warnings: Iterable[str],
    tokenizer: Any = None,
) -> Run:
    """Return what was recorded of a model that the user calls.

    Parameters
    ----------
    recorder
        May record more afterwards.
    model, text, warnings
        Entries of the manifest: names of the model, numbers of documents and tokens.
    tokenizer
        Decodes the tokens of ``extremes.csv``.
    """
    recorder.flush()
    run = Run(
        manifest={
            "schema_version": SCHEMA_VERSION,
            "kind": "run",
            "settings": {},
            "near_zero_c": recorder.c,
            "model": model,
            "arm": None,
            "text": text,
            "effect": None,
            "warnings": list(warnings),
        },
        sketches={
            key: {name: sketch + Sketch() for name, sketch in by_class.items()}
            for key, by_class in recorder.sketches.items()
        },
        documents=recorder.documents.frame(),
        channels=recorder.channels(),
    )
    return recorder.with_tables(run, tokenizer)


@contextmanager
def watch(
    model: nn.Module,
    layers: Layers = "all",
    sites: str | Sequence[str] = "act",
    *,
    c: float = DEFAULT_C,
    tokenizer: Any = None,
    channels: bool = False,
    channel_dim: ChannelDim | None = None,
) -> Iterator[WatchResult]:
    """Observe a model while the context lasts.

    In a model without transformer layers, ``act`` and ``gate`` are those of every activation,
    module or function; layers are these activations in the order in which they run. Channels are
    the last dimension, or another that the call shows (1 after a convolution).

    Padding is excluded by the attention mask; without text, a row of the first tensor is a
    document. What a backward pass computes again is not counted. Values while `redistribute` is
    active are of phase ``after``. What an unfinished call computed counts, with a warning.

    Parameters
    ----------
    model
        Any module of torch. Its modules are named as without the wrappers of PEFT, torch.compile
        and data parallelism. Compiled code runs uncompiled meanwhile, with a warning.
    layers
        0-based indices, or text such as ``"all"`` and ``"0,3-5"``; or a mapping from the name of a
        stack to them (``{"vision_tower": "all"}``): a model that reads text is observed only in
        its language stacks unless others are named.
    sites
        Names of `distviz.sites.SITES`, ``module:PATTERN`` or ``input:PATTERN``.
    c
        Width of the near-zero band of the statistics.
    tokenizer
        Decodes the tokens of the extremes.
    channels
        Whether to record the kurtosis of each channel, and in how many tokens it is the largest.
    channel_dim
        The dimension of the channels, if the call does not show it: of all that is observed, or
        by pattern on the paths of modules (``{"stem.*": 1}``).

    Raises
    ------
    RequestError
        If an argument is of another kind, or a layer or site does not exist in the model.
    MeasurementError
        In a call, if the channels or documents of a tensor are not known. On leaving, if a chosen
        point never fired in calls that finished.
    """
    check_common(model, layers, channel_dim)
    check_observation(c, tokenizer)
    inner = bare(model)
    points = choose_points(inner, site_names(sites), layers, channel_dim)
    result = WatchResult(Recorder(c, channel_details=channels), inner, tokenizer=tokenizer)
    with (
        uncompiled(model) as result.warnings,
        observe(inner, points, result.receive, result.tracker),
    ):
        result.warnings.extend(_noted(note_of_others(inner, points)))
        yield result


def _note_of_unfinished(n_calls: int) -> list[str]:
    if not n_calls:
        return []
    calls = f"{counted(n_calls, 'unfinished call')} of the model (error or interruption)"
    return [f"values of {calls} are counted only in the layers before the end"]


def _noted(notes: list[str]) -> list[str]:
    for note in notes:
        warnings.warn(f"distviz: {note}", UserWarning, stacklevel=4)
    return notes
