"""The declared columns of tables are those that are written, and those that the page explains."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.synthetic_allocations import allocation_of
from support.synthetic_comparisons import make
from support.synthetic_fillers import study
from support.synthetic_sweeps import sweep_of

import distviz
from distviz.results import columns
from distviz.results.allocation import CostRow, CurveRow, PlaceRow
from distviz.results.columns import names_of
from distviz.results.sweep import SeedRow, SweepRow
from distviz.results.whatif import COLUMNS, WhatIfRow
from distviz.studies.comparison import compare_runs

PAGE = Path(__file__).parents[3] / "docs" / "files.md"
SHARED = {"layer", "site", "phase", "module", "stack"}
PAIRS = {f"{name}_{side}" for name in ("layer", "phase", "module") for side in "ab"}
TABLES = {
    "documents.parquet": columns.Document,
    "channels.parquet": columns.Channel,
    "plans.csv": columns.Plan,
    "experts.csv": columns.Expert,
    "extremes.csv": columns.Extreme,
    "formats.csv": columns.FormatLoss,
    "compare.csv": columns.Distance,
    "inference.csv": columns.Inference,
    "channels.csv": columns.ChannelChange,
    "filler.csv": columns.FillerChange,
    "positions.csv": columns.FillerAlong,
    "attention.csv": columns.AttentionKept,
    "tokens.parquet": columns.TokenChange,
    "sweep.csv": SweepRow,
    "whatif.csv": WhatIfRow,
}
BORROWED = {"filler.csv": "inference.csv", "positions.csv": "inference.csv"}


def explained(name: str) -> set[str]:
    """The words in code type in the section of a file."""
    text = PAGE.read_text(encoding="utf-8")
    section = text.partition(f"### {name}\n")[2].partition("\n#")[0]
    return set(re.findall(r"`([^`]+)`", section))


@pytest.mark.parametrize("name", TABLES)
def test_every_declared_column_is_explained(name: str) -> None:
    known = explained(name) | SHARED | PAIRS | {"filler_count"}
    known |= explained(BORROWED.get(name, name))
    known |= {f"{one}_spread" for one in known}
    assert set(names_of(TABLES[name])) <= known


def test_every_column_that_is_written_is_declared(demo_run: distviz.Run) -> None:
    compared = compare_runs(make(1).run, make(2).run).tables()
    studied, swept = study().tables(), sweep_of().tables()
    allocated = allocation_of().tables()
    written = {
        columns.Document: demo_run.documents,
        columns.Extreme: demo_run.extremes.assign(expert=0),
        columns.Channel: demo_run.channels,
        columns.Plan: demo_run.plans,
        columns.Distance: compared["compare"],
        columns.Inference: compared["inference"],
        columns.ChannelChange: compared["channels"],
        columns.ClassShare: compared["classes"],
        columns.FillerChange: studied["filler"],
        columns.FillerAlong: studied["positions"],
        columns.AttentionKept: studied["attention"],
        columns.TokenChange: studied["tokens"],
        SweepRow: swept["sweep"],
        SeedRow: swept["sweep_seeds"],
        PlaceRow: allocated["allocation"],
        CostRow: allocated["allocation_costs"],
        CurveRow: allocated["allocation_curve"],
    }
    for row, table in written.items():
        assert len(table), row
        assert set(table) <= set(names_of(row)), row


def test_the_columns_of_whatif_are_in_the_order_of_the_file() -> None:
    assert COLUMNS[:4] == ("layer", "site", "phase", "question")
    assert COLUMNS[-2:] == ("module", "stack")
