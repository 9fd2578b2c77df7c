"""One process alone; several are tested in tests/integration/test_training_ranks.py."""

from __future__ import annotations

from distviz.measure.ranks import Ranks


def test_a_process_alone() -> None:
    ranks = Ranks.join()
    assert (ranks.rank, ranks.size, ranks.is_first) == (0, 1, True)
    assert ranks.share("a") == "a"
    assert [*ranks.gather(b"abc")] == [b"abc"]
    ranks.leave()
