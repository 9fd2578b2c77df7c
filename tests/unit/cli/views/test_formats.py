"""The table of measured formats on the terminal."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
from rich.console import Console
from support.synthetic_formats import with_formats

from distviz.cli.views.formats import format_lines


def test_median_and_worst_layer() -> None:
    console = Console(width=80, record=True)
    for line in format_lines(with_formats(), console):
        console.print(line)
    text = console.export_text()
    cells = next(line.split() for line in text.splitlines() if "int8-token" in line)
    assert cells == ["int8-token", "21.5", "20.0", "0", "20.5", "19.0", "0", "15.0%"]
    assert max(map(len, text.splitlines())) <= 80


def test_nothing_without_formats() -> None:
    assert format_lines(replace(with_formats(), formats=pd.DataFrame())) == []
