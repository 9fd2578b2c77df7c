"""The figure of two models compared value by value: every number where it belongs."""

from __future__ import annotations

import numpy as np
import pytest
from support.artists import shown_text
from support.figure_checks import problems
from support.synthetic_elementwise import comparison_of, values_of

from distviz import plots
from distviz.errors import RequestError
from distviz.results.elementwise import rounding_level


def _lines(figure: object) -> dict[str, object]:
    return {line.get_gid(): line for ax in figure.axes for line in ax.get_lines()}


def _error(pair: tuple[np.ndarray, np.ndarray]) -> float:
    return float(np.linalg.norm(pair[1] - pair[0]) / np.linalg.norm(pair[0]))


def test_lines_intervals_and_the_level_of_rounding() -> None:
    values = values_of(5, first=2)
    figure = plots.elementwise(comparison_of(values, own=0.25))
    lines = _lines(figure)
    for site in ("attention", "act", "product", "residual"):
        expected = [_error(values[layer, site]) if layer >= 2 else np.nan for layer in range(5)]
        line = lines[f"error-{site}"]
        np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-12)
        np.testing.assert_allclose(lines[f"own-{site}"].get_ydata(), 0.25 * np.array(expected))
        assert np.round(line.get_xdata()).tolist() == [0, 1, 2, 3, 4]
        assert np.round(lines[f"zero-error-{site}"].get_xdata()).tolist() == [0, 1]
    top = figure.axes[0]
    (bars,) = (one for one in top.collections if one.get_gid() == "interval-act")
    ends = np.array([path.vertices[:, 1] for path in bars.get_paths()])[2:]
    middle = -20 * np.log10([_error(values[layer, "act"]) for layer in (2, 3, 4)])
    np.testing.assert_allclose(-20 * np.log10(ends), np.c_[middle + 0.5, middle - 0.5])
    (band,) = (one for one in top.collections if one.get_gid() == "rounding")
    highest = max(band.get_paths()[0].vertices[:, 1])
    assert highest == pytest.approx(rounding_level(4, ["float32"] * 2))
    assert top.get_yscale() == "log"
    assert "0" in [label.get_text() for label in top.get_yticklabels()]


def test_the_heatmap_has_the_shares_of_the_worst_channels() -> None:
    values = values_of(4, first=1)
    figure = plots.elementwise(comparison_of(values))
    ax = figure.axes[-1]
    (mesh,) = (one for one in ax.collections if one.get_gid() == "channels")
    errors = [(b - a) ** 2 for a, b in (values[layer, "residual"] for layer in (1, 2, 3))]
    shares = np.array([error.sum(0) / error.sum() for error in errors])
    order = np.argsort(-shares.max(0), kind="stable")[:8]
    names = [label.get_text() for label in ax.get_yticklabels()][::-1]
    assert names == [str(channel) for channel in order]
    shown = np.ma.filled(mesh.get_array(), np.nan).reshape(8, 3)[::-1]
    np.testing.assert_allclose(shown, 100 * shares[:, order].T)
    assert "share of the error at residual by channel" in ax.get_title(loc="left")


def test_zero_against_something_stands_above() -> None:
    values = values_of(3, ("act",))
    values[1, "act"] = (np.zeros((40, 24)), np.ones((40, 24)))
    figure = plots.elementwise(comparison_of(values, documents=3))
    line = _lines(figure)["infinite-error-act"]
    assert line.get_xdata().tolist() == [1]
    assert line.get_ydata()[0] > np.nanmax(_lines(figure)["error-act"].get_ydata())
    assert "∞" in [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert problems(figure, 6.5) == []


def test_many_sites_are_a_map() -> None:
    sites = ("gate", "up", "act", "product", "down")
    values = values_of(3, sites, first=1)
    figure = plots.elementwise(comparison_of(values, own=0.5))
    meshes = {one.get_gid(): one for ax in figure.axes for one in ax.collections}
    errors = np.ma.filled(meshes["relative_error"].get_array(), np.nan).reshape(5, 3)[::-1]
    expected = [[_error(values[layer, site]) for layer in (1, 2)] for site in sites]
    np.testing.assert_allclose(errors[:, 1:], expected)
    assert "local_relative_error" in meshes
    cells = [text.get_text() for ax in figure.axes[:2] for text in ax.texts]
    assert cells.count("0") == 10


def test_the_heading_has_the_verdict_and_both_names() -> None:
    found = comparison_of(values_of(3, first=1))
    words = " ".join(shown_text(plots.elementwise(found)).split())
    assert found.manifest["elementwise"]["verdict"] in words
    assert "synthetic" in words


def test_other_comparisons_have_no_such_figure(comparison: object) -> None:
    assert "elementwise" not in plots.figure_specs(comparison)
    with pytest.raises(RequestError, match="not compared value by value"):
        plots.elementwise(comparison)


def test_layers_and_sites_can_be_selected() -> None:
    found = comparison_of(values_of(4))
    figure = plots.elementwise(found.select([1, 2], ["residual", "product"]))
    names = {name for name in _lines(figure) if str(name).startswith("error-")}
    assert names == {"error-residual", "error-product"}
    assert np.round(_lines(figure)["error-residual"].get_xdata()).tolist() == [1, 2]
    alone = found.select(sites=["residual"])
    assert list(plots.figure_specs(alone)) == ["elementwise"]
