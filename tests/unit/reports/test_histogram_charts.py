"""Charts of distributions: their axes are written as those of every chart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from distviz.reports.histogram_charts import COMPARED, PAIRED


def axes_of(spec: Any) -> Iterator[dict[str, Any]]:
    for name, one in spec.items() if isinstance(spec, dict) else enumerate(spec):
        if name == "axis" and one:
            yield one
        elif isinstance(one, dict | list):
            yield from axes_of(one)


def test_every_axis_has_labels_of_the_page() -> None:
    found = list(axes_of([PAIRED, COMPARED]))
    assert len(found) > 6
    assert all(axis["formatType"] == "tick" for axis in found)
