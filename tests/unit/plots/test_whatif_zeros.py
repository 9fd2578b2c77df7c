"""Zeros: the curves and cells against the table."""

from __future__ import annotations

import numpy as np
import pytest
from support.artists import heatmap_cells, lines_by_gid
from support.figure_results import result_of
from support.synthetic_runs import Synthetic

from distviz import plots
from distviz.errors import RequestError
from distviz.results.whatif import WhatIf
from distviz.studies.whatif import evaluate_whatif, parse_whatif


def test_the_figure_of_zeros_draws_the_table(asked: WhatIf) -> None:
    figure = plots.zeros_kept(asked, "act")
    lines = lines_by_gid(figure)
    for layer in range(3):
        rows = [asked.thinned("act", level).iloc[layer] for level in (0.25, 0.5, 0.9)]
        drawn = lines[f"layer-{layer}-before"]
        np.testing.assert_array_equal(drawn.get_xdata(), [row["zeros"] for row in rows])
        np.testing.assert_array_equal(drawn.get_ydata(), [row["l2_kept"] for row in rows])
    _, cells = heatmap_cells(figure, "kept")
    _, rests = heatmap_cells(figure, "rest")
    for level, row in zip((0.25, 0.5, 0.9), rests, strict=True):
        rest = asked.thinned("act", level, by="l2_kept_rest")["l2_kept_rest"]
        np.testing.assert_allclose(row, 100 * rest)
    for level, row in zip((0.25, 0.5, 0.9), cells, strict=True):
        before, after = (asked.thinned("act", level, phase) for phase in ("before", "after"))
        np.testing.assert_allclose(row, 100 * before["l2_kept"])
        drawn = lines[f"threshold-{level:g}-before"]
        np.testing.assert_array_equal(drawn.get_ydata(), before["threshold"])
        moved = np.abs(after["threshold"].to_numpy() / before["threshold"].to_numpy() - 1) > 0.005
        hollow = lines[f"threshold-{level:g}-after"]
        np.testing.assert_array_equal(hollow.get_xdata(), after["layer"][moved])
        np.testing.assert_array_equal(hollow.get_ydata(), after["threshold"][moved])
    changed = {gid for gid in lines if gid.startswith("layer") and gid.endswith("after")}
    expected = {
        f"layer-{layer}-after"
        for layer in range(3)
        if any(
            abs(
                asked.thinned("act", level).iloc[layer]["l2_kept"]
                - asked.thinned("act", level, "after").iloc[layer]["l2_kept"]
            )
            > 0.005
            for level in (0.25, 0.5, 0.9)
        )
    }
    assert changed == expected != set()
    (least,) = [text.get_text() for text in figure.texts if text.get_gid() == "least"]
    first = asked.thinned("act", 0.5).sort_values("l2_kept").iloc[0]["layer"]
    assert least.startswith(f"At 50 % zeros least energy is kept in layers {first} (")


def test_of_many_layers_the_worst_the_median_and_the_best_are_drawn() -> None:
    asked = result_of("whatif deep")
    assert isinstance(asked, WhatIf)
    kept = sum(asked.thinned("act", level)["l2_kept"].to_numpy() for level in asked.levels("act"))
    order = np.argsort(kept, kind="stable")
    expected = {f"layer-{layer}-before" for layer in (order[0], order[24], order[-1], 0)}
    gids = lines_by_gid(plots.zeros_kept(asked, "act"))
    assert {gid for gid in gids if gid.startswith("layer") and gid.endswith("before")} == expected


def test_what_was_not_asked_is_not_drawn(synthetic: Synthetic) -> None:
    few = evaluate_whatif(synthetic.run, parse_whatif(formats="int4", sparsity="none"))
    with pytest.raises(RequestError, match="no levels of sparsity"):
        plots.zeros_kept(few, "act")
