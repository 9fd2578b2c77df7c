"""The passes of a batch: which are pending, and what is saved and reported after each."""

from __future__ import annotations

from distviz.progress import Progress
from distviz.studies.sweep_passes import BatchPasses


class Counted(Progress):
    def __init__(self) -> None:
        self.tokens = 0

    def advance(self, amount: int) -> None:
        self.tokens += amount


def test_finished_passes_are_saved_once_and_skipped() -> None:
    progress, saved = Counted(), []
    done = {4}
    passes = BatchPasses(3, done, 10, progress, lambda: saved.append(sorted(done)))
    assert [passes.is_pending(number) for number in range(3)] == [True, False, True]
    assert not passes.skip_if_done(2)
    for number in (0, 2):
        passes.finish(number)
    assert saved == [[3, 4], [3, 4, 5]]
    passes.finish(0)  # the unchanged model again, after a restore
    assert len(saved) == 2
    assert progress.tokens == 30
    assert passes.skip_if_done(2)
    assert progress.tokens == 60
