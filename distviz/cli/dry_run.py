"""``--dry-run``: the checks of a measuring command, and an estimate in place of the measurement."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distviz.cli.checks import checked_output, checkpoint_folder

if TYPE_CHECKING:
    from distviz.cli.commands import Study

_SCHEMA_VERSION = 3


@dataclass(frozen=True)
class Estimate:
    """What measuring one model reads, does and needs; the fields are those of ``--json``.

    Attributes
    ----------
    model
        Its details, as in ``run.json``, and its name.
    files, bytes_read
        Name and bytes of each file; all bytes.
    layers, sites, points, arm_layers
        What is observed, and the layers with ARM.
    ripple, streamed, reads_all
        Whether ARM is written into a second pass, layers are read one by one, all layers are read.
    text
        ``documents``, ``windows``, ``tokens``, ``batches``, ``positions`` (padding included),
        ``truncated``.
    passes
        Through the model, of all texts together.
    processes
        Number of processes that share the batches; the memory is that of each.
    operations
        Floating-point operations of all passes, without the language head.
    memory_bytes
        ``weights, activations, buffers, counting, sketches, logits``, where layers are streamed or
        models compared ``hidden_states``, and ``total``; without the libraries.
    library_bytes
        Memory of this process with everything imported and no model.
    disk_bytes, temporary_bytes
        Of the folder written; of files that are removed at the end.
    spilled_bytes
        Of these: values that wait for a layer or the other model, beyond ``--stream-memory``.
    notes
        Warnings.
    """

    model: dict[str, Any]
    files: list[dict[str, Any]]
    bytes_read: int
    layers: str
    sites: list[str]
    points: int
    arm_layers: list[int]
    ripple: bool
    streamed: bool
    reads_all: bool
    text: dict[str, Any]
    passes: float
    processes: int
    operations: float
    memory_bytes: dict[str, int]
    library_bytes: int
    disk_bytes: int
    temporary_bytes: int
    spilled_bytes: int
    notes: list[str]

    def with_passes(self, more: int) -> Estimate:
        """Return the estimate with further passes through the model."""
        passes = self.passes + more
        return replace(self, passes=passes, operations=self.operations * passes / self.passes)


@dataclass(frozen=True)
class DryRun:
    """What a command would do.

    Attributes
    ----------
    command
        ``"run"``, ``"compare"``, ``"filler"`` or ``"sweep"``.
    out
        The folder that it would write.
    measurements
        By side: ``"A"`` and ``"B"`` of a comparison, else empty.
    ready
        Sides of a comparison that are measured already.
    free_bytes
        Memory that is free now where the model would be loaded.
    is_together
        Whether all models are in memory at a time, not one after the other.
    """

    command: str
    out: Path
    measurements: dict[str, Estimate]
    ready: list[str]
    free_bytes: int
    is_together: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for ``--json``."""
        found = self.measurements.items()
        needs = [one.memory_bytes["total"] for _, one in found]
        memory = sum(needs) if self.is_together else max(needs, default=0)
        spilled = [one.spilled_bytes for _, one in found]
        notes = [note for _, one in found for note in one.notes]
        if memory > self.free_bytes:
            needed, free = memory / 1e9, self.free_bytes / 1e9
            notes.append(f"{needed:.1f} GB of memory are needed, {free:.1f} GB are free")
        return {
            "schema_version": _SCHEMA_VERSION,
            "kind": "plan",
            "command": self.command,
            "folder": str(self.out),
            "processes": max((one.processes for _, one in found), default=1),
            "memory_bytes": memory,
            "models_in_memory": len(found) if self.is_together else min(len(found), 1),
            "library_bytes": max((one.library_bytes for _, one in found), default=0),
            "free_bytes": self.free_bytes,
            "disk_bytes": sum(one.disk_bytes for _, one in found),
            "temporary_bytes": sum(one.temporary_bytes - one.spilled_bytes for _, one in found)
            + (sum(spilled) if self.is_together else max(spilled, default=0)),
            "temporary_folder": tempfile.gettempdir(),
            "ready": self.ready,
            "measurements": [{"side": side or None, **asdict(one)} for side, one in found],
            "warnings": list(dict.fromkeys(notes)),
        }


def dry_run(study: Study) -> DryRun:
    """Estimate what `execute` would do with the same study.

    Raises
    ------
    RequestError
        If the command itself would be refused before its first forward pass.
    """
    from distviz import models

    settings = study.settings
    out = checked_output(settings, study.name)
    checkpoint_folder(out, settings)
    found = study.estimate()
    return DryRun(
        study.command,
        out,
        {side: one for side, one in found.items() if not isinstance(one, str)},
        [one for one in found.values() if isinstance(one, str)],
        models.free_bytes(models.parse_device(settings.device)),
        study.is_together,
    )
