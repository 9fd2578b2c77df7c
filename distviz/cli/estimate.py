"""What a measurement reads, does and needs, from shapes alone: no weights are loaded."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from distviz import models
from distviz.cli.disk_size import RunSize, compared_tables, figures
from distviz.cli.dry_run import Estimate
from distviz.cli.forward_cost import ForwardCost, trace
from distviz.data import ROLES, Batch, Corpus, make_batches
from distviz.hooks import HELD_BYTES
from distviz.measure import EmptyModel, SpillBuffer, choose_points, current
from distviz.settings import RunSettings
from distviz.sites import HookPoint, join_layers
from distviz.stats import float_grid
from distviz.studies import CompareSide, points_of

_TABLE_BYTES = 8 * float_grid.CELLS
_CLASSES = 4
_LOGIT_VALUES, _LOGIT_COPIES = 1 << 23, 7
"""Of a slice of logits; float32 copies of it in each pass until its loss is known."""
_BUFFER_BYTES = 60_000_000
"""Of the libraries of matrix products."""


@dataclass(frozen=True)
class Part:
    """A text, how often it goes through the model, and whether phase ``after`` is counted."""

    corpus: Corpus
    passes: float = 1
    is_paired: bool = False


@dataclass(frozen=True)
class Compared:
    """What a comparison needs beside the measurement of one of its sides.

    Attributes
    ----------
    points
        Those compared value by value.
    has_inputs
        Whether what enters its layers is fed to those of the other side.
    is_first
        Whether it is A, whose values wait for those of B.
    is_by_layer
        Whether layers of a side are on disk: all batches pass a layer of A, then that of B.
    outputs
        Bytes of what A predicts, which wait for B; 0 unless both are measured and have a head.
    taken
        Bytes that the other side keeps of the memory for what waits.
    has_tables
        Whether the tables and figures of the comparison count here.
    """

    points: Sequence[HookPoint] = ()
    has_inputs: bool = False
    is_first: bool = False
    is_by_layer: bool = False
    outputs: int = 0
    taken: int = 0
    has_tables: bool = False


def of_comparison(
    sides: Sequence[CompareSide],
    number: int,
    by_value: dict[str, bool],
    sites: str | None,
    first: Estimate | str | None,
) -> Compared:
    """Return what a comparison needs of side A (``number`` 0) or B, of which A may be known."""
    empty = [side.checked.empty for side in sides if side.checked is not None]
    points, own, is_whole = [], sides[number], by_value["elementwise"]
    if is_whole and own.checked is not None:
        points = points_of(own.checked.empty.opened, own.settings, sites)
    taken = 0
    if is_whole and number and not isinstance(first, str | None):
        taken = first.memory_bytes.get("hidden_states", 0)
    return Compared(
        points,
        by_value["local"],
        is_first=number == 0,
        is_by_layer=is_whole and any(one.streams for one in empty),
        outputs=_outputs(sides) if all(one.opened.has_head for one in empty) else 0,
        taken=taken,
        has_tables=number == 1 or sides[1].checked is None,
    )


def _outputs(sides: Sequence[CompareSide]) -> int:
    """Return the bytes of the inputs of A's head, where both sides are measured."""
    first = sides[0].checked
    if first is None or sides[1].checked is None:
        return 0
    model: Any = first.empty.opened.model
    itemsize: int = getattr(torch, first.empty.opened.details["dtype"]).itemsize
    return int(model.config.get_text_config().hidden_size) * itemsize * first.corpus.tokens


def estimate(
    empty: EmptyModel,
    settings: RunSettings,
    parts: Sequence[Part],
    compared: Compared | None = None,
) -> Estimate:
    """Estimate the measurement of some texts on one model, a side of a comparison or alone.

    Raises
    ------
    RequestError
        If layers or sites do not exist in this model.
    """
    libraries, opened = models.resident_bytes(), empty.opened
    watched, moved = choose_points(settings, opened.model, opened.mlps)
    batches = [make_batches(part.corpus, settings.batch_size) for part in parts]
    rows, tokens = max((batch.valid.shape for each in batches for batch in each), key=math.prod)
    by_value = compared.points if compared is not None else ()
    cost = trace(opened.model, list(dict.fromkeys([*watched, *moved, *by_value])), rows, tokens)
    sizes = _Sizes(empty, settings, parts, batches, watched, moved, cost, rows, tokens, compared)
    share, positions = empty.layer_share(), sizes.positions(lambda part: part.passes)
    notes = [*opened.details.get("warnings", []), *parts[0].corpus.notes]
    if cost.is_rough:
        notes.append("the forward pass depends on values; the estimate is rough")
    files = empty.files()
    return Estimate(
        model={"name": opened.name, **opened.details},
        files=[{"name": name, "bytes": size} for name, size in files.items()],
        bytes_read=sum(files.values()),
        layers=join_layers(point.layer for point in watched),
        sites=list(dict.fromkeys(point.site for point in watched)),
        points=len(watched),
        arm_layers=sorted({point.layer for point in moved}),
        ripple=settings.ripple,
        streamed=empty.streams,
        reads_all=share == 1,
        text=sizes.text(),
        passes=sum(part.passes for part in parts),
        processes=current().size,
        operations=cost.operations * share * positions / (rows * tokens),
        memory_bytes=sizes.memory(),
        library_bytes=libraries,
        disk_bytes=sizes.disk(),
        temporary_bytes=sizes.temporary() + sizes.spilled(),
        spilled_bytes=sizes.spilled(),
        notes=notes,
    )


