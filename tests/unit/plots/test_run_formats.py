"""The map of measured formats: its cells."""

from __future__ import annotations

import numpy as np
import pytest
from support.artists import heatmap_cells
from support.figure_results import layers_of
from support.synthetic_formats import with_formats

from distviz import plots
from distviz.errors import RequestError


def test_each_format_has_a_row_and_each_layer_a_cell() -> None:
    figure = plots.measured_formats(with_formats())
    rows, cells = heatmap_cells(figure, "sqnr_db")
    assert rows == ["nvfp4 hadamard", "int8-token", "nvfp4"]
    np.testing.assert_allclose(cells, np.arange(4) + np.array([[30], [20], [10]]))
    np.testing.assert_allclose(heatmap_cells(figure, "token_sqnr_db")[1], cells - 1)
    np.testing.assert_allclose(heatmap_cells(figure, "zeroed")[1][0], [0, 10, 20, 30])


def test_runs_without_formats_have_no_figure() -> None:
    with pytest.raises(RequestError, match="no number formats at site 'act'"):
        plots.measured_formats(layers_of(2))
    assert "formats" in plots.figure_specs(with_formats())
    assert "formats" not in plots.figure_specs(layers_of(2))
