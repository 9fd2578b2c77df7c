"""Number formats: the cells and marks against the table."""

from __future__ import annotations

import numpy as np
import pytest
from support.artists import artists, heatmap_cells, lines_by_gid, shown_text
from support.figure_results import result_of
from support.synthetic_runs import Synthetic

from distviz import plots
from distviz.errors import RequestError
from distviz.results.whatif import WhatIf
from distviz.studies.whatif import evaluate_whatif, parse_whatif


def test_the_figure_of_formats_draws_the_table(asked: WhatIf) -> None:
    figure = plots.format_losses(asked, "act")
    names, cells = heatmap_cells(figure, "sqnr")
    assert sorted(names) == sorted({name for name, _ in asked.kinds("act")})
    changed_names, changes = heatmap_cells(figure, "change")
    assert changed_names == names
    _, rests = heatmap_cells(figure, "rest")
    _, zeroed = heatmap_cells(figure, "zeroed")
    _, (held,) = heatmap_cells(figure, "top")
    np.testing.assert_array_equal(held, 100 * asked.losses("act", "int8", "mse")["top_energy"])
    worst = {}
    for name, row, change in zip(names, cells, changes, strict=True):
        before, after = (
            asked.losses("act", name, "mse", phase)["sqnr_db"].to_numpy()
            for phase in ("before", "after")
        )
        np.testing.assert_array_equal(row, before)
        rest = asked.losses("act", name, "mse", "before", "sqnr_rest_db")["sqnr_rest_db"]
        np.testing.assert_array_equal(rests[names.index(name)], rest)
        lost = asked.losses("act", name, "mse")["zeroed"]
        np.testing.assert_array_equal(zeroed[names.index(name)], 100 * lost)
        np.testing.assert_allclose(change, after - before)
        worst[name] = f"{int(np.argmin(before))}"
        assert f"{name} {before.min():.1f} dB" in shown_text(figure)
    outlines = artists(figure.axes[0], "outline")
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
        assert artists(figure.axes[4], "cell")


def test_what_was_not_asked_is_not_drawn(synthetic: Synthetic) -> None:
    few = evaluate_whatif(
        synthetic.run, parse_whatif(formats="int4", ranges="max", sparsity="none")
    )
    assert len(plots.format_losses(few, "act").axes) == 5
    none = evaluate_whatif(synthetic.run, parse_whatif(formats="none", sparsity="50"))
    with pytest.raises(RequestError, match="no number formats"):
        plots.format_losses(none, "act")
