"""Keep a streamed measurement after a layer, and go on from there.

What a layer returned to every call lies in a file beside the state; the state tells for each call
and stack of layers which file, and is written when the file is whole. A file goes when no state
tells of it any longer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from distviz.measure.layer_outputs import OutputsWriter, check_file, read_output
from distviz.measure.layerwise import ResumePoint

if TYPE_CHECKING:
    import torch

__all__ = ["OutputsKeeper", "check_outputs", "resume_point_of"]

_SUFFIX = ".outputs"


@dataclass
class OutputsKeeper:
    """A `streaming.LayerCheckpointer` that writes states.

    Parameters
    ----------
    folder, name
        Where the files go, and how their names begin.
    layers
        Paths of all layers that calls go through, in order.
    calls
        A name for every call, by number.
    is_due
        Asked at each layer whether a state is wanted.
    save
        Writes what it is given as the state, all of it or nothing; False if it could not.
    note
        Told why nothing more is kept, if it comes to that.
    stacks
        What was kept of stacks that calls had gone through before they were interrupted.
    """

    folder: Path
    name: str
    layers: Sequence[str]
    calls: Sequence[str]
    is_due: Callable[[], bool]
    save: Callable[[dict[str, Any]], bool]
    note: Callable[[str], None]
    stacks: dict[str, dict[str, Any]] = field(default_factory=dict)
    is_broken: bool = False
    _place: int = -1
    _writer: OutputsWriter | None = None
    _told: dict[str, Any] = field(default_factory=dict)
    _arrivals: dict[str, str] = field(default_factory=dict)

    def begin(self, layer: str) -> bool:
        """Open a file if a state is due, or a stack ends whose output the next one may want."""
        if self.is_broken:
            return False
        before, place = self._place, _index(self.layers, layer)
        self._place = place
        if place + 1 == len(self.layers):
            return False
        ends = _stack(self.layers[place + 1]) != _stack(layer)
        if not ends and not self.is_due():
            return False
        if place <= before:
            self._give_up(f"{layer} runs out of turn")
            return False
        self._told, self._arrivals = {}, {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._writer = OutputsWriter(self.folder / f"{self.name}-{token_hex(4)}{_SUFFIX}")
        except OSError as error:
            self._give_up(str(error.strerror))
        return self._writer is not None

    def keep(self, number: int, output: Any) -> None:
        """Write the output of a call."""
        if self._writer is None:
            return
        try:
            self._told[self.calls[number]] = self._writer.add(output)
        except OSError as error:
            self._give_up(str(error.strerror))
        except TypeError as error:
            self._give_up(str(error))

    def arrive(self, number: int, digest: str) -> None:
        """Remember the digest of what the next layer is given."""
        self._arrivals[self.calls[number]] = digest

    def end(self, layer: str) -> None:
        """Write the state if every call has gone through."""
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        done = list(self.layers[: self._place + 1])
        stacks = {_stack(one) for one in done} - {_stack(layer)}
        whole = all(len(self.stacks.get(one, ())) == len(self.calls) for one in stacks)
        if not whole or len(self._arrivals) < len(self.calls):  # some began elsewhere
            writer.abandon()
            return
        try:
            file = {"file": writer.path.name, "digest": writer.finish()}
        except OSError as error:
            writer.abandon()
            self._give_up(str(error.strerror))
            return
        outputs = {name: file | {"output": output} for name, output in self._told.items()}
        self.stacks[_stack(layer)] = outputs
        if self.save({"layers": done, "stacks": self.stacks, "arrivals": self._arrivals}):
            self._clear()
        else:
            self.is_broken = True

    def abandon(self) -> None:
        """Leave no file that is not whole."""
        if self._writer is not None:
            self._writer.abandon()
            self._writer = None

    def _clear(self) -> None:
        used = {told["file"] for calls in self.stacks.values() for told in calls.values()}
        for path in self.folder.glob(f"{self.name}-*{_SUFFIX}"):
            if path.name not in used:
                path.unlink(missing_ok=True)

    def _give_up(self, why: str) -> None:
        self.is_broken = True
        self.abandon()
        self.note(f"{self.folder} cannot keep what layers return ({why}): no state to resume")


def check_outputs(state: Mapping[str, Any], folder: Path) -> None:
    """Raise ValueError, naming the file, if what `OutputsKeeper` wrote is missing or damaged."""
    kept = [told for calls in state["stacks"].values() for told in calls.values()]
    for file, digest in dict.fromkeys((told["file"], told["digest"]) for told in kept):
        try:
            check_file(folder / file, digest)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error


def resume_point_of(
    state: Mapping[str, Any], folder: Path, device: torch.device
) -> dict[str, ResumePoint]:
    """Return where each call goes on, by its name.

    Parameters
    ----------
    state
        What `OutputsKeeper` gave to be saved.
    folder
        Where the files are.
    device
        Where the model is.
    """
    found = {}
    for name, arrival in state["arrivals"].items():
        outputs = {}
        for layer in state["layers"]:
            told = state["stacks"][_stack(layer)][name]
            path = folder / told["file"]
            outputs[layer] = partial(read_output, path, told["output"], device)
        found[name] = ResumePoint(outputs, arrival)
    return found


def _index(layers: Sequence[str], layer: str) -> int:
    return layers.index(layer) if layer in layers else -1


def _stack(layer: str) -> str:
    return layer.rpartition(".")[0]
