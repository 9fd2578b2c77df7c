"""The strip below a histogram: counts by brute force, extremes, what it shows of the range."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.synthetic_runs import place, run_of

from distviz import plots
from distviz.plots.before_after_data import paired_bins
from distviz.plots.site_axes import AxisChoice, axes_of
from distviz.stats import Sketch, statistics

SMALL = np.random.default_rng(0).normal(size=4000).astype(np.float32)
WIDE = np.concatenate([SMALL, np.float32([-20.0, 55.0])])
TWO = {place(0, "before"): WIDE, place(0, "after"): 2 * WIDE}


def _data(values: dict[Any, Any], x_axis: str = "linear") -> Any:
    run = run_of(values)
    key = next(iter(run.keys))
    return run, paired_bins(run, 0, axes=axes_of(run, key, AxisChoice(x_axis=x_axis)))


def test_counts_and_extremes_are_those_of_the_values() -> None:
    run, data = _data(TWO)
    assert data.strip is not None
    for row, phase in zip(data.strip.rows, ("before", "after"), strict=True):
        values, counts = run.merged[place(0, phase)].pairs()
        inside = [
            int(counts[(values >= left) & (values < right)].sum())
            for left, right in zip(data.strip.edges[:-1], data.strip.edges[1:], strict=True)
        ]
        assert row.counts.tolist() == inside
        assert row.counts.sum() == WIDE.size
    assert [(row.low, row.high) for row in data.strip.rows] == [(-20.0, 55.0), (-40.0, 110.0)]


def test_one_strip_for_all_layers_of_a_site() -> None:
    run = run_of({place(0, "before"): SMALL, place(1, "before"): 5 * WIDE})
    ends = [axes_of(run, place(layer, "before"), AxisChoice("linear")) for layer in (0, 1)]
    assert ends[0].strip == ends[1].strip
    assert ends[0].strip is not None
    assert ends[0].strip.left < -100
    assert ends[0].strip.right > 275


def test_a_symlog_axis_needs_no_strip() -> None:
    _, data = _data(TWO, "symlog")
    assert data.strip is None
    figure = plots.draw_paired(data, "title")
    assert any("min −20.0, max 55.0" in text.get_text() for text in figure.findobj(_is_text))


@pytest.mark.parametrize("width", [None, "single", "double"])
def test_the_extremes_are_written_inside_the_figure(width: str | None) -> None:
    _, data = _data(TWO)
    figure = plots.draw_paired(data, "title", width=width)
    figure.canvas.draw()
    strip = next(ax for ax in figure.axes if ax.get_gid() == "strip")
    texts = {text.get_text(): text.get_window_extent() for text in strip.texts}
    assert set(texts) == {"−20.0", "55.0", "−40.0", "110"}
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in texts.values())


@pytest.mark.parametrize("values", [[0.0], [3.0], [-1e-30], [np.nan], [np.inf, 1.0]])
def test_few_values(values: list[float]) -> None:
    _, data = _data({place(0, "before"): np.float32(values)})
    plots.draw_paired(data, "title")


def test_the_energy_outside_the_axis() -> None:
    sketch = Sketch()
    sketch.add(torch.from_numpy(WIDE).bfloat16())
    values = torch.from_numpy(WIDE).bfloat16().double().numpy()
    outside = values[(values < -3) | (values > 2)]
    expected = float((outside**2).sum() / (values**2).sum())
    assert statistics.energy_outside(sketch, -3.0, 2.0) == pytest.approx(expected, rel=1e-12)
    assert statistics.energy_outside(Sketch(), 0.0, 1.0) == 0.0


def _is_text(artist: Any) -> bool:
    return hasattr(artist, "get_text")
