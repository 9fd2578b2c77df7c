"""Changes with filler tokens: the artists against the tables of the study."""

from __future__ import annotations

import numpy as np
import pytest
from support import synthetic_fillers
from support.artists import artists, shown_text
from support.synthetic_fillers import COUNTS, LAYERS

from distviz import plots
from distviz.results.filler_study import QUANTITIES, FillerStudy
from distviz.stats import ALPHA


@pytest.fixture(scope="module")
def study() -> FillerStudy:
    return synthetic_fillers.study()


def test_every_quantity_by_layer(study: FillerStudy) -> None:
    figure = plots.filler_by_layer(study, 16, "act")
    *panels, attention = figure.axes
    titles = [axes.get_title("left") for axes in panels]
    assert len(titles) == len(set(titles)) == len(QUANTITIES)
    for axes, quantity in zip(panels, QUANTITIES, strict=True):
        rows = study.changes(16, quantity, "act").sort_values("layer")
        curve = axes.get_lines()[1]
        assert list(curve.get_xdata()) == list(LAYERS)
        np.testing.assert_array_equal(curve.get_ydata(), rows["estimate"])
        filled = axes.get_lines()[2]
        assert list(filled.get_xdata()) == list(rows["layer"][rows["p_adjusted"] < ALPHA])
        segments = axes.collections[0].get_segments()
        np.testing.assert_array_equal([pair[0][1] for pair in segments], rows["ci_low"])
        np.testing.assert_array_equal([pair[1][1] for pair in segments], rows["ci_high"])
    (line,) = attention.get_lines()
    np.testing.assert_allclose(line.get_ydata(), [1 / (1 + 16 * layer) for layer in LAYERS])


def test_one_layer_by_number_of_filler_tokens(study: FillerStudy) -> None:
    figure = plots.filler_by_count(study, 1, "act")
    for axes, quantity in zip(figure.axes, QUANTITIES, strict=False):
        curve = axes.get_lines()[1]
        assert list(curve.get_xdata()) == list(COUNTS)
        rows = study.table[(study.table["quantity"] == quantity) & (study.table["layer"] == 1)]
        np.testing.assert_array_equal(curve.get_ydata(), rows["estimate"])


def test_tokens_that_cannot_change_are_left_out() -> None:
    causal = synthetic_fillers.study(is_causal=True)
    figure = plots.filler_positions(causal, 16, "act")
    rows = causal.positions[causal.positions["filler_count"] == 16]
    behind = sorted({low for low in rows["distance_low"] if low > 0})
    assert len(behind) < rows["distance_low"].nunique()
    for axes in figure.axes[:3]:
        assert axes.get_images()[0].get_array().shape == (len(LAYERS), len(behind))
    assert "tokens before the filler do not change" in shown_text(figure)


def test_maps_hold_the_changes_by_distance(study: FillerStudy) -> None:
    figure = plots.filler_positions(study, 16, "act")
    rows = study.positions[study.positions["filler_count"] == 16]
    scales = {"near_zero_difference": 100, "log_variance_ratio": 1, "gini_difference": 1}
    for axes, (quantity, scale) in zip(figure.axes, scales.items(), strict=False):
        table = rows[rows["quantity"] == quantity].pivot_table("estimate", "layer", "distance_low")
        (image,) = axes.get_images()
        np.testing.assert_allclose(image.get_array(), scale * table.to_numpy())
        low, high = image.get_clim()
        assert low == -high
        (dots,) = artists(axes, "significant")
        assert 1 in dots.get_ydata()
    assert "layer 1" in figure.axes[len(scales)].get_title("left")
