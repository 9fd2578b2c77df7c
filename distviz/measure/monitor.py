"""`Monitor`: snapshots of the distributions while a model is trained.

Between snapshots nothing is attached to the model, so that other steps cost nothing. A snapshot is
an ordinary run of all forward passes, and backward passes, of one optimizer step.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from distviz.errors import RequestError, first_line
from distviz.hooks import (
    ChannelDim,
    Layers,
    Recorder,
    StepRecorder,
    check_common,
    choose_points,
    description,
    run_of,
    site_names,
)
from distviz.measure.manifest import versions
from distviz.measure.ranks import Ranks
from distviz.measure.snapshots import Sink, Snapshots
from distviz.measure.step_result import StepResult, gather
from distviz.measure.weights import check_weights, weight_sketches
from distviz.models import bare, eager, model_details
from distviz.models.architectures import find_mlps
from distviz.output import print_error, visible
from distviz.results import Run, check_output, nonfinite_line
from distviz.sites import HookPoint
from distviz.stats import DEFAULT_C, check_width, is_a

if TYPE_CHECKING:
    from torch import nn


class Monitor:
    """Takes snapshots of a model's distributions while it is trained.

    Use it as a context, and call `step` after each optimizer step. Every ``every``-th step, counted
    from 0, is observed: all its forward passes in training mode with gradients enabled. A pass in
    evaluation mode is not counted, nor what gradient checkpointing computes again. Each row of a
    batch is a document. Padding is excluded by the attention mask.

    A snapshot never ends a training: what cannot be observed or written is printed, kept in
    ``training.json``, and named at the end.

    Parameters
    ----------
    model
        The model that is trained, prepared for it: inside DDP, FSDP, PEFT or torch.compile.
        In observed steps compiled code runs uncompiled.
    every
        Number of optimizer steps from a snapshot to the next.
    out
        Folder of the training, see `distviz.Training`; None for ``sinks`` alone.
    sites, layers, channel_dim
        What to observe, as in `distviz.watch`.
    gradients
        Whether to observe the gradient of the loss at the same places, as site ``gradient:act``:
        that of the loss of which ``backward`` was called, in each process.
    weights
        Whether to observe the parameters of the chosen layers, as site ``weight:mlp.up_proj``, as
        the passes of the step use them.
    sinks
        What else gets each snapshot.
    start
        Number of optimizer steps that were done before; of a new training 0.
    resume
        Continue the training in ``out``, if there is one; needs ``start``. Snapshots of steps that
        are done again are replaced.
    force
        Replace what is in ``out``.
    c
        Width of the near-zero band of the statistics.
    tokenizer
        Decodes the tokens of ``extremes.csv``.
    scaler
        The ``GradScaler`` of mixed precision; gradients are divided by its scale.

    Raises
    ------
    RequestError
        If a layer or site does not exist in the model, ``out`` may not be written, or the model
        cannot be observed as asked.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        every: int = 100,
        out: str | Path | None = None,
        sites: str | Sequence[str] = "act",
        layers: Layers = "all",
        gradients: bool = False,
        weights: bool = False,
        sinks: Sequence[Sink] = (),
        start: int | None = None,
        resume: bool = False,
        force: bool = False,
        c: float = DEFAULT_C,
        tokenizer: Any = None,
        scaler: Any = None,
        channel_dim: ChannelDim | None = None,
    ) -> None:
        check_common(model, layers, channel_dim)
        check_width(c)
        _check(every, out, sinks, start, resume)
        self.model, names = bare(model), site_names(sites)
        self._points = choose_points(self.model, names, layers, channel_dim)
        _check_model(model, self._points, gradients=gradients)
        if weights:
            check_weights(self.model)
        self.every, self.number = every, start or 0
        self._out = None if out is None else Path(out)
        self._settings: dict[str, Any] = {
            "every": every,
            "sites": ",".join(names),
            "layers": str(layers),
            "gradients": gradients,
            "weights": weights,
            "c": c,
        } | ({} if channel_dim is None else {"channel_dim": str(channel_dim)})
        self._facts: dict[str, Any] = {}
        self._sinks, self._resume, self._force = list(sinks), resume, force
        self._tokenizer, self._scaler = tokenizer, scaler
        self._ranks = Ranks()
        self._snapshots: Snapshots | None = None
        self._observed: StepRecorder | None = None
        self._stack = ExitStack()
        self._is_open = self._is_nonfinite = False
        if self._out is not None and not resume and not Ranks.are_several():
            check_output(self._out, force=force)

    def __enter__(self) -> Self:
        self._ranks = Ranks.join()
        problem = None
        if self._ranks.is_first:
            try:
                self._snapshots = Snapshots(
                    self._out, self._settings, self._sinks, resume=self._resume, force=self._force
                )
            except RequestError as error:
                problem = [error.message, error.hint]
        if problem := self._ranks.share(problem):
            raise RequestError(*problem)
        self._is_open = True
        self._facts = _facts_of(self.model) if self._ranks.is_first else {}
        self.begin_step()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._is_open = False
        observed, self._observed = self._observed, None
        with suppress(Exception):  # what never fired does not matter any more
            self._stack.close()
        if self._snapshots is not None:
            if observed is not None and observed.passes and kind is None:
                self._snapshots.miss(self.number, "step() was not called after its passes")
            self._snapshots.close()
        self._ranks.leave()

    def step(self) -> None:
        """End an optimizer step, whose snapshot is written if it is due, and begin the next.

        Raises
        ------
        RequestError
            Outside the context.
        """
        self.end_step()
        self.begin_step()

    def begin_step(self) -> None:
        """Attach the hooks if the step is due and they are not attached.

        `step` does this; where much runs between two steps, such as an evaluation of a compiled
        model, call `end_step` before it and this after it.
        """
        if self.number % self.every or self._observed is not None:
            return
        scale = None
        if self._settings["gradients"]:
            scale = cache(lambda: 1.0 if self._scaler is None else float(self._scaler.get_scale()))
        self._observed = observed = StepRecorder(
            self.model,
            self._points,
            Recorder(self._settings["c"]),
            *(self._ranks.rank, self._ranks.size),
            scale=scale,
            is_scaled=self._scaler is not None,
            report=self._report,
        )
        try:
            if self._settings["weights"]:
                found = weight_sketches(self.model, self._points, self._ranks.rank)
                observed.add_sketches(found)
            self._stack.enter_context(eager())
            self._stack.enter_context(observed.attached())
        except Exception as error:  # noqa: BLE001  (observing must not end a training)
            observed.fail(error)

    def end_step(self) -> None:
        """End an optimizer step; its snapshot is written if it is due.

        Raises
        ------
        RequestError
            Outside the context.
        """
        if not self._is_open:
            raise RequestError(
                "the step ends outside the context of the Monitor", "use it in `with monitor:`"
            )
        observed, self._observed = self._observed, None
        if observed is not None:
            self._finish(observed)
        self.number += 1

    def _finish(self, observed: StepRecorder) -> None:
        """Remove the hooks, and write what all processes have observed."""
        try:
            self._stack.close()
            observed.finish()
        except Exception as error:  # noqa: BLE001  (observing must not end a training)
            observed.fail(error)
        found = gather(self._ranks, StepResult.of(observed))
        if found is None or self._snapshots is None:
            return
        if found.nonfinite is not None:
            self._snapshots.found_nonfinite(self._described(found.nonfinite))
        for note in found.notes:
            self._snapshots.note(note)
        if found.reason:
            self._snapshots.miss(self.number, found.reason)
            return
        try:
            run = self._run(found)
        except Exception as error:  # noqa: BLE001  (observing must not end a training)
            self._snapshots.miss(self.number, first_line(error))
            return
        self._snapshots.write(self.number, run, tokens=found.tokens, passes=found.passes)

    def _run(self, found: StepResult) -> Run:
        text = {"documents": found.documents, "tokens": found.tokens}
        run = run_of(found.recorder, description(self.model), text, found.notes, self._tokenizer)
        run.manifest.update(
            training={"step": self.number, "passes": found.passes},
            created=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            processes=self._ranks.size,
            **self._facts,
        )
        return run

    def _report(self, place: dict[str, Any]) -> None:
        """Print the first value that is not finite, at once."""
        if self._is_nonfinite:
            return
        self._is_nonfinite = True
        whose = f"rank {self._ranks.rank}: " if self._ranks.size > 1 else ""
        print_error(f"{whose}{nonfinite_line(self._described(place))}")

    def _described(self, place: dict[str, Any]) -> dict[str, Any]:
        """Return a place with its step and the text of its token."""
        token = place.get("token_id")
        if token is not None and self._tokenizer is not None:
            place = place | {"token": visible(self._tokenizer.decode([token]))}
        return {"step": self.number} | place


