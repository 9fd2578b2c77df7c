"""Between the state of a measurement and its streamed calls: what is saved, and taken up again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distviz.data import Batch
from distviz.errors import RequestError
from distviz.measure.forward import Measurement
from distviz.measure.layer_checkpoint import check_outputs, resume_point_of
from distviz.measure.layerwise_batches import BatchCheckpoint, Keeping
from distviz.measure.partial import PartialResult
from distviz.measure.resume import CheckpointFolder
from distviz.models import entry_device
from distviz.progress import Progress

__all__ = ["check_kept", "keeping_in", "take_up"]

_STREAMED = "streamed"


def check_kept(stage: Measurement, states: CheckpointFolder, content: Mapping[str, Any]) -> None:
    """Check a state of which layers returned.

    Raises
    ------
    RequestError
        If it holds calls that are halfway through the layers, and this measurement is not streamed.
    ValueError
        If what layers returned is missing or damaged.
    """
    if _STREAMED not in content:
        return
    on_disk = stage.opened.on_disk
    if on_disk is None or not on_disk.streams:
        raise RequestError(
            f"{states.folder} was kept after a layer of a streamed measurement",
            "add --stream to go on, or give another --out",
        )
    check_outputs(content[_STREAMED], states.folder)


def take_up(
    stage: Measurement, states: CheckpointFolder, contents: Sequence[Mapping[str, Any]]
) -> dict[int, BatchCheckpoint]:
    """Add what states hold to the stage; return where the batches that are halfway go on."""
    device = entry_device(stage.opened.model)
    found: dict[int, BatchCheckpoint] = {}
    for content in contents:
        stage.portion += PartialResult.from_state(dict(content), type(stage.portion.recorder))
        state = content.get(_STREAMED)
        if state is not None:
            halfway = resume_point_of(state, states.folder, device)
            for number, fired in state["fired"].items():
                found[int(number)] = BatchCheckpoint(
                    halfway, fired, state["layers"], state["stacks"]
                )
    return found


def keeping_in(
    states: CheckpointFolder,
    stage: Measurement,
    batches: Sequence[Batch],
    numbers: Sequence[int],
    calls: Mapping[int, BatchCheckpoint],
    told: Progress,
) -> Keeping:
    """Return how the streamed calls of some batches are kept after a layer.

    ``calls`` are those that go on from a state.
    """
    on_disk = stage.opened.on_disk
    n_layers = len(on_disk.layers) if on_disk is not None else 1

    def save(state: dict[str, Any]) -> bool:
        finished = sorted(stage.portion.batches)
        part = len(state["layers"]) / n_layers
        under_way = sum(batches[number].tokens for number in numbers)
        tokens = sum(batches[number].tokens for number in finished) + part * under_way
        share = tokens / sum(batch.tokens for batch in batches)
        content = stage.portion.state() | {_STREAMED: state}
        return states.save(lambda: content, [*finished, *numbers], share, told)

    name = f"rank-{states.world.rank}"
    return Keeping(states.folder, name, states.is_due, save, told.note, dict(calls))
