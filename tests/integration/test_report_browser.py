"""The report in a real browser: no error, no request, and everything that moves does."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from support.browsers import Opened
from support.synthetic_comparisons import make
from support.synthetic_elementwise import comparison_of, values_of
from support.synthetic_runs import place, run_of, silu_run
from support.synthetic_trainings import activations, training

from distviz.reports import write_page
from distviz.reports.comparison import comparison_part
from distviz.reports.elementwise import elementwise_section
from distviz.reports.overlay import overlay_part
from distviz.reports.page import Page, Part
from distviz.reports.run import run_part
from distviz.reports.training import training_part
from distviz.results.run import Run
from distviz.studies.comparison import compare_runs

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from playwright.sync_api import Page as Tab

pytestmark = pytest.mark.browser
EVIL = "</script><img src=x onerror=alert(1)><script>alert(2)</script>"
IMAGE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def run() -> Run:
    made = silu_run().run
    manifest = made.manifest | {
        "model": made.manifest["model"] | {"name": IMAGE, "source": EVIL},
        "warnings": [EVIL],
        "settings": {"model": EVIL},
    }
    sketches = {key._replace(module=f"{key.layer} {EVIL}"): s for key, s in made.sketches.items()}
    return Run(manifest, sketches)


@pytest.fixture(scope="module")
def file(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    page = Page(IMAGE, [run_part(run)])
    return write_page(page, tmp_path_factory.mktemp("browser") / "report.html")


@pytest.fixture
def opened(browser: Browser, file: Path) -> Iterator[Opened]:
    made = Opened(browser, file, viewport={"width": 1280, "height": 900})
    yield made
    assert made.logged == []
    assert made.asked == [file.as_uri()]
    made.context.close()


def drawing(tab: Tab) -> str:
    return "".join(tab.locator(".browser svg").evaluate_all("all => all.map(one => one.outerHTML)"))


def settle(tab: Tab, before: str) -> str:
    tab.wait_for_function(
        "old => [...document.querySelectorAll('.browser svg')].map(s => s.outerHTML).join('') "
        "!== old",
        arg=before,
    )
    tab.wait_for_timeout(150)
    return drawing(tab)


def test_opens_quietly_and_draws_everything(opened: Opened) -> None:
    tab = opened.tab
    tab.locator("details.fold").evaluate_all("all => all.forEach(one => { one.open = true })")
    tab.wait_for_function(
        "() => [...document.querySelectorAll('.plot')].every(one => one.querySelector('svg'))"
    )
    assert tab.locator(".plot svg").count() > 20
    small = tab.locator(".plot svg").evaluate_all(
        "all => all.filter(one => one.getBoundingClientRect().width < 150).length"
    )
    assert small == 0


def test_foreign_text_is_text(opened: Opened) -> None:
    tab = opened.tab
    assert tab.locator("img").count() == 0
    assert IMAGE in tab.locator("h1").inner_text()
    assert tab.locator("script:not([type])").count() == 2
    assert EVIL in tab.locator("p.warning").inner_text()
    tab.locator(".browser .plot").first.hover(position={"x": 600, "y": 100})
    assert EVIL in tab.locator(".browser .note").inner_text()


def test_slider_buttons_and_arrow_keys_change_the_picture(opened: Opened) -> None:
    tab = opened.tab
    where = tab.locator(".where")
    assert where.inner_text() == "layer 0 (first)"
    first = drawing(tab)
    tab.locator(".layer").focus()
    tab.keyboard.press("ArrowRight")
    second = settle(tab, first)
    assert where.inner_text() == "layer 1"
    tab.locator(".forth").click()
    third = settle(tab, second)
    assert where.inner_text() == "layer 2 (last)"
    tab.keyboard.press("ArrowRight")  # there is no further layer
    assert where.inner_text() == "layer 2 (last)"
    tab.evaluate("document.activeElement.blur()")
    tab.keyboard.press("ArrowLeft")
    settle(tab, third)
    assert where.inner_text() == "layer 1"
    tab.locator(".browser").focus()
    tab.keyboard.press("ArrowLeft")
    assert where.inner_text() == "layer 0 (first)"
    assert tab.locator(".numbers tbody tr").count() == 6


_AXES = """() => [...document.querySelectorAll(".browser .plot")].map(plot => {
  const view = plot.view.view;
  const scale = name => {
    const one = view.scale(name);
    return [one.type, one.constant ? one.constant() : null, one.domain()];
  };
  const texts = plot.querySelectorAll(".role-axis-label text, .role-axis-title text");
  return [scale("x"), scale("y"), [...texts].map(one => one.textContent)];
})"""


def axes(tab: Tab) -> Any:
    """The scales of every panel, with the labels and titles of their axes."""
    return tab.evaluate(_AXES)


def axis_labels(tab: Tab) -> list[str]:
    """The labels of both axes of the first panel."""
    return tab.locator(".browser .plot").first.locator(".role-axis-label text").all_text_contents()


def choice(tab: Tab, group: str, option: str) -> Any:
    return tab.get_by_role("group", name=group).get_by_label(option)


@pytest.fixture(scope="module", params=["run", "comparison"])
def unlike(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of layers that differ by a factor of a thousand, at two sites; or a comparison."""
    rng = np.random.default_rng(5)
    sketches = {}
    for layer, size in enumerate((0.02, 1.0, 20.0)):
        for site in ("act", "product"):
            values = rng.standard_t(5, 6000) * size
            for phase, factor in (("before", 1.0), ("after", 1.1)):
                key = place(layer, phase)._replace(site=site)
                sketches[key] = (values * factor).astype("float32")
    made = run_of(sketches, dtype="float32")
    part = run_part(made)
    if request.param == "comparison":
        part = comparison_part(compare_runs(make(1).run, make(2, scale=3.0).run))
    return write_page(Page("x", [part]), tmp_path_factory.mktemp("unlike") / "report.html")


