"""Whether two runs hold the same numbers."""

from __future__ import annotations

from typing import Any


def same(a: Any, b: Any) -> None:
    assert a.sketches.keys() == b.sketches.keys()
    for key, by_class in a.sketches.items():
        for name, sketch in by_class.items():
            assert sketch == b.sketches[key][name], (key, name)
    assert a.documents.equals(b.documents)
    assert a.channels.equals(b.channels)
    assert a.plans.equals(b.plans)
    assert a.extremes.equals(b.extremes)
    assert a.formats.equals(b.formats)
