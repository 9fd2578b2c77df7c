"""What a measurement would read, do and take, told before anything of it is done.

No weights are read and nothing of the model is computed: one batch is walked through its shapes,
and the machine is timed for about a second on products of such shapes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distviz.cli.calibration import Speeds, Start, measure_speeds
from distviz.cli.opening import Opening
from distviz.cli.walk import Task, Walk
from distviz.data import Batch
from distviz.measure import current, partition_batches
from distviz.models import resident_bytes
from distviz.settings import RunSettings
from distviz.sites import join_layers

__all__ = ["Measurement", "estimate"]

_READ_RATE, _UNPACK_RATE = 1.5e9, 1e7
"""Bytes of safetensors, parameters of a GGUF, that come into memory in a second."""
_FIRST_SECONDS, _TABLE_SECONDS, _FIGURE_SECONDS = 2.0, 2e-4, 0.25
"""Of what is done once in a process, a table that a batch fills, a figure; on an idle machine."""
_SPREAD, _ROUGH_SPREAD = (0.6, 1.7), (0.3, 3.0)


@dataclass(frozen=True)
class Measurement:
    """What measuring one model would read, do and take.

    Attributes
    ----------
    model
        Its details, as ``run.json`` has them, and its name.
    files
        Bytes read of each file.
    places
        ``layers``, ``sites``, ``points``, ``arm_layers``.
    text
        ``documents``, ``windows``, ``tokens``, ``batches``, ``positions`` (padding included).
    passes
        Through the model, all texts together.
    processes
        How many share the batches; the seconds are those of the one that takes longest, the memory
        is that of each.
    seconds
        By part: ``start, load, forward, counting, redistribution, effect, figures``.
    memory_bytes
        By part: ``weights, activations, buffers, counting, sketches, logits``, where layers are
        streamed ``waiting``, too; beside what the libraries take.
    library_bytes
        What this process takes now, with everything imported and no model.
    disk_bytes
        Of the folder written.
    operations
        Floating-point operations of all passes.
    spread
        By what the seconds may be multiplied.
    notes
        What has to be said.
    """

    model: dict[str, Any]
    files: dict[str, int]
    places: dict[str, Any]
    text: dict[str, Any]
    passes: float
    processes: int
    seconds: dict[str, float]
    memory_bytes: dict[str, int]
    library_bytes: int
    disk_bytes: int
    operations: float
    spread: tuple[float, float]
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for ``--json``."""
        low, high = (sum(self.seconds.values()) * factor for factor in self.spread)
        return {
            "model": self.model,
            "files": [{"name": name, "bytes": size} for name, size in self.files.items()],
            "bytes_read": sum(self.files.values()),
            **self.places,
            "text": self.text,
            "passes": self.passes,
            "processes": self.processes,
            "operations": self.operations,
            "seconds": {"low": low, "high": high, "parts": self.seconds},
            "memory_bytes": self.memory_bytes | {"total": sum(self.memory_bytes.values())},
            "library_bytes": self.library_bytes,
            "disk_bytes": self.disk_bytes,
            "notes": self.notes,
        }


def estimate(opening: Opening, settings: RunSettings, tasks: Sequence[Task]) -> Measurement:
    """Estimate one measurement.

    Raises
    ------
    RequestError
        If layers or sites do not exist in this model.
    """
    start, libraries = Start.now(), resident_bytes()
    walk = Walk.of(opening, settings, tasks)
    notes = list(opening.opened.details.get("warnings", []))
    if walk.cost.is_rough:
        notes.append("the path through this model depends on values; the estimate is rough")
    return Measurement(
        model={"name": opening.opened.name, **opening.opened.details},
        files=opening.files(),
        places=_places(walk),
        text=walk.text(),
        passes=sum(task.passes for task in tasks),
        processes=current().size,
        seconds=_Clock.of(walk, start).seconds(),
        memory_bytes=walk.memory(),
        library_bytes=libraries,
        disk_bytes=walk.disk(),
        operations=_operations(walk),
        spread=_ROUGH_SPREAD if walk.cost.is_rough else _SPREAD,
        notes=notes,
    )