def test_only_the_reader_changes_axes(browser: Browser, unlike: Path) -> None:
    opened = Opened(browser, unlike)
    tab = opened.tab
    seen = []
    for scale in ("symlog", "linear", "symlog"):
        choice(tab, "values", scale).check()
        tab.wait_for_timeout(300)
        shown = drawing(tab)
        seen.append(axes(tab))
        for panel in seen[-1]:
            assert panel[0][0] == scale
            assert any("(symlog)" in text for text in panel[2]) == (scale == "symlog")
        for button in (".forth", ".forth", ".back"):
            tab.locator(button).click()
            shown = settle(tab, shown)
            assert axes(tab) == seen[-1]
        tab.locator(".back").click()
        settle(tab, shown)
    assert seen[0] == seen[2]
    assert seen[0] != seen[1]
    choice(tab, "axes", "this layer").check()
    tab.wait_for_timeout(300)
    first = axes(tab)
    assert [panel[0][0] for panel in first] == ["symlog", "symlog"]
    tab.locator(".forth").click()
    tab.wait_for_timeout(300)
    assert axes(tab) != first
    if tab.locator(".group").count():
        tab.locator(".group").select_option("product")
        tab.wait_for_timeout(300)
    assert choice(tab, "values", "symlog").is_checked()
    assert choice(tab, "axes", "this layer").is_checked()
    assert opened.logged == []
    opened.context.close()


def test_lines_below_the_charts_follow_the_axes(browser: Browser, unlike: Path) -> None:
    opened = Opened(browser, unlike)
    tab = opened.tab
    lines = tab.locator(".browser .outside p")
    choice(tab, "values", "symlog").check()
    assert all("min" in text and "max" in text for text in lines.all_inner_texts())
    choice(tab, "values", "linear").check()
    choice(tab, "axes", "this layer").check()
    texts = lines.all_inner_texts()
    assert len(texts) == 2, texts
    assert any("the axis" in text and "of Σx²" in text for text in texts)
    opened.context.close()


