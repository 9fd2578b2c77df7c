"""Figures for the columns of a paper: every kind, at both widths, readable at its own size."""

from __future__ import annotations

import pytest
from support import synthetic_fillers
from support.artists import shown_text
from support.figure_checks import problems
from support.figure_results import RESULTS, result_of
from support.synthetic_runs import silu_run
from support.synthetic_sweeps import sweep_of

from distviz import plots
from distviz.plots.figures import figure_specs
from distviz.results.run import Run

INCHES = {"single": 3.25, "double": 6.75}
LEAST_POINTS = {None: 6.5, "single": 7.0, "double": 7.0}
FAST = {("run", "single"), ("comparison", "single"), ("several", "double"), ("one layer", "single")}
FAST |= {("causal filler", "single"), ("sweep", "single"), ("by layer", "double")}
FAST |= {("elementwise", "single"), ("channels", "single"), ("few channels", None)}
FAST |= {("training", "single"), ("training gelu", "single"), ("training long", None)}
FAST |= {("whatif", None), ("whatif gaps", "single"), ("no ARM", None)}
"""What is checked at every run of the tests; the rest is extended."""
KINDS = {"paired", "overview", "classes", "compared", "filler", "positions", "by-count"} | {
    "sweep", "formats", "zeros", "elementwise", "channels", "allocation", "curves", "steps",
}  # fmt: skip


def test_every_kind_is_tried() -> None:
    found = {spec.kind for name in RESULTS for spec in figure_specs(result_of(name)).values()}
    assert found == KINDS


@pytest.mark.parametrize(
    ("name", "width"),
    [
        pytest.param(
            name, width, marks=() if (name, width) in FAST else pytest.mark.extended,
            id=f"{name} {width or 'screen'}",
        )
        for name in RESULTS
        for width in LEAST_POINTS
    ],
)  # fmt: skip
def test_every_figure_can_be_read_at_its_own_size(name: str, width: str | None) -> None:
    """Nothing cut, small, on top of something, repeated, or half empty."""
    found = []
    for file, spec in figure_specs(result_of(name)).items():
        if file.startswith("layer_") and file[:9] > "layer_001":
            continue
        figure = spec(width)
        assert width is None or figure.get_figwidth() == INCHES[width]
        assert width is None or figure.get_figheight() < 10
        found += [f"{file}: {what}" for what in problems(figure, LEAST_POINTS[width])]
    assert found == []


@pytest.mark.parametrize("log", [True, False])
def test_both_scales_fit(log: bool) -> None:
    for width in INCHES:
        assert problems(plots.paired(_several(), 1, log=log, width=width)) == []


def _several() -> Run:
    run = result_of("several")
    assert isinstance(run, Run)
    return run


def test_the_check_itself_sees_what_cannot_be_read() -> None:
    figure = plots.overview(silu_run().run, width="single")
    assert problems(figure) == []
    figure.text(0.9, 0.5, "a long word beyond the edge")
    figure.texts[0].set_fontsize(6.5)
    figure.axes[0].set_title("another title", loc="left", pad=20)
    found = " ".join(problems(figure))
    assert "'a long word beyond the edge' is cut" in found
    assert "6.5 pt" in found
    assert "lies on" in found


def test_titles_and_axes_say_what_was_measured_and_how_much() -> None:
    made = silu_run().run
    paired = shown_text(plots.paired(made, 2, width="single"))
    assert "synthetic · layer 2 (last) · act · 24,576 values" in paired
    assert "values per bin" in paired
    assert "layer (256 tokens in 4 documents)" in shown_text(plots.overview(made, width="double"))
    study = synthetic_fillers.study()
    shown = shown_text(plots.filler_by_layer(study, 16, "act", width="single"))
    assert "layer (means over 12 prompts)" in shown
    assert "site act" in shown
    swept = shown_text(plots.sweep_overview(sweep_of(), "tiny", width="single"))
    assert "tiny · sweep · act" in swept
    assert "2,048 tokens in 7 documents" in swept


def test_one_figure_at_every_width_holds_the_same_data() -> None:
    for width in (None, "single", "double"):
        figure = plots.overview(silu_run().run, width=width)
        lines = {line.get_gid(): line for axes in figure.axes for line in axes.get_lines()}
        assert list(lines["std-before"].get_xdata()) == [0, 1, 2]
