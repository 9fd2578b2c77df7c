"""The sections of a filler study."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from support.html_pages import (
    EVIL,
    curves,
    elements,
    strict,
    texts_of,
)
from support.synthetic_comparisons import make

from distviz.reports.filler import filler_part
from distviz.reports.page import Page
from distviz.reports.rendering import render
from distviz.results.filler_study import QUANTITIES, FillerStudy

PLACE = {"layer": 0, "site": "act", "phase": "before", "module": EVIL, "stack": "decoder"}


def test_a_filler_study(tmp_path: Path) -> None:
    runs = {count: make(count).run for count in (0, 5, 10)}
    tested = {"ci_low": -0.3, "ci_high": -0.1, "p_value": 0.01, "p_adjusted": 0.02}
    tested |= {"effect_size": -1.0, "documents": 10, "paired": True, "documents_a": 10}
    tested |= {"documents_b": 10, "zero_variance": 0, "approximate": False, "reason": ""}
    rows = [
        {"filler_count": count, **PLACE, "layer": layer, "quantity": quantity}
        | {"estimate": -0.01 * count - 0.1 * layer}
        | tested
        for count in (5, 10)
        for layer in range(3)
        for quantity in QUANTITIES
    ]
    kept = [
        {"filler_count": count, "layer": layer, "attention_kept": 1 / (1 + count), "prompts": 10}
        | {"module": "m"}
        for count in runs
        for layer in range(3)
    ]
    manifest = {"schema_version": 3, "kind": "filler", "filler": EVIL, "counts": [0, 5, 10]}
    manifest |= {"filler_kind": "repeat", "filler_position": "between", "warnings": []}
    manifest |= {"model": {"name": "synthetic", "layers": 3}, "text": {"documents": 10}}
    tables = (pd.DataFrame(rows), pd.DataFrame(kept), pd.DataFrame(), pd.DataFrame())
    study = FillerStudy(manifest, runs, *tables)
    text = render(Page("f", [filler_part(study)]))
    strict(text)
    assert not elements(text, "img")
    headings = [texts_of(one) for one in elements(text, "h2")]
    assert "10 filler tokens against none, by layer" in headings
    assert "By number of filler tokens, layer 2, which changes most" in headings
    values = curves(text)["variance, log ratio"]["data"]["values"]
    assert [(row["place"], row["significant"]) for row in values] == [(5, True), (10, True)]
    assert [row["estimate"] for row in values] == pytest.approx([-0.25, -0.3])
