"""Rows of formats.csv by layer."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd
import pytest
from support.synthetic_formats import KINDS, with_formats

from distviz.results.format_rows import format_kinds, format_losses_of, kind_name


def test_rows_by_layer() -> None:
    run = with_formats()
    assert format_kinds(run, "act") == KINDS
    assert [kind_name(kind) for kind in KINDS] == ["nvfp4", "int8-token", "nvfp4 hadamard"]
    rows = format_losses_of(run, "act", KINDS[1])
    assert rows["sqnr_db"].tolist() == [20, 21, 22, 23]
    assert rows["token_sqnr_db"].tolist() == pytest.approx([19, 20, 21, 22])
    assert format_losses_of(run, "act", KINDS[1], "after").empty
    assert format_kinds(run, "up") == []
    assert format_kinds(replace(run, formats=pd.DataFrame()), "act") == []


def test_of_several_modules_the_worst_and_of_nothing_lost_infinity() -> None:
    run = with_formats(1)
    other = run.formats.assign(sqnr_db=5.0, module="expert", token_error_share=0.0)
    both = replace(run, formats=pd.concat([run.formats, other]))
    row = format_losses_of(both, "act", KINDS[0]).iloc[0]
    assert (row["module"], row["token_sqnr_db"]) == ("expert", math.inf)
