"""Tables of studies: each is known once, and none is a table of a run or a comparison."""

from __future__ import annotations

from distviz.results import meanings
from distviz.results.study_meanings import STUDIES


def test_a_table_is_explained_in_one_place() -> None:
    assert STUDIES.items() <= meanings.MEANINGS.items()
    assert not STUDIES.keys() & {"stats", "documents", "compare", "inference"}
