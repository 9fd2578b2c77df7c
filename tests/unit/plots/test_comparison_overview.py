"""Differences by depth: the lines against the tables of the comparison."""

from __future__ import annotations

import numpy as np
import pytest
from support.artists import line_data, texts_of
from support.synthetic_comparisons import Made, make

from distviz import plots
from distviz.errors import RequestError
from distviz.results.comparison import Comparison
from distviz.studies import comparison as comparing


def test_the_overview_holds_the_tables(comparison: Comparison) -> None:
    figure = plots.comparison_overview(comparison)
    table, tests = comparison.table, comparison.inference
    for name in ("ks", "wasserstein_normalized", "js_divergence"):
        assert line_data(figure, name) == ([0, 1, 2], list(table[name]))
    for side in "AB":
        assert line_data(figure, f"near-zero-{side}")[1] == list(table[f"near_zero_{side.lower()}"])
    for quantity, scale in (("log_variance_ratio", 1), ("near_zero_difference", 100)):
        rows = tests[tests["quantity"] == quantity]
        for gid, chosen in (("significant", True), ("rest", False)):
            part = rows[(rows["p_adjusted"] < 0.05) == chosen]
            if len(part):
                layers, values = line_data(figure, f"{quantity}-{gid}")
                assert layers == list(part["layer_a"])
                np.testing.assert_allclose(values, scale * part["estimate"])


def test_the_overview_names_the_verdict_and_the_most_changed_layers(comparison: Comparison) -> None:
    words = texts_of(plots.comparison_overview(comparison))
    verdict = " ".join(comparison.manifest["verdict"].split("\n")[0].split())
    assert verdict in [" ".join(word.split()) for word in words]
    ranked = comparison.table.sort_values("ks", ascending=False)["layer_a"]
    (most,) = (word for word in words if word.startswith("Furthest apart by KS: layers"))
    assert [int(part.split()[0]) for part in most.split("layers ")[1].split(", ")] == list(ranked)


def test_the_overview_of_equal_sides(same: Comparison) -> None:
    figure = plots.comparison_overview(same)
    assert "No distribution differs." in texts_of(figure)
    assert line_data(figure, "ks")[1] == [0, 0, 0]


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
