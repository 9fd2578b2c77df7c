"""Record values on their device: hooks only enqueue, and the host takes the numbers afterwards.

Counts, sums of channels and extremes of all calls are added up on the device. Memory there: 512 KiB
and some 80 bytes per channel for each place, and what `DeviceDocuments` takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distviz.hooks.device_documents import DevicePart
from distviz.hooks.extremes import LARGEST, CountedRows
from distviz.sites import SiteKey
from distviz.stats import kernels

if TYPE_CHECKING:
    import torch

    from distviz.hooks.recorder import Recorder
    from distviz.hooks.tokens import Tokens
    from distviz.stats.kernels import DeviceObservation, Observation, Origin

Place = tuple[SiteKey, Any, Any]
Absorb = Callable[[SiteKey, tuple[str, ...], "Observation"], None]


@dataclass
class DeviceRecorder:
    """What was recorded on devices and is not yet part of a recorder."""

    _totals: dict[Place, tuple[tuple[str, ...], DeviceObservation]] = field(default_factory=dict)
    _origins: dict[Place, Origin] = field(default_factory=dict)
    _largest: list[tuple[SiteKey, CountedRows, list[torch.Tensor]]] = field(default_factory=list)
    _copies: kernels.HostCopies = field(default_factory=kernels.HostCopies)

    def add(
        self,
        recorder: Recorder,
        key: SiteKey,
        names: tuple[str, ...],
        values: torch.Tensor,
        tokens: Tokens,
        chosen: torch.Tensor | None,
    ) -> None:
        """Count (rows, channels); only ``chosen`` values, if given, without channels."""
        values, place = values.detach(), (key, values.dtype, values.device)
        rows = tokens.rows_on(values.device, len(names))
        is_whole = chosen is None
        seen = kernels.count_on_device(
            values,
            rows,
            self._origins.get(place),
            channels=is_whole,
            details=is_whole and recorder.channel_details,
            chosen=chosen,
        )
        if len(rows):
            self._origins.setdefault(place, seen.origin)
        own = seen.grouped(len(names), inner=False)
        known = self._totals.get(place)
        self._totals[place] = names, own if known is None else known[1] + own
        if not is_whole:
            return
        of_documents = seen if len(names) == 1 else seen.grouped(len(names), inner=True)
        parts = DevicePart.each(of_documents, values.numel())
        for document, part in zip(np.unique(tokens.documents).tolist(), parts, strict=True):
            recorder.documents.add_on_device(key, document, part, is_whole=document in tokens.whole)
        if len(rows) and values.shape[1]:
            found = kernels.largest_on_device(values, rows, LARGEST, seen.tops)
            self._largest.append((key, tokens.counted_rows, [*found]))

    def send(self, recorder: Recorder) -> None:
        """Between calls: take what has arrived, and start to copy what is finished."""
        self._copies.collect()
        recorder.documents.send(self._copies)
        found, self._largest = self._largest, []
        for key, counted, tensors in found:
            self._copies.put(tensors, partial(_take, recorder, key, counted))

    def flush(self, recorder: Recorder, absorb: Absorb) -> None:
        """Take everything, waiting for it."""
        if not (self._totals or self._largest or recorder.documents.on_device.is_used):
            return
        self.send(recorder)
        self._copies.flush()
        recorder.documents.flush()
        totals, self._totals = self._totals, {}
        parts = [seen.parts() for _, seen in totals.values()]
        arrays = iter(kernels.to_host([tensor for part in parts for tensor in part]))
        for ((key, *_), (names, seen)), part in zip(totals.items(), parts, strict=True):
            absorb(key, names, seen.hosted([next(arrays) for _ in part]))


def _take(
    recorder: Recorder, key: SiteKey, counted: CountedRows, arrays: list[NDArray[Any]]
) -> None:
    """Add the largest values of one call."""
    values, row, channel = arrays
    is_one = ~np.isnan(values)
    found = counted.at(values[is_one].astype(np.float64), row[is_one], channel[is_one])
    recorder.extremes.add(key, found)