def test_axes_change_only_where_the_reader_asks(opened: Opened) -> None:
    tab = opened.tab
    first, fixed = drawing(tab), axis_labels(tab)
    tab.locator(".forth").click()
    second = settle(tab, first)
    assert axis_labels(tab) == fixed
    tab.get_by_label("this layer").focus()
    tab.keyboard.press("Space")
    own = settle(tab, second)
    of_the_second = axis_labels(tab)
    assert of_the_second != fixed
    tab.locator(".forth").click()
    third = settle(tab, own)
    assert tab.get_by_label("this layer").is_checked()
    assert axis_labels(tab) != of_the_second
    tab.get_by_label("logarithmic").check()
    fourth = settle(tab, third)
    assert "values per bin (log)" in fourth
    tab.locator(".back").click()
    settle(tab, fourth)
    assert tab.get_by_label("logarithmic").is_checked()
    choice(tab, "heights", "linear").check()
    tab.get_by_label("all layers").check()
    tab.wait_for_timeout(400)
    assert axis_labels(tab) == fixed


def stats_table(tab: Tab) -> Any:
    return tab.locator(".tabled[data-name=stats]")


def column(tab: Tab, name: str) -> list[float]:
    table = stats_table(tab)
    heads = [text.split()[0] for text in table.locator("thead th").all_inner_texts()]
    cells = table.locator(f"tbody tr:not([hidden]) td:nth-child({heads.index(name) + 1})")
    return cells.evaluate_all("all => all.map(one => Number(one.dataset.v ?? one.textContent))")


def test_sorting_sorts(opened: Opened, run: Run) -> None:
    expected = run.stats()["std"].to_numpy()
    head = stats_table(opened.tab).locator("thead th", has_text="std")
    np.testing.assert_array_equal(column(opened.tab, "std"), expected)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    np.testing.assert_array_equal(column(opened.tab, "std"), np.sort(expected))
    head.locator("button").focus()
    opened.tab.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    np.testing.assert_array_equal(column(opened.tab, "std"), np.sort(expected)[::-1])


def test_filter_filters_and_copies_copy(opened: Opened, run: Run) -> None:
    tab, table = opened.tab, stats_table(opened.tab)
    table.locator(".filter").fill("after act")
    stats = run.stats()
    wanted = stats[stats["phase"].isin(["after", "moved_after"])].reset_index(drop=True)
    assert len(column(tab, "std")) == len(wanted) == 4
    assert table.locator(".count").inner_text() == "4 of 8 rows"
    table.get_by_text("Copy as CSV").click()
    copied = tab.evaluate("navigator.clipboard.readText()")
    frame = pd.read_csv(io.StringIO(copied))
    shared = [name for name in frame if name in wanted]
    assert {"layer", "std", "near_zero", "module", "p99_9"} <= set(shared)
    pd.testing.assert_frame_equal(frame[shared], wanted[shared], check_dtype=False, rtol=0, atol=0)
    table.get_by_text("Copy as Markdown").click()
    lines = tab.evaluate("navigator.clipboard.readText()").splitlines()
    assert len(lines) == 2 + 4
    assert lines[0].startswith("| layer | site | phase |")
    assert "\\<img" in lines[2]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_hovering_names_both_phases(opened: Opened, run: Run) -> None:
    tab = opened.tab
    plot = tab.locator(".chart .plot").first
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    assert box is not None
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tip = tab.locator("#vg-tooltip-element.visible")
    tip.wait_for()
    text = tip.inner_text()
    stats = run.stats().set_index(["layer", "phase"])["near_zero"]
    for phase in ("before", "after"):
        assert f"{100 * stats[1, phase]:.2f}%" in text


def test_schemes(browser: Browser, file: Path) -> None:
    grounds = {}
    for scheme in ("light", "dark"):
        opened = Opened(browser, file, color_scheme=scheme)
        ground = "getComputedStyle(document.body).backgroundColor"
        label = "getComputedStyle(document.querySelector('.chart svg text')).fill"
        grounds[scheme] = opened.tab.evaluate(f"[{ground}, {label}]")
        opened.tab.locator("#scheme").click()
        opened.tab.wait_for_timeout(700)
        grounds[f"{scheme} toggled"] = opened.tab.evaluate(f"[{ground}, {label}]")
        assert opened.logged == []
        opened.context.close()
    assert grounds["light"] == grounds["dark toggled"]
    assert grounds["dark"] == grounds["light toggled"]
    assert grounds["light"][0] != grounds["dark"][0]
    assert grounds["light"][1] != grounds["dark"][1]