@dataclass(frozen=True)
class _Sizes:
    """Counts and bytes of a measurement; ``rows`` and ``tokens`` are those of the largest batch."""

    empty: EmptyModel
    settings: RunSettings
    parts: Sequence[Part]
    batches: list[list[Batch]]
    watched: list[HookPoint]
    moved: list[HookPoint]
    cost: ForwardCost
    rows: int
    tokens: int
    compared: Compared | None = None

    def positions(self, weight: Callable[[Part], float]) -> float:
        """Return the number of tokens, padding included, each part with its weight."""
        sizes = [sum(batch.valid.size for batch in each) for each in self.batches]
        return sum(weight(part) * size for part, size in zip(self.parts, sizes, strict=True))

    def text(self) -> dict[str, Any]:
        """Return counts of all texts together; documents of the longest."""
        corpora = [part.corpus for part in self.parts]
        return {
            "documents": max(len({w.document for w in corpus.windows}) for corpus in corpora),
            "windows": sum(len(corpus.windows) for corpus in corpora),
            "tokens": sum(corpus.tokens for corpus in corpora),
            "batches": sum(map(len, self.batches)),
            "positions": self.positions(lambda _: 1),
            "truncated": any(corpus.truncated for corpus in corpora),
        }

    @property
    def _groups(self) -> int:
        """Positions 0, 1, 2-3, 4-7, ..."""
        return (self.tokens - 1).bit_length() + 1

    def _keys(self, part: Part) -> tuple[int, int]:
        """Return the number of places by phase with one sketch, and with one for each class."""
        arm_layers = {point.layer for point in self.moved}
        first, whole, split = min(arm_layers, default=-1), 0, 0
        for point in self.watched:
            phases = 1 + part.is_paired
            if point in self.moved:
                phases = 4 + (part.is_paired and point.layer > first)
            is_alone = self.settings.classes != "all" and point.layer not in arm_layers
            whole, split = whole + phases * is_alone, split + phases * (not is_alone)
        return whole, split

    def _tables(self, part: Part) -> int:
        """Return the number of sketches; other groups of tokens have half a table each."""
        whole, split = self._keys(part)
        return whole + split * (_CLASSES + (len(ROLES) + self._groups) // 2)

    def memory(self) -> dict[str, int]:
        """Return bytes held at once, by what holds them."""
        model: Any = self.empty.opened.model
        itemsize = getattr(torch, self.empty.opened.details["dtype"]).itemsize
        head: Any = model.get_output_embeddings() if self.empty.opened.has_head else None
        has_logits = head is not None and self.settings.ripple
        words, width = head.weight.shape if has_logits else (0, 0)
        positions = self.rows * self.tokens
        kept = 2 * positions * width  # what enters the head, in both passes
        if self.moved:
            kept += 2 * max(self.cost.values.values(), default=0)
        # A document in several batches has tables of its own until its last one.
        is_split = any(len(b.whole) < len({*b.documents}) for each in self.batches for b in each)
        logits = words and min(max(1, _LOGIT_VALUES // words), positions) * words
        held = self._held_for_pairs(itemsize)
        if self.compared is not None and not self.compared.is_by_layer:
            held += self._held_for_other(positions, positions, itemsize)
        found = {
            "weights": self.empty.weight_bytes(),
            "activations": self.cost.peak + kept * itemsize + held,
            "buffers": _BUFFER_BYTES,
            "counting": self.rows * _CLASSES * _TABLE_BYTES,
            "sketches": max(map(self._tables, self.parts)) * _TABLE_BYTES * (1 + is_split),
            "logits": (1 + any(p.passes > 1 for p in self.parts)) * _LOGIT_COPIES * 4 * logits,
        }
        if self.settings.formats and "hadamard" in self.settings.rotate:
            found["counting"] += 4 * max(self.cost.values.values(), default=0)
        if waiting := self._waiting():
            found["hidden_states"] = min(waiting, self._limit())
        return found | {"total": sum(found.values())}

    def temporary(self) -> int:
        """Return the bytes of the rows of tokens while they are measured."""
        return sum(self.result(part).temporary(self.settings) for part in self.parts)

    def spilled(self) -> int:
        """Return the bytes of what waits beyond the limit, in a file."""
        return max(self._waiting() - self._limit(), 0)

    def _limit(self) -> int:
        """Return the bytes of waiting tensors that stay in memory."""
        device = models.parse_device(self.settings.device)
        limit = SpillBuffer.within(self.settings.stream_memory, device).limit_bytes
        return max(limit - (self.compared.taken if self.compared is not None else 0), 0)

    def _waiting(self) -> int:
        """Return the bytes that wait for the next layer or the other model, see `SpillBuffer`."""
        details, compared = self.empty.opened.details, self.compared
        itemsize = getattr(torch, details["dtype"]).itemsize
        model: Any = self.empty.opened.model
        width: int = model.config.get_text_config().hidden_size * itemsize

        def hidden(passes: Callable[[Part], float]) -> float:
            return width * self.positions(passes) + self._masks(passes, itemsize)

        alone = hidden(lambda part: 1 + part.is_paired) * self.empty.streams
        if compared is None:
            return int(alone)
        alone += compared.outputs
        if not compared.is_by_layer:
            return int(alone)
        tokens = sum(part.corpus.tokens for part in self.parts)
        is_fed = compared.has_inputs and not compared.is_first
        held = self._held_for_other(tokens, self.positions(lambda _: 1), itemsize)
        together = hidden(lambda _: 1 + is_fed) + held
        return int(max(alone, together) if compared.is_first else together)

    def _masks(self, passes: Callable[[Part], float], itemsize: int) -> float:
        """Return the bytes of attention masks, (batch, 1, tokens, tokens), where needed."""
        model: Any = self.empty.opened.model
        is_eager = model.config._attn_implementation == "eager"  # noqa: SLF001
        sizes = [
            sum(
                one.valid.size * one.valid.shape[1]
                for one in each
                if is_eager or not one.valid.all()
            )
            for each in self.batches
        ]
        total: float = sum(passes(part) * n for part, n in zip(self.parts, sizes, strict=True))
        return total * (itemsize if is_eager else 1)

    def _held_for_pairs(self, itemsize: int) -> int:
        """Return the bytes of values without ARM that wait for the same values with it."""
        values: Counter[Any] = Counter()
        for point in self.watched if any(part.is_paired for part in self.parts) else ():
            if point.experts is None:  # streamed, a layer is passed twice before the next
                values[self.empty.streams and (point.stack, point.layer)] += self.cost.values[point]
        return min(max(values.values(), default=0) * itemsize, HELD_BYTES)

    def _held_for_other(self, tokens: float, positions: float, itemsize: int) -> int:
        """Return the bytes of a layer that wait for that of the other side of a comparison.

        ``positions`` count padding, too.
        """
        compared = self.compared
        if compared is None or not compared.is_first:
            return 0
        values: Counter[Any] = Counter()
        for point, width in zip(compared.points, self._widths(compared.points), strict=True):
            values[point.stack, point.layer] += width
        model: Any = self.empty.opened.model
        inputs = model.config.get_text_config().hidden_size * compared.has_inputs
        return int(max(values.values(), default=0) * tokens + inputs * positions) * itemsize

    def result(self, part: Part) -> RunSize:
        """Return the rows of the tables of a run on one text."""
        phases, n_documents = 1 + part.is_paired, {one.document for one in part.corpus.windows}
        whole, split = self._keys(part)
        return RunSize(
            is_wide=self.empty.opened.details["dtype"] not in ("bfloat16", "float16"),
            places=len(self.watched) * phases,
            moved=2 * len(self.moved),
            whole=whole,
            split=split,
            classes=_CLASSES,
            groups=2 + self._groups,  # plain text has two roles
            channels=sum(self._widths(self.watched)) * phases,
            documents=len(n_documents),
            windows=len(part.corpus.windows),
            tokens=part.corpus.tokens,
            plans=len(self.moved) * self.settings.passes,
        )

    def _widths(self, points: Sequence[HookPoint]) -> list[int]:
        """Return the number of channels of each point."""
        return [self.cost.values[point] // (self.rows * self.tokens) for point in points]

    def disk(self) -> int:
        """Return bytes written: tables, texts and figures."""
        n_sites, total = len({point.site for point in self.watched}), 0
        for part in self.parts:
            total += self.result(part).tables(self.settings)
            total += self.settings.keep_text * sum(len(str(one)) for one in part.corpus.documents)
        if self.compared is None:
            return total + figures(self.settings, len(self.watched), n_sites)
        if self.compared.has_tables:
            points, size = self.compared.points, self.result(self.parts[0])
            groups, widest = size.classes + size.groups, max(self._widths(self.watched), default=0)
            pairs = len(self.watched)
            total += compared_tables(pairs, groups, widest, len(points), size.documents)
            total += figures(self.settings, pairs, n_sites, more=bool(points))
        return total
