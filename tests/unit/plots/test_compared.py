"""Figures and tables of a comparison: what the artists and cells hold, against every value."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from support.synthetic_comparisons import EVERY, Made, eps_of, make
from support.synthetic_runs import place, run_of, silu_run
from support.terminal import printed

from distviz import plots
from distviz.cli.views import comparison as comparison_tables
from distviz.errors import RequestError
from distviz.plots import style
from distviz.studies import comparison as comparing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from distviz.results.comparison import Comparison


@pytest.fixture(scope="module")
def first() -> Made:
    return make(1)


@pytest.fixture(scope="module")
def second() -> Made:
    return make(2, scale=1.3, tokens=8)


@pytest.fixture(scope="module")
def comparison(first: Made, second: Made) -> Comparison:
    return comparing.compare_runs(first.run, second.run)


@pytest.fixture(scope="module")
def same(first: Made) -> Comparison:
    return comparing.compare_runs(first.run, first.run)


def _artists(axes: Any, gid: str) -> list[Any]:
    return [artist for artist in axes.get_children() if artist.get_gid() == gid]


def _stairs(axes: Any, gid: str) -> tuple[Any, Any, Any]:
    (artist,) = _artists(axes, gid)
    values, edges, baseline = artist.get_data()
    return np.asarray(values), np.asarray(edges), np.broadcast_to(baseline, np.shape(values))


def _words(figure: Figure) -> list[str]:
    found = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        found += [text.get_text() for text in axes.texts]
        legend = axes.get_legend()
        found += [text.get_text() for text in legend.get_texts()] if legend else []
    for legend in figure.legends:
        found += [text.get_text() for text in legend.get_texts()]
    return found


# One pair -----------------------------------------------------------------------------------


@pytest.mark.parametrize("log", [False, True])
def test_outlines_are_shares_of_the_raw_values(
    comparison: Comparison, first: Made, second: Made, log: bool
) -> None:
    figure = plots.compared(comparison, comparison.pairs[1], log=log)
    above, below = figure.axes
    shares = {}
    for side, made in (("A", first), ("B", second)):
        heights, edges, bottom = _stairs(above, f"outline-{side}")
        raw = made.raw[1].ravel()
        # One more edge: the last bin of numpy.histogram is closed, a drawn one is not.
        counts = np.histogram(raw, np.append(edges, np.inf))[0][:-1]
        shares[side] = counts / raw.size
        floor = 0.7 / second.raw[1].size if log else 0.0
        np.testing.assert_allclose(heights, np.maximum(shares[side], floor), rtol=1e-12)
        assert (bottom == floor).all()
    difference = 100 * (shares["B"] - shares["A"])
    more, _, zero = _stairs(below, "more-B")
    less, _, _ = _stairs(below, "more-A")
    np.testing.assert_allclose(more, np.maximum(difference, 0), atol=1e-12)
    np.testing.assert_allclose(less, np.minimum(difference, 0), atol=1e-12)
    assert (zero == 0).all()
    common, _, _ = _stairs(above, "common")
    tops, _, bottoms = _stairs(above, "only-B")
    assert (bottoms == common).all()
    assert (tops >= common).all()


def test_what_b_has_more_of_stands_in_its_colour(comparison: Comparison) -> None:
    above, below = plots.compared(comparison, comparison.pairs[0]).axes
    for side, phase in (("A", "before"), ("B", "after")):
        expected = mpl.colors.to_rgba(style.LINE[phase])
        assert _artists(below, f"more-{side}")[0].get_facecolor() == pytest.approx(expected)
        assert _artists(above, f"outline-{side}")[0].get_edgecolor() == pytest.approx(expected)


def test_both_panels_share_the_window_and_the_band_of_a(
    comparison: Comparison, first: Made
) -> None:
    above, below = plots.compared(comparison, comparison.pairs[0]).axes
    assert above.get_xlim() == below.get_xlim()
    eps = eps_of(first.raw[0])
    for axes in (above, below):
        (band,) = _artists(axes, "near-zero")
        assert (band.get_x(), band.get_width()) == pytest.approx((-eps, 2 * eps), rel=1e-12)


def test_the_numbers_stand_beside(comparison: Comparison, first: Made, second: Made) -> None:
    words = _words(plots.compared(comparison, comparison.pairs[0]))
    for made in (first, second):
        near = (np.abs(made.raw[0]) < eps_of(first.raw[0])).mean()
        assert f"{100 * near:.{2 if near < 0.0995 else 1}f} %" in words
        assert f"{made.raw[0].std():.3f}" in words
    row = comparison.table.iloc[0]
    assert f"{row['ks']:.3f}" in words or f"{row['ks']:.4f}" in words
    assert {"1.44 k", "1.92 k", "KS", "W1 / std A", "JS divergence", "more in A"} <= set(words)


def test_equal_sides(same: Comparison) -> None:
    figure = plots.compared(same, same.pairs[0])
    assert "equal in every bin" in _words(figure)
    assert (_stairs(figure.axes[1], "more-B")[0] == 0).all()
    data = plots.compared_bins(same, same.pairs[0])
    assert data.moved == 0
    assert (data.difference == 0).all()


def test_every_value_is_in_a_bin(comparison: Comparison) -> None:
    data = plots.compared_bins(comparison, comparison.pairs[2])
    for side in (data.a, data.b):
        assert side.shares.sum() == pytest.approx(1, abs=1e-12)
        inside = data.inside(side.shares).sum()
        assert sum(data.beyond(side)) == pytest.approx(1 - inside, abs=1e-12)
    assert data.moved == pytest.approx(np.maximum(data.difference, 0).sum(), abs=1e-12)


DEGENERATE = {
    "zeros": np.zeros(50, np.float32),
    "one value": np.full(50, 3.7, np.float32),
    "nothing": np.zeros(0, np.float32),
    "nan only": np.full(9, np.nan, np.float32),
    "huge": np.array([-3e38, 1e38, 3e38], np.float32),
}


@pytest.mark.parametrize(
    ("a", "b"),
    [*((name, name) for name in DEGENERATE), *(("zeros", name) for name in DEGENERATE)],
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


# By depth -----------------------------------------------------------------------------------


def _line(figure: Figure, gid: str) -> tuple[list[float], list[float]]:
    for axes in figure.axes:
        for line in axes.get_lines():
            if line.get_gid() == gid:
                return list(line.get_xdata()), list(line.get_ydata())
    raise AssertionError(gid)


def test_the_overview_holds_the_tables(comparison: Comparison) -> None:
    figure = plots.comparison_overview(comparison)
    table, tests = comparison.table, comparison.inference
    for name in ("ks", "wasserstein_normalized", "js_divergence"):
        assert _line(figure, name) == ([0, 1, 2], list(table[name]))
    for side in "AB":
        assert _line(figure, f"near-zero-{side}")[1] == list(table[f"near_zero_{side.lower()}"])
    for quantity, scale in (("log_variance_ratio", 1), ("near_zero_difference", 100)):
        rows = tests[tests["quantity"] == quantity]
        for gid, chosen in (("significant", True), ("rest", False)):
            part = rows[(rows["p_adjusted"] < 0.05) == chosen]
            if len(part):
                layers, values = _line(figure, f"{quantity}-{gid}")
                assert layers == list(part["layer_a"])
                np.testing.assert_allclose(values, scale * part["estimate"])


def test_filled_marks_are_significant(comparison: Comparison) -> None:
    figure = plots.comparison_overview(comparison)
    faces = {
        line.get_gid(): mpl.colors.to_hex(line.get_markerfacecolor())
        for axes in figure.axes[2:]
        for line in axes.get_lines()
        if str(line.get_gid()).endswith(("significant", "rest"))
    }
    assert faces["log_variance_ratio-significant"] == style.INK
    assert all(face == "#ffffff" for gid, face in faces.items() if gid.endswith("rest"))


def test_intervals_are_drawn_and_the_approximate_marked(comparison: Comparison) -> None:
    rows = comparison.inference
    approximate = replace(comparison, inference=rows.assign(approximate=rows["layer_a"] == 1))
    figure = plots.comparison_overview(approximate)
    part = rows[rows["quantity"] == "log_variance_ratio"].set_index("layer_a")
    for gid, layers in (("interval", [0, 2]), ("approximate", [1])):
        (bars,) = _artists(figure.axes[2], gid)
        drawn = {seg[0][0]: (seg[0][1], seg[1][1]) for seg in bars.get_segments()}
        assert list(drawn) == layers
        for layer, ends in drawn.items():
            assert ends == pytest.approx(tuple(part.loc[layer, ["ci_low", "ci_high"]]))
    assert "95 % interval, approximate" in _words(figure)


def test_few_documents_withhold_intervals() -> None:
    runs = [make(seed, documents=4).run for seed in (1, 2)]
    figure = plots.comparison_overview(comparing.compare_runs(*runs))
    assert not any(_artists(axes, "interval") for axes in figure.axes)
    assert "interval withheld: too few documents" in _words(figure)


def test_the_overview_names_the_verdict_and_the_most_changed_layers(comparison: Comparison) -> None:
    words = _words(plots.comparison_overview(comparison))
    verdict = " ".join(comparison.manifest["verdict"].split("\n")[0].split())
    assert verdict in [" ".join(word.split()) for word in words]
    ranked = comparison.table.sort_values("ks", ascending=False)["layer_a"]
    (most,) = (word for word in words if word.startswith("Furthest apart by KS: layers"))
    assert [int(part.split()[0]) for part in most.split("layers ")[1].split(", ")] == list(ranked)


def test_the_overview_of_equal_sides(same: Comparison) -> None:
    figure = plots.comparison_overview(same)
    assert "No distribution differs." in _words(figure)
    assert _line(figure, "ks")[1] == [0, 0, 0]


def test_other_depth_labels_both_layers(first: Made) -> None:
    deep = make(3, layers=5)
    figure = plots.comparison_overview(comparing.compare_runs(deep.run, first.run))
    figure.draw_without_rendering()
    labels = [label.get_text() for label in figure.axes[-1].get_xticklabels()]
    assert "4\n2" in labels
    assert figure.axes[-1].get_xlabel() == "layer of A, and the layer of B below it"


def test_a_site_that_was_not_compared_is_refused(comparison: Comparison) -> None:
    with pytest.raises(RequestError, match="holds no site 'gate'"):
        plots.comparison_overview(comparison, "gate")
    with pytest.raises(RequestError, match="not kept apart at site 'gate'"):
        plots.token_classes(comparison, "gate")


# Token classes ------------------------------------------------------------------------------


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


# Names and the terminal ---------------------------------------------------------------------


def _named(name: str, **manifest: Any) -> Made:
    return make(1, model={"name": name, "layers": 3} | manifest.pop("model", {}), **manifest)


# Files --------------------------------------------------------------------------------------


def test_drawing_leaves_the_comparison_alone(comparison: Comparison) -> None:
    tables = {name: table.copy() for name, table in comparison.tables().items()}
    settings = dict(mpl.rcParams)
    plots.comparison_overview(comparison)
    plots.compared(comparison, comparison.pairs[0])
    plots.token_classes(comparison)
    assert dict(mpl.rcParams) == settings
    for name, table in comparison.tables().items():
        pd.testing.assert_frame_equal(table, tables[name])
