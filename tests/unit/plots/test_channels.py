"""Channels by layer: the cells against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from support.artists import heatmap_cells
from support.figure_results import layers_of
from support.synthetic_comparisons import outlier_channels, with_channels

from distviz import plots
from distviz.errors import RequestError


def test_channels_in_order_of_size() -> None:
    raw = outlier_channels(12)
    rows, cells = heatmap_cells(plots.channels(with_channels(raw)), "order")
    assert rows == [
        "smallest", "25 % quantile", "median", "75 % quantile", "90 % quantile",
        "10th largest", "5th largest", "3rd largest", "2nd largest", "largest",
    ]  # fmt: skip
    for layer, x in raw.items():
        sizes = sorted(np.abs(x).max(axis=0), reverse=True)
        expected = [sizes[rank] for rank in (9, 4, 2, 1, 0)]
        quantiles = np.quantile(sizes, [0.25, 0.5, 0.75, 0.9])
        np.testing.assert_allclose(cells[1:, layer], [*quantiles, *expected])


def test_the_largest_channels_are_named() -> None:
    raw = outlier_channels(12)
    rows, cells = heatmap_cells(plots.channels(with_channels(raw)), "named")
    assert rows[-1] == "7"
    assert len(rows) == 12
    for name, row in zip(rows, cells, strict=True):
        sizes = [np.abs(x).max(axis=0) for x in raw.values()]
        expected = [size[int(name)] / np.median(size) for size in sizes]
        np.testing.assert_allclose(row, expected)


def test_a_wide_scale_is_logarithmic_with_plain_numbers() -> None:
    figure = plots.channels(with_channels(outlier_channels(30)))
    figure.draw_without_rendering()
    for bar in figure.axes[2:]:
        assert {"10", "100"} <= {label.get_text() for label in bar.get_yticklabels()}


def test_only_runs_with_channels_have_the_figure() -> None:
    with pytest.raises(RequestError, match="no channels at site 'act'"):
        plots.channels(layers_of(2))
    with pytest.raises(RequestError, match="no channels at site 'up'"):
        plots.channels(with_channels(outlier_channels(2)), "up")
