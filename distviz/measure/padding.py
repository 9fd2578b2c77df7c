"""Check with a few tokens that padding behind a text does not change its values.

Batches are padded on the right. A model that mixes tokens although the mask excludes them (FNet,
YOSO), or whose layers return (tokens, batch, channels), would silently be measured wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace

import numpy as np
import torch

from distviz.data import Batch
from distviz.errors import MeasurementError, RequestError
from distviz.hooks import Tokens, Tracker, observe
from distviz.measure.forward import inputs_of, naming_failures, tokens_of
from distviz.models import LoadedModel, layer_of
from distviz.models.architectures import find_points
from distviz.sites import HookPoint

_TOKENS, _PADDING = 16, 8
_LIMITS = {torch.float32: 3e-3, torch.float64: 3e-3}
_LIMIT = 1e-2
"""The change of a token, relative to it, as Euclidean norms; for types with less precision."""


class _Stop(Exception):  # noqa: N818
    """Ends a forward call behind the first layer."""


def check_padding(opened: LoadedModel, batches: Sequence[Batch]) -> None:
    """Compare the first layer's output for a text alone with that for the text before padding.

    Nothing runs if no batch is padded, or the model is causal.

    Raises
    ------
    MeasurementError
        If they differ by more than rounding.
    """
    padded = next((batch for batch in batches if not batch.valid.all()), None)
    point = None if padded is None else _first_point(opened)
    if padded is None or point is None or point.stack == "decoder":
        return  # in a causal model nothing depends on what follows
    is_changed = False
    with suppress(MeasurementError):  # its rows are not tokens, which the measurement handles
        alone, beside = (_values(opened, point, batch) for batch in _probes(padded))
        is_exact = opened.details.get("quantization") is None
        limit = _LIMITS.get(alone.dtype, _LIMIT) if is_exact else _LIMIT
        change = (alone.double() - beside.double()).norm(dim=1) / alone.double().norm(dim=1)
        is_changed = bool((change > limit).any())  # False if no value is finite
    if is_changed:
        raise MeasurementError(
            f"{type(opened.model).__name__} gives a text other values when padding stands behind "
            "it, so texts of different lengths cannot share a batch",
            "give --batch-size 1",
        )


def _first_point(opened: LoadedModel) -> HookPoint | None:
    """Return the output of the first layer; what leaves its activation where that is unknown.

    None for routed experts: rounding may send a token to another expert.
    """
    acts = find_points(opened.mlps, opened.model, ["act"], [0])
    if any(point.experts is not None for point in acts):
        return None
    found = acts
    with suppress(RequestError):
        found = find_points(opened.mlps, opened.model, ["residual"], [0])
    return min(found, key=lambda point: point.stack != "encoder", default=None)


def _probes(padded: Batch) -> tuple[Batch, Batch]:
    """Return the start of the shortest row alone, and padded beside that of the longest."""
    lengths = padded.valid.sum(axis=1)
    short, long = int(lengths.argmin()), int(lengths.argmax())
    size = min(int(lengths[short]), _TOKENS)
    beside = _cut(padded, [short, long], min(size + _PADDING, int(lengths[long])))
    beside.valid[0, size:] = False
    return _cut(padded, [short], size), beside


def _cut(batch: Batch, rows: list[int], width: int) -> Batch:
    def cut(values: np.ndarray) -> np.ndarray:
        return values[rows, :width]

    return replace(
        batch,
        ids=cut(batch.ids),
        hidden=None if batch.hidden is None else cut(batch.hidden),
        valid=cut(batch.valid),
        counted=cut(batch.counted),
        classes=cut(batch.classes),
        roles=cut(batch.roles),
        index=cut(batch.index),
        documents=batch.documents[rows],
        windows=batch.windows[rows],
    )


def _values(opened: LoadedModel, point: HookPoint, batch: Batch) -> torch.Tensor:
    """Return what passes a point for the first row, (tokens, channels)."""
    found: list[torch.Tensor] = []

    def receive(_point: HookPoint, rows: torch.Tensor, tokens: Tokens) -> None:
        found.append(rows[: tokens.valid.shape[1]][tokens.valid[0]].cpu())
        raise _Stop

    with ExitStack() as stack:
        if (on_disk := opened.on_disk) is not None and on_disk.streams:
            layer = layer_of(point.within or point.module, on_disk.layers)
            if layer is None:
                raise MeasurementError(f"{point.module} is in no layer on disk")
            on_disk.load(layer)
            stack.callback(on_disk.drop, layer)
        stack.enter_context(torch.inference_mode())
        stack.enter_context(suppress(_Stop))
        tracker = Tracker(given=tokens_of(batch))
        with observe(opened.model, [point], receive, tracker), naming_failures(opened.model):
            model: torch.nn.Module = opened.model.base_model  # type: ignore[assignment]
            model(**inputs_of(batch, opened.model))
    return found[0]
