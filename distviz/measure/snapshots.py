"""Where the snapshots of a training go: a folder and sinks. A failure is noted, never raised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from distviz.errors import first_line
from distviz.output import counted, listed, print_error
from distviz.results import Run, TrainingWriter, nonfinite_line

_SHOWN = 5


class Sink(Protocol):
    """What else gets the snapshots of a training."""

    def write(self, step: int, run: Run) -> None:
        """Take the snapshot of a step."""

    def close(self) -> None:
        """Take note of the end."""


@dataclass
class Snapshots:
    """Writes snapshots, and keeps what went wrong; the training goes on.

    Parameters
    ----------
    out
        The folder, None for sinks alone.
    settings
        For the manifest of the folder.
    sinks
        Called after the folder is written.
    resume, force
        See `TrainingWriter`.

    Raises
    ------
    RequestError
        If the folder may not be written.
    """

    out: Path | None
    settings: dict[str, Any]
    sinks: Sequence[Sink] = ()
    resume: bool = False
    force: bool = False
    first_nonfinite: dict[str, Any] | None = None
    _written: int = 0
    _missing: dict[int, str] = field(default_factory=dict)
    _notes: list[str] = field(default_factory=list)
    _writer: TrainingWriter | None = None

    def __post_init__(self) -> None:
        if self.out is not None:
            self._writer = TrainingWriter(
                self.out, self.settings, resume=self.resume, force=self.force
            )
            self.first_nonfinite = self._writer.manifest["first_nonfinite"]

    def write(self, step: int, run: Run, *, tokens: int, passes: int) -> None:
        """Write the snapshot of a step."""
        try:
            if self._writer is not None:
                self._writer.add(
                    step,
                    run,
                    tokens=tokens,
                    passes=passes,
                    first_nonfinite=self.first_nonfinite,
                    warnings=self._notes,
                )
        except Exception as error:  # noqa: BLE001  (a full disk must not end a training)
            self.miss(step, first_line(error))
            return
        self._written += 1
        for sink in self.sinks:
            try:
                sink.write(step, run)
            except Exception as error:  # noqa: BLE001  (whatever a service raises)
                self.note(f"step {step} is not in {type(sink).__name__}: {first_line(error)}")

    def found_nonfinite(self, place: dict[str, Any]) -> None:
        """Keep the place of the first NaN or infinity; it was printed when it was found."""
        if self.first_nonfinite is None:
            self.first_nonfinite = place
            self._notes.append(nonfinite_line(place))

    def miss(self, step: int, reason: str) -> None:
        """Note that a step has no snapshot."""
        self._missing[step] = reason
        self.note(f"step {step} has no snapshot: {reason}")

    def note(self, message: str) -> None:
        """Print a warning and keep it for the manifest, once."""
        if message not in self._notes:
            print_error(message)
            self._notes.append(message)

    def close(self) -> None:
        """Close the sinks, and say which snapshots are missing."""
        for sink in self.sinks:
            try:
                sink.close()
            except Exception as error:  # noqa: BLE001  (whatever a service raises)
                self.note(f"{type(sink).__name__} cannot be closed: {first_line(error)}")
        if self._missing:
            of_all = f"{len(self._missing)} of {self._written + len(self._missing)}"
            steps = [*map(str, self._missing)]
            shown = ", ".join(steps[:_SHOWN]) + ", ..." * (len(steps) > _SHOWN)
            reason = next(iter(self._missing.values()))
            message = f"{counted(of_all, 'snapshot')} missing, {listed('step', shown)}: {reason}"
            print_error(message)
        if self._writer is not None:
            try:
                self._writer.note(first_nonfinite=self.first_nonfinite, warnings=self._notes)
            except Exception as error:  # noqa: BLE001  (the disk is full)
                print_error(f"the last warnings are not in {self.out}: {first_line(error)}")
