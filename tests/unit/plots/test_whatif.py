"""Number formats and zeros: the lines against the table."""

from __future__ import annotations

import numpy as np
import pytest
from support.artists import lines_by_gid
from support.synthetic_runs import Synthetic

from distviz import plots
from distviz.errors import RequestError
from distviz.results.whatif import WhatIf
from distviz.studies.whatif import evaluate_whatif, parse_whatif


@pytest.fixture(scope="module")
def asked(synthetic: Synthetic) -> WhatIf:
    questions = parse_whatif(sparsity="25,50,90", thresholds="0.05,1", percentile=99)
    return evaluate_whatif(synthetic.run, questions, "mine")


def test_the_figure_of_formats_draws_the_table(asked: WhatIf) -> None:
    figure = plots.format_losses(asked, "act")
    lines = lines_by_gid(figure)
    for name, range_ in asked.kinds("act"):
        rows = asked.losses("act", name, range_)
        drawn = lines[f"{name}-{range_}-before"]
        assert list(drawn.get_xdata()) == list(rows["layer"])
        np.testing.assert_array_equal(drawn.get_ydata(), rows["sqnr_db"])
    after = asked.losses("act", "int8", "mse", "after")["sqnr_db"]
    np.testing.assert_array_equal(lines["int8-mse-after"].get_ydata(), after)
    titles = [ax.get_title(loc="right") for ax in figure.axes]
    worst = asked.losses("act", "int4", "mse").sort_values("sqnr_db")
    expected = ", ".join(
        f"{row['layer']} ({row['sqnr_db']:.1f})" for row in worst.to_dict("records")
    )
    assert f"worst layers {expected}" in titles


def test_the_figure_of_zeros_draws_the_table(asked: WhatIf) -> None:
    figure = plots.zeros_kept(asked, "act")
    lines = lines_by_gid(figure)
    for layer in range(3):
        rows = [asked.thinned("act", level).iloc[layer] for level in (0.25, 0.5, 0.9)]
        drawn = lines[f"layer-{layer}-before"]
        np.testing.assert_array_equal(drawn.get_xdata(), [row["zeros"] for row in rows])
        np.testing.assert_array_equal(drawn.get_ydata(), [row["l2_kept"] for row in rows])
    for level in (0.25, 0.5, 0.9):
        for column in ("l2_kept", "threshold"):
            for phase in ("before", "after"):
                drawn = lines[f"{column}-{level:g}-{phase}"].get_ydata()
                np.testing.assert_array_equal(drawn, asked.thinned("act", level, phase)[column])
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


def test_what_was_not_asked_is_not_drawn(synthetic: Synthetic) -> None:
    few = evaluate_whatif(
        synthetic.run, parse_whatif(formats="int4", ranges="max", sparsity="none")
    )
    assert len(plots.format_losses(few, "act").axes) == 1
    with pytest.raises(RequestError, match="no levels of sparsity"):
        plots.zeros_kept(few, "act")
    none = evaluate_whatif(synthetic.run, parse_whatif(formats="none", sparsity="50"))
    with pytest.raises(RequestError, match="no number formats"):
        plots.format_losses(none, "act")
