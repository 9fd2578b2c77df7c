"""Maps and curves of a sweep against its table."""

from __future__ import annotations

import numpy as np
from support.synthetic_sweeps import rows_of, sweep_from

from distviz.plots import sweep_by_layer, sweep_overview


def test_the_figure_shows_every_setting() -> None:
    rows = rows_of(c=[0.05, 0.13] * 4, p1=[75.0, 75.0, 99.5, 99.5] * 2,
                 kl=[0.001, 0.02, 0.3, 0.02] * 2, layers=["0"] * 4 + ["1"] * 4)  # fmt: skip
    sweep = sweep_from(rows)
    figure = sweep_overview(sweep, "tiny")
    maps = figure.axes[:4]
    for ax, quantity in zip(maps, ["near_zero_removed", "kl"] * 2, strict=True):
        (mesh,) = ax.collections
        assert mesh.get_array().shape == (2, 2)
        layer = "0" if ax in maps[:2] else "1"
        part = sweep.table[sweep.table["layers"] == layer].pivot_table(
            index="c", columns="p1", values=quantity
        )
        np.testing.assert_array_equal(mesh.get_array(), part.to_numpy())


def test_the_curve_by_layer() -> None:
    rows = rows_of(layers=["0", "1", "2"], kl=[0.5, 0.01, 0.02], near_zero_removed=[0.1, 0.2, 0.3])
    figure = sweep_by_layer(sweep_from(rows, by_layer=True), "tiny")
    line = figure.axes[0].get_lines()[0]
    np.testing.assert_array_equal(line.get_xdata(), [0, 1, 2])
    np.testing.assert_allclose(line.get_ydata(), [0.1, 0.2, 0.3])


def test_more_settings_than_lines_can_show_are_a_map_by_layer() -> None:
    cs = [c / 10 for c in range(1, 10)]
    rows = rows_of(
        layers=[str(layer) for _ in cs for layer in (0, 2, 5)],
        c=[c for c in cs for _ in range(3)],
        kl=[c * (1 + layer) for c in cs for layer in (0, 2, 5)],
    )
    figure = sweep_by_layer(sweep_from(rows, by_layer=True), "tiny")
    (mesh,) = figure.axes[1].collections
    cells = np.ma.filled(mesh.get_array(), np.nan)
    assert cells.shape == (9, 6)
    np.testing.assert_allclose(cells[:, [0, 2, 5]], np.outer(cs, [1, 3, 6]))
    assert np.isnan(cells[:, [1, 3, 4]]).all()
