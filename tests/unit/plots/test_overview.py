"""Statistics by depth of a run: the lines against the raw values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.artists import artists, line_data
from support.golden_images import assert_golden
from support.synthetic_runs import Synthetic, place, run_of

from distviz import plots
from distviz.errors import RequestError


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


def test_a_site_without_values_is_refused(synthetic: Synthetic) -> None:
    with pytest.raises(RequestError, match="holds no site 'gate'"):
        plots.overview(synthetic.run, "gate")


def test_golden_image(synthetic: Synthetic, tmp_path: Path) -> None:
    assert_golden(plots.overview(synthetic.run), "overview", tmp_path)
