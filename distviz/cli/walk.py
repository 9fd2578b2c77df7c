"""One batch walked through a model without values, and what follows of it for all batches.

From the walk come the sizes: what is held in memory at a time, and what is written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from distviz.cli.costs import Cost, rough_cost, trace
from distviz.cli.opening import Opening
from distviz.data import Batch, Corpus, make_batches
from distviz.measure import choose_points
from distviz.settings import RunSettings
from distviz.sites import HookPoint
from distviz.stats import float_grid

__all__ = ["Task", "Walk"]

_TABLE_BYTES = 8 * float_grid.CELLS
_CLASSES = 4
_LOGIT_VALUES = 1 << 23
_LOGIT_COPIES = 7
"""Of a slice of logits, for each side, on the way to its loss."""
_BUFFER_BYTES = 60_000_000
"""What the libraries of matrix products keep for themselves."""
_CHANNEL_BYTES = (24, 39)
"""A row of channels.parquet, compressed: of values of 16 bits, of more."""
_FIGURE_BYTES = {"png": 82_000, "svg": 160_000, "pdf": 40_000}


@dataclass(frozen=True)
class Task:
    """A text that goes through the model.

    Attributes
    ----------
    corpus
        The text.
    passes
        How often, whole passes of the untouched model and of changed ones together.
    paired
        Whether phase ``after`` is counted, too.
    """

    corpus: Corpus
    passes: float
    paired: bool


@dataclass(frozen=True)
class Walk:
    """What a measurement sends through a model, and what one batch of it costs.

    Attributes
    ----------
    batches
        Of each task.
    watched, moved
        Points observed, and ``act`` points with ARM.
    cost
        Of one pass of the largest batch.
    """

    opening: Opening
    settings: RunSettings
    tasks: Sequence[Task]
    batches: list[list[Batch]]
    watched: list[HookPoint]
    moved: list[HookPoint]
    cost: Cost

    @classmethod
    def of(cls, opening: Opening, settings: RunSettings, tasks: Sequence[Task]) -> Walk:
        """Choose the points and walk the largest batch through them.

        Raises
        ------
        RequestError
            If layers or sites do not exist in this model.
        """
        opened = opening.opened
        watched, moved = choose_points(settings, opened.model, opened.mlps)
        batches = [make_batches(task.corpus, settings.batch_size) for task in tasks]
        shapes = [batch.valid.shape for of_task in batches for batch in of_task]
        rows, tokens = max(shapes, key=math.prod)
        places = list(dict.fromkeys([*watched, *moved]))
        cost = trace(opened.model, places, rows, tokens, opening.until)
        cost = cost or rough_cost(opened.model, places, rows, tokens)
        return cls(opening, settings, tasks, batches, watched, moved, cost)

    @property
    def positions(self) -> int:
        """Tokens of the batch that was walked through, padding included."""
        return self.cost.rows * self.cost.tokens

    def values(self, points: Sequence[HookPoint]) -> int:
        """Values of that batch at some points."""
        return sum(self.cost.values.get(point, 0) for point in points)

    @cached_property
    def width(self) -> int:
        """Channels of the widest point."""
        return max((count // self.positions for count in self.cost.values.values()), default=1)

    @cached_property
    def head(self) -> tuple[int, int, int] | None:
        """(positions a slice, width, vocabulary) of the language head; None where it rests."""
        opened: Any = self.opening.opened
        if not (opened.has_head and self.settings.ripple):
            return None
        head = opened.model.get_output_embeddings()
        if head is None:
            return None
        words, width = head.weight.shape
        return max(1, _LOGIT_VALUES // int(words)), int(width), int(words)

    def text(self) -> dict[str, Any]:
        """Counts of all texts together; documents of the longest."""
        batches = [batch for of_task in self.batches for batch in of_task]
        corpora = [task.corpus for task in self.tasks]
        return {
            "documents": max(len({w.document for w in corpus.windows}) for corpus in corpora),
            "windows": sum(len(corpus.windows) for corpus in corpora),
            "tokens": sum(corpus.tokens for corpus in corpora),
            "batches": len(batches),
            "positions": sum(batch.valid.size for batch in batches),
            "truncated": any(corpus.truncated for corpus in corpora),
        }

    def _tables(self, task: Task) -> int:
        """How many sketches are kept, token classes apart."""
        arm_layers = {point.layer for point in self.moved}
        first = min(arm_layers, default=-1)
        total = 0
        for point in self.watched:
            apart = self.settings.classes == "all" or point.layer in arm_layers
            phases = 2 if task.paired else 1
            if point in self.moved:
                phases = 4 + (task.paired and point.layer > first)
            total += phases * (_CLASSES if apart else 1)
        return total

    def memory(self) -> dict[str, int]:
        """Return bytes held at a time, by what holds them."""
        apart = _CLASSES if self.moved or self.settings.classes == "all" else 1
        size = self.opening.dtype.itemsize
        largest = max(self.cost.values.values(), default=0) * size
        kept = 0 if self.head is None else 2 * self.positions * self.head[1] * size
        tables = max(map(self._tables, self.tasks))
        parts = {
            "weights": self.opening.weight_bytes(),
            "activations": self.cost.peak + kept + (2 * largest if self.moved else 0),
            "buffers": _BUFFER_BYTES,
            "counting": self.cost.rows * apart * _TABLE_BYTES,
            "sketches": tables * _TABLE_BYTES * (2 if self._has_long_documents() else 1),
            "logits": self._logit_bytes(),
        }
        return parts | ({"waiting": self._waiting_bytes()} if self.opening.streams else {})

    def _logit_bytes(self) -> int:
        if self.head is None:
            return 0
        sides = 2 if any(task.passes > 1 for task in self.tasks) else 1
        positions = min(self.head[0], self.positions)
        return sides * _LOGIT_COPIES * 4 * positions * self.head[2]

    def _has_long_documents(self) -> bool:
        """Whether a document goes through several batches, so that its tables are kept."""
        return any(len(b.whole) < len(set(b.documents.tolist())) for of in self.batches for b in of)

    def _waiting_bytes(self) -> int:
        """Hidden states between two layers, of all batches and both passes."""
        config: Any = self.opening.opened.model.config
        positions = sum(
            batch.valid.size * (2 if task.paired else 1)
            for task, batches in zip(self.tasks, self.batches, strict=True)
            for batch in batches
        )
        return int(positions * config.get_text_config().hidden_size * self.opening.dtype.itemsize)

    def slots(self, task: Task, rows: int) -> int:
        """How many tables a batch of so many rows fills, at all points together."""
        return rows * self._tables(task)

    def figures(self) -> int:
        """How many figures are drawn: one a point, and some of all layers."""
        sites = len({point.site for point in self.watched})
        return len(self.settings.figures) * (len(self.watched) + 2 * sites)

    def disk(self) -> int:
        """Return bytes written."""
        channels = self.values(self.watched) // self.positions
        total = 0.0
        for task in self.tasks:
            phases = 2 if task.paired else 1
            keys = len(self.watched) * phases + 2 * len(self.moved)
            documents = len({window.document for window in task.corpus.windows})
            text = sum(len(str(document)) for document in task.corpus.documents)
            total += self._tables(task) * 8_500 + documents * keys * 65
            total += channels * phases * _CHANNEL_BYTES[self.opening.dtype.itemsize > 2]
            total += keys * 19_000 + text * self.settings.keep_text + 10_000
            total += len(task.corpus.windows) * len(self.moved) * 140
        kinds = self.settings.figures
        figures = self.figures() * max((_FIGURE_BYTES[kind] for kind in kinds), default=0)
        return round(total + figures)
