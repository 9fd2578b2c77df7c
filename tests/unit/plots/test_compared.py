"""One pair of a comparison: the artists against the raw values of both sides."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from support.artists import artists, counted, panels, stairs, texts_of
from support.synthetic_comparisons import Made, eps_of
from support.synthetic_runs import place, run_of
from support.terminal import printed

from distviz import plots
from distviz.cli.views import comparison as comparison_tables
from distviz.plots import style
from distviz.results.comparison import Comparison
from distviz.studies import comparison as comparing


@pytest.mark.parametrize("log", [False, True])
def test_outlines_are_shares_of_the_raw_values(
    comparison: Comparison, first: Made, second: Made, log: bool
) -> None:
    figure = plots.compared(comparison, comparison.pairs[1], log=log)
    above, below = panels(figure)
    shares = {}
    for side, made in (("A", first), ("B", second)):
        heights, edges, bottom = stairs(above, f"outline-{side}")
        raw = made.raw[1].ravel()
        widths = np.diff(edges) / np.median(np.diff(edges))
        shares[side] = counted(raw, edges) / raw.size / widths
        floor = bottom[0]
        assert floor <= (0.7 / second.raw[1].size if log else 0.0)
        np.testing.assert_allclose(heights, np.maximum(shares[side], floor), rtol=1e-12)
        assert (bottom == floor).all()
    difference = 100 * (shares["B"] - shares["A"])
    more, _, zero = stairs(below, "more-B")
    less, _, _ = stairs(below, "more-A")
    np.testing.assert_allclose(more, np.maximum(difference, 0), atol=1e-12)
    np.testing.assert_allclose(less, np.minimum(difference, 0), atol=1e-12)
    assert (zero == 0).all()
    common, _, _ = stairs(above, "common")
    tops, _, bottoms = stairs(above, "only-B")
    assert (bottoms == common).all()
    assert (tops >= common).all()


def test_what_b_has_more_of_has_its_colour(comparison: Comparison) -> None:
    above, below = panels(plots.compared(comparison, comparison.pairs[0]))
    for side, phase in (("A", "before"), ("B", "after")):
        expected = mpl.colors.to_rgba(style.LINE[phase])
        assert artists(below, f"more-{side}")[0].get_facecolor() == pytest.approx(expected)
        assert artists(above, f"outline-{side}")[0].get_edgecolor() == pytest.approx(expected)


def test_both_panels_share_the_window_and_the_band_of_a(
    comparison: Comparison, first: Made
) -> None:
    above, below = panels(plots.compared(comparison, comparison.pairs[0]))
    assert above.get_xlim() == below.get_xlim()
    eps = eps_of(first.raw[0])
    for axes in (above, below):
        (band,) = artists(axes, "near-zero")
        assert (band.get_x(), band.get_width()) == pytest.approx((-eps, 2 * eps), rel=1e-12)


def test_numbers_are_beside_the_panels(comparison: Comparison, first: Made, second: Made) -> None:
    words = texts_of(plots.compared(comparison, comparison.pairs[0]))
    for made in (first, second):
        near = (np.abs(made.raw[0]) < eps_of(first.raw[0])).mean()
        assert f"{100 * near:.{2 if near < 0.0995 else 1}f} %" in words
        assert f"{made.raw[0].std():.3f}" in words
    row = comparison.table.iloc[0]
    assert f"{row['ks']:.3f}" in words or f"{row['ks']:.4f}" in words
    assert {"1.44 k", "1.92 k", "KS", "W1 / std A", "JS divergence", "more in A"} <= set(words)


def test_equal_sides(same: Comparison) -> None:
    figure = plots.compared(same, same.pairs[0])
    assert "equal in every bin" in texts_of(figure)
    assert (stairs(figure.axes[1], "more-B")[0] == 0).all()
    data = plots.compared_bins(same, same.pairs[0])
    assert data.moved == 0
    assert (data.difference == 0).all()


DEGENERATE = {
    "zeros": np.zeros(50, np.float32),
    "one value": np.full(50, 3.7, np.float32),
    "nothing": np.zeros(0, np.float32),
    "nan only": np.full(9, np.nan, np.float32),
    "huge": np.array([-3e38, 1e38, 3e38], np.float32),
}


@pytest.mark.parametrize(
    ("a", "b"),
    [*((name, name) for name in DEGENERATE), *(("zeros", name) for name in [*DEGENERATE][1:])],
)
def test_degenerate_data_draw_and_print(a: str, b: str, tmp_path: Path) -> None:
    columns = ["document", "layer", "stack", "site", "phase", "module", "std", "near_zero"]
    runs = []
    for name in (a, b):
        run = run_of({place(0, "before"): DEGENERATE[name]}, text={"sha256": "x", "tokens": 1})
        object.__setattr__(run, "documents", pd.DataFrame(columns=columns))
        runs.append(run)
    found = comparing.compare_runs(*runs)
    for log in ("auto", True, False):
        plots.compared(found, found.pairs[0], log=log).savefig(io.BytesIO())
    plots.comparison_overview(found).savefig(io.BytesIO())
    assert "layer" in printed(comparison_tables.summary, found)


def test_drawing_leaves_the_comparison_alone(comparison: Comparison) -> None:
    tables = {name: table.copy() for name, table in comparison.tables().items()}
    settings = dict(mpl.rcParams)
    plots.comparison_overview(comparison)
    plots.compared(comparison, comparison.pairs[0])
    plots.token_classes(comparison)
    assert dict(mpl.rcParams) == settings
    for name, table in comparison.tables().items():
        pd.testing.assert_frame_equal(table, tables[name])
