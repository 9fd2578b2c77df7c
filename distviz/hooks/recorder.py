"""Record observed values: sketches by key and token class, documents, channels and experts.

Memory does not grow with the amount of text: one sketch per key, and one table per unfinished
document.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distviz.hooks.device_recorder import DeviceRecorder
from distviz.hooks.document_recorder import Documents, merged
from distviz.hooks.expert_recorder import ExpertTable
from distviz.hooks.extremes import Extremes
from distviz.hooks.format_losses import FormatLosses
from distviz.hooks.paired_changes import PairedChanges
from distviz.hooks.token_groups import GroupCounter
from distviz.hooks.token_writer import TokenWriter
from distviz.hooks.tokens import TOKEN_CLASSES, Tokens
from distviz.results import Run
from distviz.sites import HookPoint, SiteKey, key_order
from distviz.stats import (
    DEFAULT_C,
    ChannelTotals,
    Moments,
    Sketch,
    kernels,
    pack_sketches,
    unpack_sketches,
)
from distviz.stats.kernels import ChannelSums, Observation

if TYPE_CHECKING:
    import torch

_PARTIAL_PHASES = ("moved_before", "moved_after")


@dataclass
class Recorder:
    """Accumulates observations; two recorders of the same kind can be added.

    Parameters
    ----------
    c
        Width of the near-zero band of the document rows.
    class_layers
        Layers with a sketch per token class; None means all.
    channel_details
        Whether channels have their kurtosis, and how often each is the largest of a token.
    channel_dims
        Dimension of the tensor that holds the channels, where it is not the last.
    """

    c: float = DEFAULT_C
    class_layers: frozenset[int] | None = frozenset()
    channel_details: bool = False
    sketches: dict[SiteKey, dict[str, Sketch]] = field(default_factory=dict)
    documents: Documents = field(init=False)
    experts: dict[SiteKey, ExpertTable] = field(default_factory=dict)
    changes: PairedChanges = field(default_factory=PairedChanges)
    extremes: Extremes = field(default_factory=Extremes)
    formats: FormatLosses = field(default_factory=FormatLosses)
    tokens: TokenWriter | None = None
    groups: GroupCounter = field(default_factory=GroupCounter)
    on_device: DeviceRecorder = field(default_factory=DeviceRecorder, repr=False)
    channel_dims: dict[SiteKey, int] = field(default_factory=dict)
    _channels: dict[SiteKey, ChannelTotals] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.documents = Documents(self.c)

    def add(
        self,
        point: HookPoint,
        phase: str,
        values: torch.Tensor,
        tokens: Tokens,
        moved: torch.Tensor | None = None,
    ) -> None:
        """Count (rows, channels) of one point; with ``moved``, only the values that it marks."""
        key = SiteKey(point.layer, point.stack, point.site, phase, point.module)
        if moved is None:
            is_routed = tokens.routed is not None  # the other pass may route other tokens
            self.changes.see(key, values, None if is_routed else tokens.counted.ravel())
        names = self._class_names(point.layer)
        with_channels = phase not in _PARTIAL_PHASES
        if kernels.counts_on_device(values):
            self.on_device.add(
                self, key, names, values, tokens, None if moved is None else moved.bool()
            )
        else:
            self._count(key, names, values, tokens, moved)
        if len(names) > 1 and moved is None:
            self.groups.add(key, values, tokens)
        if with_channels and point.channel_dim not in (None, -1):
            self.channel_dims[key] = point.channel_dim
        if with_channels:
            self.formats.see(key, values, tokens)
            if self.tokens is not None:
                self.tokens.add(key, values, tokens)
            if tokens.routed is not None:
                if key not in self.experts:
                    self.experts[key] = ExpertTable.empty(tokens.routed.n_experts)
                owners = np.where(tokens.rows_that_count(), tokens.routed.experts, -1)
                self.experts[key].add(values, owners)

    def _count(
        self,
        key: SiteKey,
        names: tuple[str, ...],
        values: torch.Tensor,
        tokens: Tokens,
        moved: torch.Tensor | None,
    ) -> None:
        """Count values here."""
        documents, slots = tokens.slots(len(names))
        if moved is not None:
            values, slots = _only_moved(values, moved, slots)
        with_channels = moved is None
        details = with_channels and self.channel_details
        n_slots = len(documents) * len(names)
        found = kernels.observe(values, slots, n_slots, channels=with_channels, details=details)
        self._absorb(key, names, found)
        if found.channels is not None:
            self.extremes.see(key, values, found.channels, tokens)
            self._add_documents(key, found, documents, tokens.whole)

    def _absorb(self, key: SiteKey, names: tuple[str, ...], found: Observation) -> None:
        self._add_classes(key, names, found)
        if found.channels is not None:
            self._add_channels(key, found.channels)

    def send(self) -> None:
        """Between calls: start to copy from devices to the host what is finished there."""
        self.on_device.send(self)

    def flush(self) -> None:
        """Take everything that was recorded on devices; waits for it."""
        self.on_device.flush(self, self._absorb)
        self.groups.flush()
        self.changes.flush()
        self.formats.flush()

    def add_change(
        self, point: HookPoint, old: torch.Tensor, new: torch.Tensor, tokens: Tokens
    ) -> None:
        """Add the movement of values that one pass has both before and after ARM."""
        key = SiteKey(point.layer, point.stack, point.site, "after", point.module)
        self.changes.see_both(key, old, new, tokens.rows_that_count())

    def _class_names(self, layer: int) -> tuple[str, ...]:
        by_class = self.class_layers is None or layer in self.class_layers
        return TOKEN_CLASSES if by_class else ("all",)

    def _add_classes(self, key: SiteKey, names: Sequence[str], found: Observation) -> None:
        by_class = self.sketches.setdefault(key, {name: Sketch() for name in names})
        for index, name in enumerate(names):
            by_class[name].absorb(found, range(index, len(found.tables), len(names)))

    def _add_channels(self, key: SiteKey, sums: ChannelSums) -> None:
        if key not in self._channels:
            width = sums.count.size
            self._channels[key] = ChannelTotals.empty(width, details=self.channel_details)
        self._channels[key].add(sums)

    def _add_documents(
        self, key: SiteKey, found: Observation, documents: NDArray[np.int64], whole: frozenset[int]
    ) -> None:
        n_classes = len(found.tables) // len(documents)
        kind = (found.grid, found.is_rounded)
        for index, name in enumerate(documents.tolist()):
            part = slice(index * n_classes, (index + 1) * n_classes)
            table = found.tables[part.start]  # with one class, no copy
            if n_classes > 1:
                table = found.tables[part].sum(axis=0, dtype=np.int64)
            moments = sum(found.moments[part], Moments())
            self.documents.add(key, name, table, moments, kind, is_whole=name in whole)

    def __add__(self, other: Self) -> Self:
        """Return the observations of both; neither side may be used afterwards."""
        self.flush()
        other.flush()
        total = replace(self, sketches=merged(self.sketches, other.sketches, merged))
        total.documents = self.documents + other.documents
        total.changes = self.changes + other.changes
        total.extremes = self.extremes + other.extremes
        total.formats = self.formats + other.formats
        total.groups = self.groups + other.groups
        if self.tokens is not None and other.tokens is not None:
            total.tokens = self.tokens + other.tokens
        total.experts = merged(self.experts, other.experts)
        total.channel_dims = self.channel_dims | other.channel_dims
        total._channels = merged(self._channels, other._channels)
        return total

    def state(self) -> dict[str, Any]:
        """Return everything as a tree for `distviz.stats.encode`."""
        self.flush()
        names = [[list(key), list(by_class)] for key, by_class in self.sketches.items()]
        sketches = [sketch for by_class in self.sketches.values() for sketch in by_class.values()]
        return {
            "c": self.c,
            "class_layers": None if self.class_layers is None else sorted(self.class_layers),
            "channel_details": self.channel_details,
            "names": names,
            "sketches": pack_sketches(sketches),
            "channel_dims": [[list(key), dim] for key, dim in self.channel_dims.items()],
            "channels": [[list(key), totals.state()] for key, totals in self._channels.items()],
            "experts": [[list(key), table.state()] for key, table in self.experts.items()],
            "documents": self.documents.state(),
            "changes": self.changes.state(),
            "extremes": self.extremes.state(),
            "formats": self.formats.state(),
            "groups": self.groups.state(),
            "tokens": None if self.tokens is None else self.tokens.state(),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Return the recorder of a `state`."""
        layers = state["class_layers"]
        classes = None if layers is None else frozenset(layers)
        found = cls(state["c"], classes, state["channel_details"])
        sketches = iter(unpack_sketches(state["sketches"]))
        for key, names in state["names"]:
            found.sketches[SiteKey(*key)] = {name: next(sketches) for name in names}
        found.channel_dims = {SiteKey(*key): dim for key, dim in state["channel_dims"]}
        found._channels = {
            SiteKey(*key): ChannelTotals.from_state(totals) for key, totals in state["channels"]
        }
        found.experts = {
            SiteKey(*key): ExpertTable.from_state(table) for key, table in state["experts"]
        }
        found.documents = Documents.from_state(state["documents"])
        found.changes = PairedChanges.from_state(state["changes"])
        found.extremes = Extremes.from_state(state["extremes"])
        found.formats = FormatLosses.from_state(state["formats"])
        found.groups = GroupCounter.from_state(state["groups"])
        if state["tokens"] is not None:
            found.tokens = TokenWriter.from_state(state["tokens"])
        return found

    def channels(self) -> pd.DataFrame:
        """Return one row per layer, site, phase and channel."""
        frames = [
            pd.DataFrame(
                {"layer": key.layer, "site": key.site, "phase": key.phase}
                | {"channel": np.arange(totals.count.size)}
                | totals.columns()
                | ({"channel_dim": self.channel_dims.get(key, -1)} if self.channel_dims else {})
                | {"module": key.module, "stack": key.stack}
            )
            for key, totals in sorted(self._channels.items(), key=lambda one: key_order(one[0]))
        ]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()

    def with_tables(self, run: Run, tokenizer: Any = None) -> Run:
        """Return the run with its other tables: extremes, formats, experts, groups of tokens.

        The ``tokenizer`` decodes the tokens of the extremes; None leaves their texts empty.
        """
        rows = [
            {"layer": key.layer, "site": key.site, "phase": key.phase}
            | row
            | {"module": key.module, "stack": key.stack}
            for key in run.keys
            if key in self.experts
            for row in self.experts[key].rows(run.bands[key], run.merged[key])
        ]
        tables: dict[str, Any] = {
            "extremes": self.extremes.frame(run.merged, tokenizer),
            "formats": self.formats.frame(),
            "experts": pd.DataFrame(rows),
        }
        groups = self.groups.groups(run.merged)
        return replace(run, **tables, groups=groups)


def _only_moved(
    values: torch.Tensor, moved: torch.Tensor, slots: NDArray[np.int64]
) -> tuple[torch.Tensor, NDArray[np.int64]]:
    """Return the marked values as one column, with the slot of each."""
    marked = moved.bool()
    counts = marked.sum(dim=1).cpu().numpy()
    return values[marked][:, None], np.repeat(slots, counts)
