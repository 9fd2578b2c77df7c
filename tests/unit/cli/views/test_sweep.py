"""A sweep on the terminal: one row per setting in 80 columns."""

from __future__ import annotations

from functools import partial

from support.synthetic_sweeps import rows_of, sweep_from
from support.terminal import printed

from distviz.cli.views import sweep as sweep_tables

_printed = partial(printed, sweep_tables.summary)


def test_the_terminal_shows_every_setting_in_80_columns() -> None:
    sweep = sweep_from(
        rows_of(c=[0.05, 0.13, 1.0] * 2, p1=[75.0] * 3 + [99.5] * 3,
              layers=["0"] * 3 + ["0,1,2,3"] * 3, kl=[0.001, 0.02, 0.3, 0.02, 0.4, 8.0],
              near_zero_removed=[0.01, 0.1, 0.3, 0.02, 0.1, 0.3])
    )  # fmt: skip
    out = _printed(sweep)
    assert max(map(len, out.splitlines())) <= 80
    assert out.count("\n") >= 6
    assert "…" not in out
    assert sum(line.endswith("<") for line in map(str.rstrip, out.splitlines())) == 1
    assert "distviz run 'some models/tiny' --arm-layers 0 --c 0.13 --p1 75" in out
    assert _printed(sweep, encoding="ascii").isascii()