def _places(walk: Walk) -> dict[str, Any]:
    return {
        "layers": join_layers(point.layer for point in walk.watched),
        "sites": list(dict.fromkeys(point.site for point in walk.watched)),
        "points": len(walk.watched),
        "arm_layers": sorted({point.layer for point in walk.moved}),
        "ripple": walk.settings.ripple,
        "streamed": walk.opening.streams,
        "reads_all": not walk.opening.until,
    }


def _operations(walk: Walk) -> float:
    """Floating-point operations of every pass, heads left out."""
    of_position = walk.cost.operations / walk.positions
    return sum(
        task.passes * of_position * sum(batch.valid.size for batch in batches)
        for task, batches in zip(walk.tasks, walk.batches, strict=True)
    )


@dataclass(frozen=True)
class _Clock:
    """Turns a walk and the speeds of the machine into seconds."""

    walk: Walk
    speeds: Speeds
    start: Start

    @classmethod
    def of(cls, walk: Walk, start: Start) -> _Clock:
        products = dict(walk.cost.products) | ({walk.head: 1} if walk.head else {})
        opening = walk.opening
        shapes = (products, walk.cost.attention, walk.width)
        speeds = measure_speeds(*shapes, opening.dtype, opening.options.device)
        return cls(walk, speeds, start)

    def seconds(self) -> dict[str, float]:
        busy = self.start.busy
        parts = {"start": self.start.seconds + busy * _FIRST_SECONDS, "load": self._load()}
        parts |= dict.fromkeys(("forward", "counting", "redistribution", "effect"), 0.0)
        for task, batches in zip(self.walk.tasks, self.walk.batches, strict=True):
            for part, seconds in self._longest_share(task, batches).items():
                parts[part] += seconds
        return parts | {"figures": busy * self.walk.figures() * _FIGURE_SECONDS}

    def _longest_share(self, task: Task, batches: Sequence[Batch]) -> Counter[str]:
        """Seconds by part of the process that measures longest."""
        sizes = {number: batch.valid.size for number, batch in enumerate(batches)}
        found = []
        for share in partition_batches(sizes, current().size):
            parts: Counter[str] = Counter()
            for number in share:
                parts.update(self._batch(task, batches[number]))
            found.append(parts)
        return max(found, key=lambda parts: parts.total())

    def _batch(self, task: Task, batch: Batch) -> dict[str, float]:
        walk, speeds = self.walk, self.speeds
        share = float(batch.valid.sum()) / walk.positions
        changed = task.passes - 1 if walk.settings.ripple else 1.0
        counted = walk.values(walk.watched) * (2 if task.paired else 1)
        return {
            "forward": task.passes * self._pass(*batch.valid.shape),
            "counting": share * counted * speeds.count
            + self.start.busy * walk.slots(task, len(batch.valid)) * _TABLE_SECONDS,
            "redistribution": max(0.0, changed) * share * walk.values(walk.moved) * speeds.arm,
            "effect": max(1.0, task.passes) * self._head(int(batch.counted.sum())),
        }

    def _pass(self, rows: int, tokens: int) -> float:
        """Seconds of a batch, maybe of another shape than the one that was walked through."""
        cost, speeds = self.walk.cost, self.speeds
        linear = rows * tokens / self.walk.positions
        products = sum(
            2.0 * math.prod(shape) * times / speeds.product(*shape[1:])
            for shape, times in cost.products.items()
        )
        attention = sum(4.0 * math.prod(s) * times for s, times in cost.attention.items())
        return (
            linear * (products + cost.moved / speeds.moving)
            + linear * tokens / cost.tokens * attention / speeds.attention
            + cost.calls * speeds.call
        )

    def _head(self, positions: int) -> float:
        if self.walk.head is None:
            return 0.0
        _, width, words = self.walk.head
        product = 2.0 * positions * width * words / self.speeds.product(width, words)
        return product + 4.0 * positions * words * 8 / self.speeds.moving

    def _load(self) -> float:
        opening = self.walk.opening
        if opening.found is not None and opening.found.checkpoint.gguf is not None:
            return self.start.busy * float(opening.opened.details["parameters"]) / _UNPACK_RATE
        return sum(opening.files().values()) / _READ_RATE
