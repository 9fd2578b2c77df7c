"""Axes of reports in a real browser: no two labels of an axis are equal, in any kind of report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from support.browsers import Opened
from support.synthetic_comparisons import make
from support.synthetic_fillers import study
from support.synthetic_runs import silu_run, with_tables

from distviz.plots import LOSS
from distviz.reports import charts, write_page
from distviz.reports.comparison import comparison_part
from distviz.reports.filler import filler_part
from distviz.reports.page import Chart, Page, Part, Section
from distviz.reports.run import run_part
from distviz.reports.sweep import sweep_part
from distviz.reports.whatif import whatif_part
from distviz.results.sweep import NAMED, SWEEP_QUANTITIES, Sweep
from distviz.studies.comparison import compare_runs
from distviz.studies.whatif import evaluate_whatif, parse_whatif

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


def compared() -> Part:
    return comparison_part(compare_runs(make(1).run, make(2, scale=1.0001).run))


def swept() -> Part:
    base = dict.fromkeys([*NAMED, "seeds", *SWEEP_QUANTITIES], np.nan)
    base |= {"redistribution": "arm", "layers": "0", "mode": "replace", "preset": "", "seeds": 1}
    rows = [
        base | {"c": c, "p1": p1, "kl": c**4 * p1 / 1e6, "near_zero_removed": c / 4e3}
        | {"loss_before": 2.0, "loss_after": 2.0 + c / 10, "fraction_moved": c / 3}
        for c in (0.01, 0.2, 0.4)
        for p1 in (75.0, 99.5)
    ]  # fmt: skip
    manifest = {"schema_version": 3, "kind": "sweep", "budget_kl": 0.016, "by_layer": False}
    return sweep_part(Sweep(manifest, pd.DataFrame(rows), pd.DataFrame(rows)))


KINDS: dict[str, Callable[[], Part]] = {
    "run": lambda: run_part(with_tables(silu_run().run)),
    "comparison": compared,
    "filler": lambda: filler_part(study()),
    "sweep": swept,
    "whatif": lambda: whatif_part(evaluate_whatif(silu_run().run, parse_whatif())),
}
RANGES = {
    "tiny": (1e-6, 3e-6),
    "large": (1e5, 1e6),
    "decades": (1e-6, 1e6),
    "from zero": (0, 1e-6),
    "zero and decades": (0, 1e-4, 1e3),
    "both signs": (-1e6, 1e-6),
    "near one": (0.99991, 0.99993),
    "constant": (0.1, 0.1),
    "nothing": (0, 0),
    "negative": (-3e-5, -1e-5),
}


def artificial() -> Part:
    """Every kind of chart with values of every size."""
    found = []
    for name, values in RANGES.items():
        rows = [{"place": layer, "v": value} for layer, value in enumerate(values)]
        for share in (True, False):
            spec = charts.by_depth(rows, {"v": ("v", "$ink")}, share=share)
            found.append(Chart(f"{name}, {share}", spec))
        low, high = values[0], values[-1]
        ends = {"estimate": high, "low": low, "high": high, "p": 0.1, "significant": False}
        found.append(Chart(f"{name}, ends", charts.intervals([{"place": 0, **ends}], "$ink")))
        cells = [
            {"p1": n, "band": "b", "value": value, "name": name, "chosen": False}
            for n, value in enumerate(values)
        ]
        heat = charts.heatmap(cells, name, "share", x="p1", y="band", colors=LOSS)
        found.append(Chart(f"{name}, cells", heat))
        costs = [
            {"kl": abs(value), "removed": value, "name": name, "loss": 0.0}
            | {"front": True, "chosen": False}
            for value in values
        ]
        found.append(Chart(f"{name}, costs", charts.trade_off(costs, 1e-3)))
        shares = [
            {"name": str(n), "series": "before", "value": abs(value), "tokens": 1}
            for n, value in enumerate(values)
        ]
        found.append(Chart(f"{name}, shares", charts.class_shares(shares, {"before": "$ink"})))
    return Part("sizes", "", "", [Section("all", [*found], grid=True)])


_LABELS = """() => [...document.querySelectorAll(".plot")].flatMap(plot => {
  const title = plot.getAttribute("aria-label");
  const groups = plot.querySelectorAll(".role-axis-label, .role-legend-label");
  const shown = one => one.textContent && one.style.opacity !== "0"
    && one.getAttribute("opacity") !== "0";
  return [...groups].map(group => [
    title, [...group.querySelectorAll("text")].filter(shown).map(one => one.textContent)]);
})"""


def check_labels(opened: Opened) -> int:
    """Fail where two labels of an axis are equal or one is cut, and return their number."""
    opened.tab.locator("details.fold").evaluate_all("all => all.forEach(x => { x.open = true })")
    opened.tab.wait_for_function(
        "() => [...document.querySelectorAll('.plot')].every(one => one.querySelector('svg'))"
    )
    found = opened.tab.evaluate(_LABELS)
    repeated = [(title, texts) for title, texts in found if len(set(texts)) < len(texts)]
    assert repeated == []
    long = [(title, texts) for title, texts in found for text in texts if "999999" in text]
    assert long == []
    return len(found)


@pytest.mark.parametrize("kind", KINDS)
def test_no_label_is_repeated(browser: Browser, tmp_path: Path, kind: str) -> None:
    page = Page(kind, [KINDS[kind]()])
    opened = Opened(browser, write_page(page, tmp_path / "report.html"))
    assert check_labels(opened) > 5
    assert opened.logged == []
    opened.context.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_values_of_every_size(browser: Browser, tmp_path: Path, width: int) -> None:
    file = write_page(Page("sizes", [artificial()]), tmp_path / "report.html")
    opened = Opened(browser, file, viewport={"width": width, "height": 900})
    assert check_labels(opened) > 100
    assert opened.logged == []
    shown: dict[str, set[str]] = {}
    for title, texts in opened.tab.evaluate(_LABELS):
        shown.setdefault(title, set()).update(texts)
    assert shown["decades, False"] & {"10⁻⁶", "10⁻⁵", "10⁶"}
    assert shown["decades, True"] & {"0.0001 %", "0.01 %", "1 %", "100 %", "10,000 %"}
    opened.context.close()
