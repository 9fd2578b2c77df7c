"""Small pictures of block characters: histograms and courses over layers."""

from __future__ import annotations

import numpy as np
import pytest
from support.synthetic_runs import place, run_of, silu_run

from distviz.cli.views.blocks import histogram_blocks, sparkline, sparklines
from distviz.plots import AxisChoice
from distviz.results import Run


def test_a_narrow_console_has_few_bins() -> None:
    narrow = histogram_blocks(silu_run().run, 0, "act", 20).plain
    assert max(map(len, narrow.splitlines())) <= 27


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("tail", [1.0, -1.0])
def test_a_peaked_place_shows_what_arm_moved(tail: float, *, ascii_only: bool) -> None:
    rng = np.random.default_rng(3)
    before = np.concatenate([rng.normal(0, 0.02, 30_000), tail * rng.exponential(0.3, 10_000)])
    near = np.argsort(np.abs(before))[: before.size // 20]
    after = before.copy()
    after[near] = np.where(before[near] < 0, -0.03, 0.03)
    values = {place(0, "before"): before, place(0, "after"): after}
    run = run_of({key: array.astype("float32") for key, array in values.items()}, dtype="float32")
    *rows, axis, legend = histogram_blocks(run, 0, ascii_only=ascii_only).plain.splitlines()
    drawn = [[row[7:] for row in rows[start : start + 4]] for start in (0, 4)]
    assert drawn[0] != drawn[1]
    assert "square root" in legend
    assert len(axis.split()) == 3
    assert axis.split()[1] == "0"
    assert max(map(len, [*rows, axis])) <= 79


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
    marks = std.removeprefix("std      ").split("  ")[0]
    assert len(marks) == 34
    assert marks == "".join(sorted(marks))
    assert std.endswith("1.00 … 100")


def test_one_layer_has_no_course() -> None:
    run = run_of({place(0, "before"): np.ones(4, dtype="float32")}, dtype="float32")
    assert sparklines(run) == []


def _unlike_layers() -> Run:
    rng = np.random.default_rng(2)
    values = {
        place(layer, phase): (rng.standard_t(5, 4000) * size).astype("float32")
        for layer, size in enumerate((0.01, 1.0, 50.0))
        for phase in ("before", "after")
    }
    return run_of(values, dtype="float32")


def test_the_scale_is_that_of_all_layers_unless_it_is_named() -> None:
    run = _unlike_layers()
    for layer in (0, 1, 2):
        shown = histogram_blocks(run, layer).plain
        assert "axis: symmetric logarithmic" in shown
        assert "logarithmic" not in histogram_blocks(run, layer, axes=AxisChoice("linear")).plain
    *_, axis, _ = histogram_blocks(run, 2).plain.splitlines()
    assert {"-100", "0", "100"} <= set(axis.split())
    assert axis.index("-100") < axis.index(" 0 ") < axis.index(" 100")


@pytest.mark.parametrize("x_axis", ["linear", "symlog"])
def test_zero_can_be_in_the_middle(x_axis: str) -> None:
    values = np.abs(np.random.default_rng(1).normal(size=3000)).astype("float32")
    run = run_of({place(0, "before"): values}, dtype="float32")
    lines = histogram_blocks(run, 0, axes=AxisChoice(x_axis, centred=True)).plain.splitlines()
    words = lines[4].split()
    assert words[0] == f"-{words[-1]}"
