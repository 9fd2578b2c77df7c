"""The figures of a training: every curve and cell is a number of the snapshots."""

from __future__ import annotations

import numpy as np
import pytest
from support.artists import shown_text
from support.figure_results import DEEP, result_of
from support.synthetic_trainings import STEPS, activations, snapshot

from distviz.errors import RequestError
from distviz.plots import figure_specs, training_curves, training_heatmap
from distviz.results import Training


@pytest.fixture(scope="module")
def trained() -> Training:
    found = result_of("training")
    assert isinstance(found, Training)
    return found


def values_of(step: int, layer: int) -> np.ndarray:
    return activations(step, layer).astype(np.float64)


def test_curves_are_the_statistics_of_each_layer(trained: Training) -> None:
    panels = training_curves(trained).axes
    names = {ax.get_title(loc="left").split(",")[0].split(" (")[0]: ax for ax in panels}
    assert list(names) == ["standard deviation", "near-zero share", "largest |x|", "dead channels"]
    compute = {"standard deviation": np.std, "largest |x|": np.max}
    for title, function in compute.items():
        for layer, line in enumerate(names[title].get_lines()):
            expected = [function(values_of(step, layer)) for step in STEPS]
            np.testing.assert_array_equal(line.get_xdata(), STEPS)
            np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-4)
    dead = names["dead channels"].get_lines()[2].get_ydata()
    np.testing.assert_array_equal(dead, [step // 5 for step in STEPS])


def test_cells_are_changes_against_the_first_snapshot(trained: Training) -> None:
    std, near, largest = training_heatmap(trained).axes[:3]
    for ax, function in ((std, np.std), (largest, np.max)):
        cells = ax.collections[0].get_array()
        for layer in range(4):
            first = function(values_of(0, layer))
            expected = [np.log2(function(values_of(step, layer)) / first) for step in STEPS[1:]]
            np.testing.assert_allclose(cells[3 - layer], expected, atol=1e-3)
    cells = near.collections[0].get_array()
    shares = [trained.curve("near_zero", key) for key in trained.keys]
    expected = [[100 * (one[step] - one[0]) for step in STEPS[1:]] for one in shares]
    np.testing.assert_allclose(cells[::-1], expected, atol=1e-9)
    assert [label.get_text() for label in largest.get_xticklabels()] == ["10", "20", "30"]


def test_what_was_zero_has_no_ratio() -> None:
    runs = {step: snapshot({0: np.full((2, 3, 4), step, np.float32)}) for step in (0, 1, 2)}
    (std, _, largest) = training_heatmap(Training.of(runs)).axes[:3]
    assert np.ma.getmaskarray(std.collections[0].get_array()).all()
    assert np.ma.getmaskarray(largest.collections[0].get_array()).all()


def test_the_first_nonfinite_value_is_marked() -> None:
    bad = activations(5, 1)
    bad[0, 0, 0] = np.nan
    found = Training.of({0: snapshot({1: activations(0, 1)}), 5: snapshot({1: bad})})
    figure = training_curves(found)
    assert all(ax.get_lines()[-1].get_xdata() == [5, 5] for ax in figure.axes)
    text = shown_text(figure)
    assert "first NaN: step 5, layer 1, act" in text
    assert "NaN and infinite values" in text


def test_many_layers_have_a_scale_of_colours() -> None:
    deep = result_of("training deep")
    assert isinstance(deep, Training)
    assert "colour: layer" in training_curves(deep).axes[0].get_title(loc="left")
    ticks = training_heatmap(deep).axes[0].get_yticklabels()
    assert (len(ticks), ticks[0].get_text()) == (12, "layer 0")
    assert len(deep.keys) == DEEP


def test_one_snapshot_has_no_changes() -> None:
    alone = result_of("training one step")
    assert [spec.kind for spec in figure_specs(alone).values()] == ["curves"]
    with pytest.raises(RequestError, match="one snapshot"):
        training_heatmap(alone)


def test_other_sites_are_refused(trained: Training) -> None:
    for draw in (training_curves, training_heatmap):
        with pytest.raises(RequestError, match=r"no site 'gate'\nit has act"):
            draw(trained, "gate")
