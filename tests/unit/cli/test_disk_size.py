"""Bytes of the tables of a result, by the number of their rows."""

from __future__ import annotations

from dataclasses import replace

from distviz.cli.disk_size import RunSize, compared_tables, figures
from distviz.settings import RunSettings

SIZE = RunSize(
    is_wide=False, places=6, moved=0, whole=6, split=0, classes=4, groups=12, channels=600,
    documents=5, windows=9, tokens=700, plans=0,
)  # fmt: skip


def test_what_is_asked_for_is_counted() -> None:
    plain = SIZE.tables(RunSettings())
    assert SIZE.temporary(RunSettings()) == 0
    assert SIZE.tables(RunSettings(channels=True)) - plain == 11 * 600
    tokens = RunSettings(tokens=True)
    assert SIZE.tables(tokens) - plain == 28 * 700 * 6
    assert SIZE.temporary(tokens) == 36 * 700 * 6
    assert replace(SIZE, is_wide=True).tables(RunSettings()) > plain
    assert replace(SIZE, whole=0, split=6).tables(RunSettings()) > plain


def test_figures_and_comparisons() -> None:
    assert figures(RunSettings(figures=("png", "svg")), 6, 1, more=1) == 12 * 265_000
    assert figures(RunSettings(figures=()), 6, 1) == 0
    pairs = compared_tables(6, 16, 384, 0, 5)
    assert compared_tables(6, 16, 384, 24, 5) - pairs > 24 * 50 * 200
