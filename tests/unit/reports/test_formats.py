"""The section of measured formats."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
from support.synthetic_formats import with_formats

from distviz.reports.formats import format_sections
from distviz.reports.page import Chart, DataTable


def test_maps_and_the_table() -> None:
    (section,) = format_sections(with_formats())
    assert section.title == "Measured number formats"
    *charts, table = section.blocks
    assert all(isinstance(chart, Chart) for chart in charts)
    assert len(charts) == 3
    assert isinstance(table, DataTable)
    assert len(table.rows) == 12


def test_a_run_without_formats_has_no_section() -> None:
    assert format_sections(replace(with_formats(), formats=pd.DataFrame())) == []
