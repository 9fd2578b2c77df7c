"""Checkpoints of a streamed measurement after a layer, and how it resumes there.

What a layer returned to every call is in a file beside the state. The state names, for each call
and stack of layers, the file; it is written when the file is whole, and files that no state names
are removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from distviz.errors import RequestError
from distviz.hooks import TokenWriter
from distviz.measure.partial import PartialResult
from distviz.measure.tensor_files import OutputWriter, check_file, read_output
from distviz.models import entry_device

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from distviz.data import Batch
    from distviz.measure.forward import Measurement
    from distviz.measure.resume import CheckpointFolder
    from distviz.models import LayersOnDisk
    from distviz.progress import Progress

_SUFFIX = ".outputs"
_STREAMED = "streamed"


@dataclass(frozen=True)
class ResumePoint:
    """Where an interrupted call continues.

    Attributes
    ----------
    outputs
        For each layer that it has passed: returns what replaces the layer's output. For the last of
        a stack that is what it returned; the others may give the same.
    input_digest
        Digest of the next layer's input.
    """

    outputs: Mapping[str, Callable[[], Any]]
    input_digest: str


@dataclass(frozen=True)
class BatchCheckpoint:
    """What was saved of the calls of one batch.

    Attributes
    ----------
    resume_points
        Where each call continues, by its name.
    fired
        For each call: which of the points outside all layers have been seen, by number.
    layers
        Layers that all calls have passed.
    stacks
        What was saved of them, as in `LayerCheckpointer`.
    """

    resume_points: Mapping[str, ResumePoint]
    fired: Mapping[str, Sequence[int]]
    layers: Sequence[str]
    stacks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass
class LayerCheckpointer:
    """Saves what layers return, and a state that names it.

    Parameters
    ----------
    folder, name
        Where the files go, and how their names begin.
    is_due
        Asked at each layer whether a state is wanted.
    save
        Writes its argument as the state, completely or not at all; False if it could not.
    note
        Called with the reason if no more is saved.
    batches
        What an earlier process saved, by the number of the batch.
    """

    folder: Path
    name: str
    is_due: Callable[[], bool]
    save: Callable[[dict[str, Any]], bool]
    note: Callable[[str], None]
    batches: Mapping[int, BatchCheckpoint] = field(default_factory=dict)
    _layers: Sequence[str] = ()
    _calls: Sequence[str] = ()
    _fired: Callable[[], dict[str, Any]] = dict
    _stacks: dict[str, dict[str, Any]] = field(default_factory=dict)
    _is_off: bool = False
    _index: int = -1
    _writer: OutputWriter | None = None
    _outputs: dict[str, Any] = field(default_factory=dict)
    _digests: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        states: CheckpointFolder,
        measurement: Measurement,
        batches: Sequence[Batch],
        numbers: Sequence[int],
        saved: Mapping[int, BatchCheckpoint],
        progress: Progress,
    ) -> LayerCheckpointer:
        """Save batches, by their numbers, together with what the measurement has finished."""
        on_disk = measurement.opened.on_disk
        n_layers = len(on_disk.layers) if on_disk is not None else 1

        def save(state: dict[str, Any]) -> bool:
            finished = sorted(measurement.partial.batches)
            tokens = sum(batches[number].tokens for number in finished)
            current = sum(batches[number].tokens for number in numbers)
            share = (tokens + len(state["layers"]) / n_layers * current) / (tokens + current)
            content = measurement.partial.state() | {_STREAMED: state}
            return states.save(lambda: content, [*finished, *numbers], share, progress)

        name = f"rank-{states.world.rank}"
        return cls(states.folder, name, states.is_due, save, progress.note, saved)

    def prepare(
        self, on_disk: LayersOnDisk, calls: Sequence[str], fired: Callable[[], dict[str, Any]]
    ) -> None:
        """Set the calls, by their names, and what returns `BatchCheckpoint.fired` by batch."""
        ends = [index for index, path in enumerate(on_disk.layers) if path in on_disk.wanted]
        self._layers = on_disk.layers[: 1 + max(ends)] if ends else on_disk.layers
        self._calls, self._fired = calls, fired
        for batch in self.batches.values():
            for stack, saved in batch.stacks.items():
                self._stacks.setdefault(stack, {}).update(saved)

    def begin(self, layer: str) -> bool:
        """Open a file if a state is due, or if the layer ends a stack that another may need.

        Returns whether the outputs of this layer are to be saved.
        """
        if self._is_off:
            return False
        before = self._index
        self._index = self._layers.index(layer) if layer in self._layers else -1
        if self._index + 1 == len(self._layers):
            return False
        ends_stack = _stack(self._layers[self._index + 1]) != _stack(layer)
        if not ends_stack and not self.is_due():
            return False
        if self._index <= before:
            self._give_up(f"{layer} runs out of order")
            return False
        self._outputs, self._digests = {}, {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._writer = OutputWriter(self.folder / f"{self.name}-{token_hex(4)}{_SUFFIX}")
        except OSError as error:
            self._give_up(str(error.strerror))
        return self._writer is not None

    def save_output(self, number: int, output: Any) -> None:
        """Write the output of a call."""
        if self._writer is None:
            return
        try:
            self._outputs[self._calls[number]] = self._writer.add(output)
        except (OSError, TypeError) as error:
            self._give_up(str(getattr(error, "strerror", None) or error))

    def note_input(self, number: int, digest: str) -> None:
        """Remember the digest of the next layer's input."""
        self._digests[self._calls[number]] = digest

    def end(self, layer: str) -> None:
        """Write the state if every call has passed the layer."""
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        done = list(self._layers[: self._index + 1])
        stacks = {_stack(path) for path in done} - {_stack(layer)}
        is_whole = all(len(self._stacks.get(stack, ())) == len(self._calls) for stack in stacks)
        if not is_whole or len(self._digests) < len(self._calls):  # some began at a later layer
            writer.abandon()
            return
        try:
            file = {"file": writer.path.name, "digest": writer.finish()}
        except OSError as error:
            self._give_up(str(error.strerror))
            return
        self._stacks[_stack(layer)] = {
            name: file | {"output": entry} for name, entry in self._outputs.items()
        }
        state = {"layers": done, "stacks": self._stacks, "input_digests": self._digests}
        if self.save(state | {"fired": self._fired()}):
            self._remove_unused()
        else:
            self._is_off = True

    def abandon(self) -> None:
        """Remove a file that is not whole; after the calls have ended, or after an error."""
        if self._writer is not None:
            self._writer.abandon()
            self._writer = None

    def _remove_unused(self) -> None:
        used = {saved["file"] for calls in self._stacks.values() for saved in calls.values()}
        for path in self.folder.glob(f"{self.name}-*{_SUFFIX}"):
            if path.name not in used:
                path.unlink(missing_ok=True)

    def _give_up(self, why: str) -> None:
        self._is_off = True
        self.abandon()
        self.note(f"{self.folder} cannot save the outputs of layers ({why}): no state to resume")


