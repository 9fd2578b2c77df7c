"""The sections of an allocation."""

from __future__ import annotations

import pytest
from support.synthetic_allocations import allocation_of

from distviz.reports.allocation import allocation_part
from distviz.reports.page import Page
from distviz.reports.rendering import render


@pytest.mark.parametrize("formats", [False, True])
def test_the_part_of_an_allocation(*, formats: bool) -> None:
    found = allocation_of(formats=formats)
    part = allocation_part(found)
    assert found.verdict in str(part)
    text = render(Page(part.title, [part]))
    assert "tiny: allocation" in text
    for section in ("Apply it", "By layer", "What the whole costs", "Every level alone"):
        assert section in text
    assert "allocation.csv" in text
