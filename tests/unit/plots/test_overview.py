"""Statistics by depth of a run: the lines against the raw values."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support.artists import artists, line_data, shown_text
from support.figure_checks import problems
from support.figure_results import result_of
from support.golden_images import assert_golden
from support.synthetic_extremes import PLANTED, planted
from support.synthetic_runs import Synthetic, place, run_of

from distviz import plots
from distviz.errors import RequestError
from distviz.plots.figures import figure_specs

if TYPE_CHECKING:
    from distviz.results.run import Run


def test_the_overview_holds_every_layer(synthetic: Synthetic) -> None:
    figure = plots.overview(synthetic.run)
    for phase in ("before", "after"):
        layers, std = line_data(figure, f"std-{phase}")
        assert layers == [0, 1, 2]
        assert std == pytest.approx([synthetic.raw[i, phase].std() for i in range(3)], rel=1e-9)
    eps = synthetic.run.bands[place(0, "before")]
    near = (np.abs(synthetic.raw[0, "after"]) < eps).mean()
    assert line_data(figure, "near_zero-after")[1][0] == pytest.approx(near, rel=1e-12)
    ordered = [np.sort(synthetic.raw[0, phase]) for phase in ("before", "after")]
    expected = np.abs(ordered[0] - ordered[1]).mean() / ordered[0].std()
    assert line_data(figure, "distance-after")[1][0] == pytest.approx(expected, rel=1e-9)
    (mark,) = artists(figure.axes[0], "arm")
    assert (mark.get_x(), mark.get_width()) == (-0.5, 1.0)


@pytest.mark.parametrize("layers", [1, 80])
def test_the_overview_works_for_one_and_many_layers(layers: int) -> None:
    values = {
        place(layer, "before"): np.linspace(-1, 1 + layer, 40, dtype=np.float32)
        for layer in range(layers)
    }
    figure = plots.overview(run_of(values))
    assert len(figure.axes) == 3
    assert line_data(figure, "gini-before")[0] == list(range(layers))
    left, right = figure.axes[0].get_xlim()
    assert left < 0
    assert right > layers - 1


@pytest.mark.parametrize(
    "path", ["model.layers.{}", "h.{}.out", "{}.block", "layer_{}.mlp", "experts.2.layers.{}.down"]
)
def test_points_are_joined_wherever_the_layer_stands_in_the_path(path: str) -> None:
    values = np.linspace(-1, 1, 40, dtype=np.float32)
    run = run_of({place(i, "before", module=path.format(i)): values for i in range(4)})
    (one,) = plots.layer_series(run)
    assert one.layers.tolist() == [0, 1, 2, 3]
    assert one.name == f"decoder:{path.format('*')}"
    assert line_data(plots.overview(run), "std-before")[0] == [0, 1, 2, 3]


def test_experts_are_one_line_each_or_a_range() -> None:
    rng = np.random.default_rng(0)

    def run_with(experts: int) -> Run:
        return run_of(
            {
                place(i, "before", module=f"layers.{i}.experts.{e}.down"): rng.standard_normal(50)
                for i in range(4)
                for e in range(experts)
            }
        )

    few, many = run_with(3), run_with(5)
    assert [one.name for one in plots.layer_series(few)] == [
        f"decoder:layers.*.experts.{e}.down" for e in range(3)
    ]
    assert len(plots.overview(few).axes[1].get_lines()) == 3
    ax = plots.overview(many).axes[1]
    (line,) = ax.get_lines()
    spread = np.array([one.values["std", "before"] for one in plots.layer_series(many)])
    np.testing.assert_array_equal(line.get_ydata(), np.median(spread, axis=0))
    (area,) = ax.collections
    corners = area.get_paths()[0].vertices
    for layer in range(4):
        ends = corners[corners[:, 0] == layer, 1]
        assert (ends.min(), ends.max()) == (spread[:, layer].min(), spread[:, layer].max())


def test_a_selection_is_named_and_fits(synthetic: Synthetic) -> None:
    figure = plots.overview(synthetic.run.select([0], None))
    assert "synthetic · layer 0 · act" in shown_text(figure)
    assert figure.axes[0].get_xlim() == (-0.5, 0.5)
    assert figure.axes[-1].get_xticks().tolist() == [0]
    assert "ARM: layer 0" in shown_text(figure)
    others = shown_text(plots.overview(synthetic.run.select([1, 2], None)))
    assert "synthetic · layers 1, 2 · act" in others
    assert "ARM: layer 0" not in others
    assert "all layers" in shown_text(plots.overview(synthetic.run))


@pytest.mark.parametrize("name", ["no ARM", "classes", "gaps", "whatif one layer"])
def test_without_arm_no_figure_says_before(name: str) -> None:
    specs = figure_specs(result_of(name)).values()
    for spec in specs:
        assert not {"before", "after"} & set(re.findall(r"\w+", shown_text(spec())))


@pytest.mark.parametrize("width", [None, "single"])
def test_massive_activations_are_in_the_headings(width: str | None) -> None:
    run = planted([*PLANTED, (2, 3e4, 9e3, 8, 2, "。$x$")])
    for figure, first in (
        (plots.overview(run, width=width), "massive activations at act: channel 8 in layer 2"),
        (plots.paired(run, 2, width=width), "massive activations: channel 8: 30,000 at “\\u3002$"),
    ):
        assert first in " ".join(shown_text(figure).split())
        assert problems(figure) == []
    assert "massive" not in shown_text(plots.paired(run, 0))


def test_a_site_without_values_is_refused(synthetic: Synthetic) -> None:
    with pytest.raises(RequestError, match="holds no site 'gate'"):
        plots.overview(synthetic.run, "gate")


def test_golden_image(synthetic: Synthetic, tmp_path: Path) -> None:
    assert_golden(plots.overview(synthetic.run), "overview", tmp_path)


def test_arm_is_named_where_its_own_values_were_not_observed() -> None:
    values = {
        place(layer, phase, "residual"): np.linspace(-1, 1 + layer, 40, dtype=np.float32)
        for layer in range(3)
        for phase in ("before", "after")
    }
    run = run_of(values, arm={"layers": [1], "c": 0.13, "p1": 99.5, "redistribution": "arm"})
    figure = plots.overview(run, "residual")
    texts = shown_text(figure)
    assert "ARM off" not in texts
    assert "ARM in layer 1: c = 0.13, p1 = 99.5" in texts
    (mark,) = artists(figure.axes[0], "arm")
    assert (mark.get_x(), mark.get_width()) == (0.5, 1.0)
    off = plots.overview(run_of({place(0, "before"): np.ones(9, np.float32)}))
    assert "ARM off" in shown_text(off)
