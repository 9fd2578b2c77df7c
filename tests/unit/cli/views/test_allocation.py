"""An allocation on the terminal, in 80 columns."""

from __future__ import annotations

from functools import partial

import pytest
from support.synthetic_allocations import allocation_of
from support.terminal import printed

from distviz.cli.views import allocation as views

_printed = partial(printed, views.summary)


@pytest.mark.parametrize("formats", [False, True])
def test_every_place_and_the_curve_in_80_columns(*, formats: bool) -> None:
    found = allocation_of(formats=formats)
    out = _printed(found)
    assert max(map(len, out.splitlines())) <= 80
    assert sum(line.rstrip().endswith("<") for line in out.splitlines()) == 1
    assert "better than uniform beyond noise" in " ".join(out.split())
    assert "budget 0.05 nats" in " ".join(out.split())
    rows = [line for line in out.splitlines() if line.split()[1:2] == ["product"] or formats]
    assert len(rows) >= 5
    assert ("nvfp4" in out) == formats
    assert _printed(found, encoding="ascii").isascii()


def test_a_wide_console_has_every_column() -> None:
    out = _printed(allocation_of(), width=160)
    for word in ("KL allocated", "KL uniform", "loss change", "top-1", "threshold" * 0 + "|x|"):
        assert word in out
