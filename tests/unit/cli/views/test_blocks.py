"""Small pictures of block characters: histograms and courses over layers."""

from __future__ import annotations

import numpy as np
from support.synthetic_runs import place, run_of, silu_run

from distviz.cli.views.blocks import histogram_blocks, sparkline, sparklines


def test_a_narrow_console_has_few_bins() -> None:
    narrow = histogram_blocks(silu_run().run, 0, "act", 20).plain
    assert max(map(len, narrow.splitlines())) <= 27


def test_a_sparkline_runs_from_low_to_high() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 0, 7) == "▁▂▃▄▅▆▇█"
    assert sparkline([7, None, 0], 0, 7) == "█ ▁"
    assert sparkline([3, 3], 3, 3) == "▁▁"
    assert sparkline([0.0, 7.0], 0, 7, ascii_only=True) == "_#"


def test_phases_share_their_scale() -> None:
    values = {}
    for layer, scale in enumerate((1.0, 2.0, 3.0)):
        values[place(layer, "before")] = np.array([-scale, scale] * 8, dtype="float32")
        values[place(layer, "after")] = np.array([-2 * scale, 2 * scale] * 8, dtype="float32")
    lines = sparklines(run_of(values, dtype="float32"))
    assert lines[0] == "act by layer, 0 to 2"
    # Standard deviations 1, 2, 3 and 2, 4, 6: from 1 to 6 in seven steps.
    assert "std      before  ▁▂▄  1.00 … 3.00" in lines
    assert "std      after   ▂▅█  2.00 … 6.00" in lines


def test_deep_models_put_several_layers_in_a_mark() -> None:
    values = {
        place(layer, "before"): np.array([-1.0 - layer, 1.0 + layer], dtype="float32")
        for layer in range(100)
    }
    lines = sparklines(run_of(values, dtype="float32"))
    assert lines[0] == "act by layer, 0 to 99, 3 per mark"
    (std,) = [line for line in lines if line.startswith("std")]
    marks = std.removeprefix("std      before  ").split("  ")[0]
    assert len(marks) == 34
    assert marks == "".join(sorted(marks))
    assert std.endswith("1.00 … 100")


def test_one_layer_has_no_course() -> None:
    run = run_of({place(0, "before"): np.ones(4, dtype="float32")}, dtype="float32")
    assert sparklines(run) == []