@pytest.mark.parametrize("width", [390, 1920])
def test_no_sideways_scrolling(browser: Browser, file: Path, width: int) -> None:
    opened = Opened(browser, file, viewport={"width": width, "height": 844})
    assert opened.tab.evaluate("document.documentElement.scrollWidth") <= width
    wide = opened.tab.locator(".plot svg").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect().right)"
    )
    assert max(wide) <= width
    opened.context.close()


def test_print_shows_facts_and_no_empty_charts(opened: Opened) -> None:
    tab = opened.tab
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    folds = tab.locator("details.fold")
    states = folds.evaluate_all("all => all.map(one => [one.open, !!one.querySelector('.chart')])")
    assert any(is_open for is_open, _ in states)
    assert all(is_open != has_charts for is_open, has_charts in states)


def test_without_script_the_numbers_are_there(browser: Browser, file: Path, run: Run) -> None:
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(file.as_uri())
    assert "need JavaScript" in tab.locator("noscript").inner_text()
    assert tab.locator(".tabled[data-name=stats] tbody tr").count() == len(run.stats())
    context.close()


@pytest.mark.parametrize("documents", [4, 12])
def test_a_comparison_opens_quietly(browser: Browser, tmp_path: Path, documents: int) -> None:
    """With few documents intervals are withheld, and nothing is drawn in their place."""
    runs = [make(seed, documents=documents, scale=seed).run for seed in (1, 2)]
    page = Page("compared", [comparison_part(compare_runs(*runs))])
    opened = Opened(browser, write_page(page, tmp_path / "report.html"))
    opened.tab.wait_for_function(
        "() => [...document.querySelectorAll('.plot')].every(one => one.querySelector('svg'))"
    )
    assert opened.logged == []
    opened.context.close()


def test_a_slider_of_steps_changes_the_histogram(browser: Browser, tmp_path: Path) -> None:
    page = Page("training", [training_part(training().training)])
    opened = Opened(browser, write_page(page, tmp_path / "report.html"))
    tab = opened.tab
    assert tab.locator(".browser label.one-of-many").inner_text() == "step"
    tab.select_option(".browser .group", "layer 3")
    before = drawing(tab)
    tab.locator(".browser").focus()
    tab.keyboard.press("ArrowRight")
    settle(tab, before)
    assert tab.locator(".browser .where").inner_text() == "step 10"
    numbers = tab.locator(".browser .numbers").first.inner_text()
    assert f"{activations(10, 3).size:,}" in numbers
    assert opened.logged == []
    opened.context.close()


def test_runs_are_shown_and_hidden_together(browser: Browser, tmp_path: Path, run: Run) -> None:
    page = Page("both", [overlay_part({IMAGE: run, "other": make(1, layers=5).run})])
    opened = Opened(browser, write_page(page, tmp_path / "report.html"))
    tab = opened.tab
    lines = "() => document.querySelectorAll('.plot .mark-line path').length"
    before = tab.evaluate(lines)
    tab.get_by_label("other").focus()
    tab.keyboard.press("Space")
    tab.wait_for_function(f"({lines})() < {before}")
    assert tab.locator("img").count() == 0
    tab.get_by_label("other").check()
    tab.wait_for_function(f"({lines})() === {before}")
    assert opened.logged == []
    opened.context.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_curve_is_hidden_with_its_intervals(
    browser: Browser, tmp_path: Path, width: int, scheme: Any
) -> None:
    found = comparison_of(values_of(4, ("act", "residual"), first=2), own=0.5)
    page = Page("x", [Part("x", "", "", list(elementwise_section(found)))])
    file = write_page(page, tmp_path / "report.html")
    opened = Opened(browser, file, viewport={"width": width, "height": 2000}, color_scheme=scheme)
    tab = opened.tab
    figure = tab.locator("figure", has_text="relative error").first
    bars = figure.locator(".mark-rule.role-mark[class*=interval] line")
    assert bars.count() == 4
    box = figure.locator(".choices input").first
    box.uncheck()
    tab.wait_for_timeout(300)
    assert bars.count() == 2
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.logged == []
    opened.context.close()
