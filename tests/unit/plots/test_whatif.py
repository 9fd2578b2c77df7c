"""Number formats and zeros: the lines against the table."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure
from support.artists import artists, lines_by_gid, shown_text
from support.figure_results import result_of
from support.synthetic_runs import Synthetic

from distviz import plots
from distviz.errors import RequestError
from distviz.results.whatif import WhatIf
from distviz.studies.whatif import evaluate_whatif, parse_whatif


@pytest.fixture(scope="module")
def asked(synthetic: Synthetic) -> WhatIf:
    questions = parse_whatif(sparsity="25,50,90", thresholds="0.05,1", percentile=99)
    return evaluate_whatif(synthetic.run, questions, "mine")


def _cells(figure: Figure, gid: str) -> tuple[list[str], np.ndarray]:
    """Labels of the rows of a heatmap, and its numbers."""
    for ax in figure.axes:
        for (mesh,) in (artists(ax, gid) for _ in range(bool(artists(ax, gid)))):
            return [label.get_text() for label in ax.get_yticklabels()], mesh.get_array()
    raise AssertionError(gid)


def test_the_figure_of_formats_draws_the_table(asked: WhatIf) -> None:
    figure = plots.format_losses(asked, "act")
    names, cells = _cells(figure, "sqnr")
    assert sorted(names) == sorted({name for name, _ in asked.kinds("act")})
    changed_names, changes = _cells(figure, "change")
    assert changed_names == names
    worst = {}
    for name, row, change in zip(names, cells, changes, strict=True):
        before, after = (
            asked.losses("act", name, "mse", phase)["sqnr_db"].to_numpy()
            for phase in ("before", "after")
        )
        np.testing.assert_array_equal(row, before)
        np.testing.assert_allclose(change, after - before)
        worst[name] = f"{int(np.argmin(before))}"
        assert f"{name} {before.min():.1f} dB" in shown_text(figure)
    outlines = [artist for ax in figure.axes for artist in artists(ax, "outline")]
    assert {str(round(one.get_x() + 0.5)) for one in outlines} == set(worst.values())
    lines = lines_by_gid(figure)
    for range_ in ("mse", "max", "percentile"):
        medians = lines[f"median-{range_}"].get_xdata()
        expected = [
            float(np.median(asked.losses("act", name, range_)["sqnr_db"])) for name in names
        ]
        np.testing.assert_allclose(medians, expected)


def test_numbers_of_a_deep_model_stand_in_few_cells_or_none() -> None:
    asked = result_of("whatif deep")
    assert isinstance(asked, WhatIf)
    for width, has_numbers in ((None, False), ("single", False)):
        figure = plots.format_losses(asked, "act", width=width)
        assert bool(artists(figure.axes[0], "cell")) == has_numbers
        assert artists(figure.axes[1], "cell")


def test_the_figure_of_zeros_draws_the_table(asked: WhatIf) -> None:
    figure = plots.zeros_kept(asked, "act")
    lines = lines_by_gid(figure)
    for layer in range(3):
        rows = [asked.thinned("act", level).iloc[layer] for level in (0.25, 0.5, 0.9)]
        drawn = lines[f"layer-{layer}-before"]
        np.testing.assert_array_equal(drawn.get_xdata(), [row["zeros"] for row in rows])
        np.testing.assert_array_equal(drawn.get_ydata(), [row["l2_kept"] for row in rows])
    _, cells = _cells(figure, "kept")
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
    few = evaluate_whatif(
        synthetic.run, parse_whatif(formats="int4", ranges="max", sparsity="none")
    )
    assert len(plots.format_losses(few, "act").axes) == 2
    with pytest.raises(RequestError, match="no levels of sparsity"):
        plots.zeros_kept(few, "act")
    none = evaluate_whatif(synthetic.run, parse_whatif(formats="none", sparsity="50"))
    with pytest.raises(RequestError, match="no number formats"):
        plots.format_losses(none, "act")
