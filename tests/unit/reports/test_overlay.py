"""Runs laid over one another: every curve has the numbers of its run, also of other layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.html_pages import elements, strict, texts_of
from support.synthetic_comparisons import make
from support.synthetic_runs import Synthetic, silu_run

from distviz.reports import page_of
from distviz.reports.overlay import overlay_part
from distviz.reports.page import Chart, Fold, Switch
from distviz.reports.rendering import render
from distviz.results.run import Run


def charts_of(part: Any) -> dict[tuple[str, str], dict[str, Any]]:
    found = {}
    for section in part.sections[1:]:
        folds = [block for block in section.blocks if isinstance(block, Fold)]
        blocks = [*section.blocks, *(one for fold in folds for one in fold.blocks)]
        for block in blocks:
            if isinstance(block, Chart):
                found[section.title.removeprefix("By depth: "), block.title] = block.spec
    return found


def test_every_curve_has_the_numbers_of_its_run(synthetic: Synthetic) -> None:
    runs: dict[str, Run] = {
        "silu": synthetic.run,
        "deep": make(1, layers=5).run,
        "other": make(2, layers=2, site="product").run,
    }
    part = overlay_part(runs)
    (switch,) = [block for block in part.sections[0].blocks if isinstance(block, Switch)]
    titles = {choice.key: choice.title for choice in switch.choices}
    assert sorted(titles.values()) == [
        *("deep", "other"),
        *("silu, after", "silu, before"),
    ]
    assert len({(choice.color, choice.dash) for choice in switch.choices}) == 4
    shown = charts_of(part)
    for site in ("act", "product"):
        for title, name in (("standard deviation", "std"), ("near-zero share", "near_zero")):
            rows = shown[site, title]["data"]["values"]
            drawn = {
                (titles[key], row["place"]): value
                for row in rows
                for key, value in row.items()
                if key in titles
            }
            stated = {
                (
                    f"{run_name}, {row.phase}" if run_name == "silu" else run_name,
                    row.layer,
                ): getattr(row, name)
                for run_name, run in runs.items()
                for row in run.stats().itertuples()
                if row.site == site and row.phase in {"before", "after"}
            }
            assert drawn == pytest.approx(stated, rel=1e-4)
    assert ("act", "kurtosis") in shown


def test_a_report_of_runs_begins_with_all_of_them(tmp_path: Path) -> None:
    for name in ("one", "two"):
        silu_run().run.save(tmp_path / name / "r")
    folders = [tmp_path / name / "r" for name in ("one", "two")]
    page = page_of(folders)
    assert [part.title for part in page.parts] == [
        "2 runs together",
        *["synthetic · r", "synthetic · r"],
    ]
    text = render(page)
    strict(text)
    labels = [texts_of(one) for one in elements(text, "label")]
    assert {"r, before", "r (2), before"} <= set(labels)
    assert len(page_of(folders[:1]).parts) == 1
