"""Near-zero shares by token class: the bars against the raw values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.synthetic_comparisons import EVERY, Made, eps_of
from support.synthetic_runs import silu_run

from distviz import plots
from distviz.errors import RequestError
from distviz.results.comparison import Comparison


def _bars(axes: Any, series: str) -> list[float]:
    return [bar.get_height() for bar in axes.patches if bar.get_gid() == f"bars-{series}"]


def test_class_bars_of_a_comparison(comparison: Comparison, first: Made, second: Made) -> None:
    figure = plots.token_classes(comparison)
    assert [axes.get_title("left") for axes in figure.axes] == [
        "layer 0 (first)",
        "layer 1",
        "layer 2 (last)",
    ]
    for layer, axes in enumerate(figure.axes):
        eps = eps_of(first.raw[layer])
        for side, made in (("A", first), ("B", second)):
            x = np.abs(made.raw[layer].reshape(-1, 24))
            is_digit = np.arange(len(x)) % EVERY == 0
            expected = [(x[is_digit] < eps).mean(), (x[~is_digit] < eps).mean()]
            assert _bars(axes, side) == pytest.approx(expected)
        labels = [label.get_text() for label in axes.get_xticklabels()]
        assert labels == ["digits\n20 / 27", "other\n40 / 53"]
    assert len({axes.get_ylim() for axes in figure.axes}) == 1


def test_class_bars_of_a_run(first: Made) -> None:
    figure = plots.token_classes(first.run)
    x = np.abs(first.raw[0].reshape(60, -1))
    is_digit = np.arange(60) % EVERY == 0
    eps = eps_of(first.raw[0])
    expected = [(x[is_digit] < eps).mean(), (x[~is_digit] < eps).mean()]
    assert _bars(figure.axes[0], "before") == pytest.approx(expected)
    with pytest.raises(RequestError, match="measure with --classes all"):
        plots.token_classes(silu_run().run)


def test_a_site_without_classes_is_refused(comparison: Comparison) -> None:
    with pytest.raises(RequestError, match="not kept apart at site 'gate'"):
        plots.token_classes(comparison, "gate")
