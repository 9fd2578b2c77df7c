"""Figures for the columns of a paper: every kind, at both widths, readable at its own size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support import synthetic_fillers
from support.artists import shown_text
from support.legibility import problems
from support.synthetic_comparisons import make
from support.synthetic_runs import place, run_of, silu_run
from support.synthetic_sweeps import sweep_of

from distviz import plots
from distviz.plots import figures as drawings
from distviz.studies import comparison as comparing
from distviz.studies import whatif as questions

if TYPE_CHECKING:
    from distviz.results.result import Result

INCHES = {"single": 3.25, "double": 6.75}
LONG = "organisation/a-model-with-quite-a-long-name-70B-Instruct-v0.2"


def _wide_range() -> Any:
    """Large counts, a far tail, and two ARM layers, so that every part of the figure is there."""
    rng = np.random.default_rng(2)
    arriving = np.concatenate([rng.normal(size=20_000), [900.0, -700.0]]).astype(np.float32)
    leaving = arriving[np.abs(arriving) < 0.05]
    values = {}
    for layer in range(30):
        values[place(layer, "before")] = arriving * np.float32(1 + layer)
        values[place(layer, "after")] = np.where(np.abs(arriving) < 0.05, arriving + 1, arriving)
    values[place(1, "arm_input")] = arriving
    values[place(1, "moved_before")] = leaving
    values[place(1, "moved_after")] = leaving + np.float32(1)
    arm = {"c": 0.13, "p1": 99.5, "layers": [1], "fraction": None, "percentile_of": "magnitude"}
    return run_of(values, model={"name": LONG, "activation": "silu", "layers": 30}, arm=arm)


def _results() -> dict[str, Result]:
    first, second = make(1).run, make(2, scale=1.3, tokens=8, model={"name": LONG, "layers": 3}).run
    return {
        "run": silu_run().run,
        "wide": _wide_range(),
        "classes": first,
        "comparison": comparing.compare_runs(first, second),
        "depths": comparing.compare_runs(make(3, layers=5).run, first),
        "filler": synthetic_fillers.study(),
        "sweep": sweep_of(),
        "by layer": sweep_of(by_layer=True),
        "whatif": questions.evaluate_whatif(silu_run().run, questions.parse_whatif(), "run"),
    }


def _figures() -> list[tuple[str, drawings.FigureSpec]]:
    found = []
    for result_name, result in _results().items():
        drawn = drawings.figure_specs(result)
        for name, drawing in list(drawn.items())[:2] + list(drawn.items())[3:]:
            if "_0" not in name or not name.startswith("layer_0") or name[:9] <= "layer_001":
                found.append((f"{result_name}: {name}", drawing))
    return found


FIGURES = _figures()
KINDS = {"paired", "overview", "classes", "compared", "filler", "positions", "by-count"} | {
    "sweep", "formats", "zeros",
}  # fmt: skip


def test_every_kind_is_tried() -> None:
    assert {drawing.kind for _, drawing in FIGURES} == KINDS


@pytest.mark.parametrize("width", ["single", "double"])
@pytest.mark.parametrize("drawing", [d for _, d in FIGURES], ids=[name for name, _ in FIGURES])
def test_nothing_is_cut_small_or_on_top_of_something(
    drawing: drawings.FigureSpec, width: str
) -> None:
    figure = drawing(width)
    assert figure.get_figwidth() == INCHES[width]
    assert figure.get_figheight() < 10
    assert problems(figure) == []


@pytest.mark.parametrize("log", [True, False])
def test_both_scales_fit(log: bool) -> None:
    for width in INCHES:
        assert problems(plots.paired(_wide_range(), 1, log=log, width=width)) == []


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
