"""A run without a change has one phase, which nothing that shows it calls before."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from matplotlib.text import Text
from support.html_pages import NAMESPACE, browsers, curves, parsed
from support.synthetic_comparisons import make
from support.synthetic_runs import silu_run
from support.terminal import printed

from distviz import plots
from distviz.cli.views import run as run_view
from distviz.cli.views import whatif as whatif_view
from distviz.reports.comparison import comparison_part
from distviz.reports.overlay import overlay_part
from distviz.reports.page import Page
from distviz.reports.rendering import render
from distviz.reports.run import run_part
from distviz.reports.whatif import whatif_part
from distviz.results import Comparison, Run, WhatIf
from distviz.studies import evaluate_whatif
from distviz.studies.comparison import compare_runs
from distviz.studies.whatif import parse_whatif

_READ = ("title", "aria-label", "placeholder")
_NOT_A_PHASE = "of those that were not before"


@pytest.fixture(scope="module")
def run() -> Run:
    return make(1, effect={"loss_before": 2.0, "positions": 100}).run


@pytest.fixture(scope="module")
def whatif(run: Run) -> WhatIf:
    return evaluate_whatif(run, parse_whatif(thresholds="0.1"))


@pytest.fixture(scope="module")
def compared(run: Run) -> Comparison:
    return compare_runs(run, make(2, scale=1.5).run)


def said(text: str) -> list[str]:
    lines = text.replace(_NOT_A_PHASE, "").splitlines()
    return [line for line in lines if re.search(r"\bbefore\b", line)]


def read_of(page: str) -> str:
    """What a reader sees of a page without its charts, and what a screen reader says."""
    found = []
    for element in parsed(page).iter():
        if element.tag not in (f"{NAMESPACE}script", f"{NAMESPACE}style"):
            found += [element.text or "", *(element.get(name, "") for name in _READ)]
        found.append(element.tail or "")
    return "\n".join(found)


def titles_of(spec: Any) -> Iterator[str]:
    """Titles and the entries of legends of a chart."""
    if isinstance(spec, list):
        for one in spec:
            yield from titles_of(one)
    elif isinstance(spec, dict):
        if isinstance(spec.get("title"), str):
            yield spec["title"]
        if spec.get("legend"):
            yield from map(str, spec.get("scale", {}).get("domain", []))
        for name, one in spec.items():
            if name != "data":
                yield from titles_of(one)


def shown_by_browsers(page: str) -> Iterator[str]:
    for data in browsers(page):
        for frame in (frame for frames in data["groups"].values() for frame in frames):
            yield frame["label"]
            yield frame["note"]
            yield from (text for line in frame["numbers"] for text in line)
            for views in frame["views"].values():
                for view in views.values():
                    yield from view["outside"]
                    yield from (panel["title"] for panel in view["panels"])


def test_pages(run: Run, whatif: WhatIf, compared: Comparison) -> None:
    parts = [run_part(run), whatif_part(whatif), comparison_part(compared)]
    page = render(Page("x", [*parts, overlay_part({"one": run, "two": run})]))
    assert said(read_of(page)) == []
    assert said("\n".join(shown_by_browsers(page))) == []
    assert said("\n".join(titles_of(curves(page)))) == []
    changed = render(Page("x", [run_part(silu_run().run)]))
    assert said(read_of(changed))
    assert said("\n".join(shown_by_browsers(changed)))
    assert said("\n".join(titles_of(curves(changed))))


def test_terminal(run: Run, whatif: WhatIf) -> None:
    shown = [
        printed(run_view.summary, run, 200),
        printed(lambda run, console: run_view.layer_details(run, run, console), run, 200),
        printed(whatif_view.summary, whatif, 200),
    ]
    assert "near-0" in shown[0]
    assert "near-0" in shown[1]
    assert said("\n".join(shown)) == []
    assert said(printed(run_view.summary, silu_run().run, 200))


def test_figures(run: Run, whatif: WhatIf) -> None:
    kinds = set()
    for result in (run, whatif):
        for draw in plots.figure_specs(result).values():
            kinds.add(draw.kind)
            texts = [text.get_text() for text in draw().findobj(Text)]
            assert said("\n".join(map(str, texts))) == []
    assert kinds == {"paired", "overview", "classes", "channels", "formats", "zeros"}


def test_notebooks(run: Run, whatif: WhatIf, compared: Comparison) -> None:
    for result in (run, whatif, compared):
        assert said(read_of(result._repr_html_())) == []
    assert said(read_of(silu_run().run._repr_html_()))


def test_tables_that_scripts_read_keep_the_phase(run: Run, whatif: WhatIf) -> None:
    for table in (run.stats(), run.classes(), whatif.table):
        assert set(table["phase"]) == {"before"}