def _check(
    every: int, out: str | Path | None, sinks: Sequence[Sink], start: int | None, resume: bool
) -> None:
    for name, value, least in (("every", every, 1), ("start", start or 0, 0)):
        if not is_a(value, int) or value < least:
            raise RequestError(f"{name}={value!r} must be a whole number of at least {least}")
    if out is None and not sinks:
        raise RequestError("the Monitor has no place to write to", "give out= or sinks=")
    if out is None and resume:
        raise RequestError("resume=True continues the training in a folder", "give out=")
    if resume and start is None:
        raise RequestError(
            "resume=True needs start=, the number of optimizer steps that were done before",
            "it is in the checkpoint that the training continues from",
        )


def _facts_of(model: nn.Module) -> dict[str, Any]:
    """Return what the manifest says of the model, which is known at the start."""
    from transformers import PretrainedConfig

    name, config = type(model).__name__, getattr(model, "config", None)
    entry: dict[str, Any] = {"name": name, "architecture": name}
    if isinstance(config, PretrainedConfig):
        details = model_details(model, config, find_mlps(model), None, [])
        entry = {"name": config.name_or_path or name} | details
        del entry["warnings"]
    first = next(model.parameters(), None)
    if first is None:
        return {"model": entry}
    dtype = str(first.dtype).removeprefix("torch.")
    return {"model": entry, "device": str(first.device), "dtype": dtype, "versions": versions()}


def _check_model(model: nn.Module, points: Sequence[HookPoint], *, gradients: bool) -> None:
    from torch.nn import DataParallel

    if isinstance(model, DataParallel) and len(model.device_ids) > 1:
        raise RequestError(
            "DataParallel runs copies of the model in threads, which cannot be observed",
            "train with DistributedDataParallel",
        )
    if getattr(model, "tp_size", None) not in (None, 1):
        raise RequestError(
            "the layers of the model are divided among processes (tensor parallel), so that each "
            "has a part of the channels",
            "train with DistributedDataParallel or fully_shard",
        )
    routed = [point for point in points if point.experts is not None]
    if gradients and routed:
        raise RequestError(
            f"gradients=True: the rows of {routed[0].module} are tokens routed to experts, whose "
            "gradients cannot be matched to tokens",
            "choose sites outside the experts (such as down), or gradients=False",
        )
