"""The batches of two models shared among processes; what they find adds up to the same."""

from __future__ import annotations

from collections.abc import Sequence

from distviz.data import Batch
from distviz.measure.paired_models import PairedModels
from distviz.measure.partial import partition_batches
from distviz.measure.resume import CheckpointFolder
from distviz.measure.world import agree, current
from distviz.progress import Progress


def compare_batches(
    pair: PairedModels,
    batches: Sequence[Batch],
    asked: dict[str, str],
    progress: Progress,
    states: CheckpointFolder | None = None,
) -> None:
    """Compare the batches of this process, save checkpoints, and add what other processes found.

    Parameters
    ----------
    asked
        What must agree between processes and for a resume, see `request`.
    states
        Where to save checkpoints, and to resume from.
    """
    world, recorder = current(), pair.recorder
    agree(world, "compared values", asked)
    sizes = {number: batch.valid.size for number, batch in enumerate(batches)}
    finished, done = set[int](), set[int]()
    if states is not None:
        contents, done = states.begin(asked, progress)
        for one in contents:
            recorder.add_state(one["recorder"])
            finished.update(one["batches"])
    left = {number: size for number, size in sizes.items() if number not in done}
    own = {number: batches[number] for number in partition_batches(left, world.size)[world.rank]}
    total = sum(sizes[number] for number in {*own, *finished})
    of_all, ready = (sum(batches[n].tokens for n in part) for part in (sizes, done))
    progress.start(pair.n_passes * of_all, pair.n_passes * ready)
    for number in pair.run(own):
        finished.add(number)
        if states is not None:
            states.save_if_due(
                lambda: {"recorder": recorder.state(), "batches": sorted(finished)},
                sorted(finished),
                sum(sizes[one] for one in finished) / total,
                progress,
                is_last=finished >= {*own},
            )
    recorder.gather(world)
    if pair.outputs is not None:
        pair.outputs.gather(world)