def _stack(layer: str) -> str:
    return layer.rpartition(".")[0]


def check_state(
    measurement: Measurement, states: CheckpointFolder, content: Mapping[str, Any]
) -> None:
    """Check that a state can be resumed by this measurement.

    Raises
    ------
    RequestError
        If it was saved after a layer, and this measurement is not streamed.
    ValueError
        If outputs of layers are missing or damaged.
    """
    if content["recorder"]["tokens"] is not None:
        TokenWriter.from_state(content["recorder"]["tokens"]).check()
    if _STREAMED not in content:
        return
    on_disk = measurement.opened.on_disk
    if on_disk is None or not on_disk.streams:
        raise RequestError(
            f"{states.folder} was saved after a layer of a streamed measurement",
            "add --stream to resume it, or give another --out",
        )
    check_outputs(content[_STREAMED], states.folder)


def check_outputs(state: Mapping[str, Any], folder: Path) -> None:
    """Raise ValueError, naming the file, if a file of outputs is missing or damaged."""
    saved = [entry for calls in state["stacks"].values() for entry in calls.values()]
    for file, digest in dict.fromkeys((entry["file"], entry["digest"]) for entry in saved):
        try:
            check_file(folder / file, digest)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error


def restore(
    measurement: Measurement, states: CheckpointFolder, contents: Iterable[Mapping[str, Any]]
) -> dict[int, BatchCheckpoint]:
    """Add the contents of states to a measurement; return the batches that are between layers."""
    device = entry_device(measurement.opened.model)
    if (writer := measurement.partial.recorder.tokens) is not None:  # its rows are saved there
        writer.folder, writer.name = states.folder, f"rank-{states.world.rank}"
    found: dict[int, BatchCheckpoint] = {}
    for content in contents:
        kind = type(measurement.partial.recorder)
        measurement.partial += PartialResult.from_state(dict(content), kind)
        if _STREAMED in content:
            found |= batch_checkpoints(content[_STREAMED], states.folder, device)
    return found


def batch_checkpoints(
    state: Mapping[str, Any], folder: Path, device: torch.device
) -> dict[int, BatchCheckpoint]:
    """Return what `LayerCheckpointer` saved, by the number of the batch; tensors on ``device``."""
    points = {}
    for name, digest in state["input_digests"].items():
        outputs = {}
        for layer in state["layers"]:
            saved = state["stacks"][_stack(layer)][name]
            outputs[layer] = partial(read_output, folder / saved["file"], saved["output"], device)
        points[name] = ResumePoint(outputs, digest)
    return {
        int(number): BatchCheckpoint(points, fired, state["layers"], state["stacks"])
        for number, fired in state["fired"].items()
    }
