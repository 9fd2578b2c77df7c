"""The sections of a comparison."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.html_pages import (
    browsers,
    elements,
    strict,
    texts_of,
)
from support.synthetic_comparisons import make
from support.synthetic_elementwise import comparison_of, values_of

from distviz.reports import page_of
from distviz.reports.page import Drawing
from distviz.reports.rendering import render
from distviz.reports.run import layer_section
from distviz.studies.comparison import compare


def test_a_comparison(tmp_path: Path) -> None:
    a, b = make(0), make(1, scale=1.4)
    compared = compare(a.run, b.run)
    text = render(page_of([compared.save(tmp_path / "c")]))
    strict(text)
    (data,) = browsers(text)
    (frames,) = data["groups"].values()
    columns = frames[0]["views"]["linear"]["all"]["columns"]
    assert sum(columns["A"]) == pytest.approx(1, abs=0.02)
    assert columns["A"] != columns["B"]
    (verdict,) = [texts_of(p) for p in elements(text, "p") if p.get("class") == "verdict"]
    assert verdict.lower() == str(compared.manifest["verdict"]).lower()


def test_a_comparison_marks_the_compared_sites(tmp_path: Path) -> None:
    run = make(0).run
    marked = [
        [text for text, kind in block.pieces if kind == "seen"]
        for block in layer_section(run, ["gate"]).blocks
        if isinstance(block, Drawing)
    ]
    assert marked == [["[gate]"]]
    page = render(page_of([compare(run, make(1).run).save(tmp_path / "c")]))
    assert "Observed: act." in page


def test_a_comparison_value_by_value_begins_with_its_verdict(tmp_path: Path) -> None:
    compared = comparison_of(values_of(3))
    text = render(page_of([compared.save(tmp_path / "c")]))
    (verdict,) = [texts_of(p) for p in elements(text, "p") if p.get("class") == "verdict"]
    assert verdict.startswith(f"Value by value: {compared.manifest['elementwise']['verdict']}")
    assert str(compared.manifest["verdict"])[1:] in verdict
