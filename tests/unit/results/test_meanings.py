"""What columns mean: the same in docs/files.md, and known for every column of every table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from distviz.results import columns
from distviz.results.allocation import CostRow, CurveRow, PlaceRow
from distviz.results.columns import names_of
from distviz.results.drift import DriftRow
from distviz.results.meanings import MEANINGS, meanings_of
from distviz.results.sweep import SeedRow, SweepRow
from distviz.results.training import TimelineRow
from distviz.results.whatif import WhatIfRow

PAGE = Path(__file__).parents[3] / "docs" / "files.md"
TABLES = {
    "plans": columns.Plan,
    "channels": columns.Channel,
    "experts": columns.Expert,
    "extremes": columns.Extreme,
    "formats": columns.FormatLoss,
    "compare": columns.Distance,
    "inference": columns.Inference,
    "comparison channels": columns.ChannelChange,
    "comparison classes": columns.ClassShare,
    "elementwise": columns.Elementwise,
    "elementwise_documents": columns.ElementwiseDocument,
    "elementwise_channels": columns.ElementwiseChannel,
    "elementwise_tokens": columns.ElementwiseToken,
    "filler": columns.FillerChange,
    "positions": columns.FillerAlong,
    "attention": columns.AttentionKept,
    "tokens": columns.TokenChange,
    "sweep": SweepRow,
    "sweep_seeds": SeedRow,
    "allocation": PlaceRow,
    "uniform": PlaceRow,
    "allocation_costs": CostRow,
    "allocation_curve": CurveRow,
    "whatif": WhatIfRow,
    "timeline": TimelineRow,
    "drift": DriftRow,
}


def documented() -> set[tuple[str, str]]:
    """Every row of the page's tables of columns, without Markdown."""
    page = PAGE.read_text(encoding="utf-8")
    rows = set()
    for table in re.findall(r"\| column \| meaning \|\n\|---\|---\|\n((?:\|.*\n?)+)", page):
        for names, text in re.findall(r"^\| (`.*?) \| (.*) \|$", table, re.MULTILINE):
            plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text).replace("`", "")
            rows.add((", ".join(re.findall(r"`([^`]+)`", names)), plain))
    return rows


def test_the_page_says_the_same() -> None:
    stated = {row for table in MEANINGS.values() for row in table.items()}
    assert stated == documented()


@pytest.mark.parametrize("table", TABLES)
def test_every_column_has_a_meaning(table: str) -> None:
    names = names_of(TABLES[table])
    found = [one for group, _ in meanings_of(table, names) for one in group.split(", ")]
    assert sorted(found) == sorted(names)


def test_unknown_columns_and_tables_have_none() -> None:
    assert meanings_of("stats", ["std", "mine"]) == [
        ("std", "of x; population std, excess kurtosis")
    ]
    assert meanings_of("mine", ["layer"]) == [("layer", "the layer's index; the site")]
