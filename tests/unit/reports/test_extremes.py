"""The largest values beside their layer and as a table."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
from support.synthetic_extremes import PLANTED, planted

from distviz.reports.extremes import extreme_section, largest_values
from distviz.reports.page import DataTable, Prose
from distviz.reports.summary import run_verdict


def test_values_stand_beside_their_layer() -> None:
    found = largest_values(planted(PLANTED * 3))
    rows = found["decoder", "act", 2, "model.layers.2.mlp.act_fn"]
    assert rows[0] == ["value", "token", "position", "document", "channel", "× median |x|"]
    assert rows[1] == ["25,000", "\n", "4", "0", "7", "6,000"]
    assert len(found["decoder", "act", 1, "model.layers.1.mlp.act_fn"]) == 7


def test_the_section_names_massive_activations() -> None:
    section = extreme_section(planted(PLANTED))
    assert section is not None
    prose, table = section.blocks
    assert isinstance(prose, Prose)
    assert prose.text.startswith("Massive activations (|x| > 100 and > 1,000 times the median |x|)")
    assert isinstance(table, DataTable)
    ratios = [row[[name for name, _ in table.columns].index("ratio")].value for row in table.rows]
    assert ratios == sorted(ratios, key=lambda one: -float(one))


def test_a_run_without_extremes_has_no_section() -> None:
    run = replace(planted(PLANTED), extremes=pd.DataFrame())
    assert extreme_section(run) is None
    assert largest_values(run) == {}


def test_the_verdict_names_them() -> None:
    assert "Massive activations" in run_verdict(planted(PLANTED))
    assert "channel 7 in layers 1, 2" in run_verdict(planted(PLANTED))
    assert "Massive" not in run_verdict(planted(PLANTED, ratio=1.0))
