"""Counts of a layer on shared bins: every value counted, the scale of the counts."""

from __future__ import annotations

import numpy as np
from support.synthetic_runs import Synthetic, place, run_of, silu_run

from distviz import plots


def test_log_is_chosen_where_one_bar_dwarfs_the_rest() -> None:
    values = np.concatenate([np.zeros(100_000), np.linspace(-1, 1, 5000)]).astype(np.float32)
    run = run_of({place(0, "before"): values})
    assert plots.paired(run, 0).axes[0].get_yscale() == "log"
    assert plots.paired(run, 0, log=False).axes[0].get_yscale() == "linear"
    assert not plots.paired_bins(silu_run().run, 0).log


def test_sketches_count_what_the_figure_counts(synthetic: Synthetic) -> None:
    data = plots.paired_bins(synthetic.run, 0)
    for panel in data.panels:
        assert int(panel.counts.sum()) == panel.count == synthetic.raw[0, panel.phase].size
        left, right = data.beyond(panel)
        assert left + right + int(data.inside(panel.counts).sum()) == panel.count
