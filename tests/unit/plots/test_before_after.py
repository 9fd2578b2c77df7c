"""Distributions of a layer before and after ARM: the artists against the raw values."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from support.artists import artists, counted, panels, stairs, texts_of
from support.golden_images import assert_golden
from support.synthetic_runs import Synthetic, place, run_of, silu_run

from distviz import plots
from distviz.errors import RequestError
from distviz.plots import style
from distviz.plots.histograms import site_description


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("log", [False, True])
def test_bar_heights_are_counts_of_the_raw_values(dtype: torch.dtype, log: bool) -> None:
    made = silu_run(dtype)
    figure = plots.paired(made.run, 0, log=log)
    for axes, phase in zip(panels(figure), ("before", "after"), strict=True):
        heights, edges, _ = stairs(axes)
        raw = made.raw[0, phase]
        if dtype == torch.float32:
            raw = torch.from_numpy(raw).float().bfloat16().double().numpy()
        counts = counted(raw, edges)
        usual = np.median(np.diff(edges))
        floor = min(0.7, 0.7 * (counts[counts > 0] / (np.diff(edges) / usual)[counts > 0]).min())
        expected = np.maximum(counts / (np.diff(edges) / usual), floor if log else 0)
        if log:
            assert axes.get_ylim()[0] <= floor + 1e-12
            expected = np.maximum(expected, axes.get_ylim()[0])
        np.testing.assert_allclose(heights, expected, rtol=1e-12)
        assert axes.get_yscale() == ("log" if log else "linear")


@pytest.mark.parametrize(
    ("axes_index", "whole", "part"), [(0, "before", "moved_before"), (1, "after", "moved_after")]
)
def test_the_dark_mass_is_what_moves(
    synthetic: Synthetic, axes_index: int, whole: str, part: str
) -> None:
    axes = plots.paired(synthetic.run, 0, log=False).axes[axes_index]
    tops, edges, bottoms = stairs(axes, "moved")
    moved = counted(synthetic.raw[0, part], edges)
    widths = np.diff(edges) / np.median(np.diff(edges))
    np.testing.assert_allclose((tops - bottoms) * widths, moved, atol=1e-9)
    np.testing.assert_allclose(tops * widths, counted(synthetic.raw[0, whole], edges), rtol=1e-12)
    assert moved.sum() > 0


def test_panels_share_bins_and_a_window_that_can_be_centred_on_zero(synthetic: Synthetic) -> None:
    above, below = panels(plots.paired(synthetic.run, 0, centred=True))
    assert above.get_xlim() == below.get_xlim()
    assert above.get_ylim() == below.get_ylim()
    left, right = above.get_xlim()
    assert left == -right
    edges = stairs(above)[1]
    np.testing.assert_array_equal(edges, stairs(below)[1])
    assert edges[[0, -1]].tolist() == [left, right]
    widths = np.diff(edges)
    # Bins are wider where values of the grid are missing.
    assert np.quantile(widths, 0.95) < 1.5 * np.median(widths)
    assert widths.max() < 4 * np.median(widths)


def test_the_band_ends_at_eps(synthetic: Synthetic) -> None:
    figure = plots.paired(synthetic.run, 0)
    magnitudes = np.sort(np.abs(synthetic.raw[0, "before"]))
    center = magnitudes[(magnitudes.size - 1) // 2]
    mad = np.sort(np.abs(magnitudes - center))[(magnitudes.size - 1) // 2]
    eps = 1.4826 * mad * 0.13
    for axes in panels(figure):
        (band,) = artists(axes, "near-zero")
        assert (band.get_x(), band.get_width()) == pytest.approx((-eps, 2 * eps), rel=1e-12)
    assert any(f"ε = {eps:.4f}"[:9] in word for word in texts_of(figure))


def test_texts_say_what_was_measured(synthetic: Synthetic) -> None:
    words = texts_of(plots.paired(synthetic.run, 0))
    assert "synthetic · layer 0 (first) · act · 24,576 values" in words
    assert any("ARM: c = 0.13, p1 = 99.5" in word for word in words)
    moved = synthetic.raw[0, "moved_before"].size
    assert f"k = {moved:,} ({100 * moved / 24576:.2f} %)" in words
    assert {"before", "after", "moves away", "received", "before, for comparison"} <= set(words)
    for phase in ("before", "after"):
        assert f"{synthetic.raw[0, phase].std():.3f}" in words
    last = texts_of(plots.paired(synthetic.run, 2))
    assert "synthetic · layer 2 (last) · act · 24,576 values" in last
    assert any(word.endswith("ARM in layer 0") for word in last)


def test_arrows_start_at_the_tip_and_land_on_both_sides(synthetic: Synthetic) -> None:
    figure = plots.paired(synthetic.run, 0)
    arrows = [artist for artist in figure.artists if artist.get_gid() == "arrow"]
    assert 2 <= len(arrows) <= 6
    ends = []
    for arrow in arrows:
        vertices = (
            arrow.get_path().vertices
            if arrow._path_original is None
            else (arrow._path_original.vertices)
        )
        in_pixels = figure.transFigure.transform(vertices)
        start = figure.axes[0].transData.inverted().transform(in_pixels[0])
        end = figure.axes[1].transData.inverted().transform(in_pixels[-1])
        heights, edges, bottoms = stairs(figure.axes[0], "moved")
        tip = int(np.argmax(heights - bottoms))
        assert bottoms[tip] <= start[1] <= heights[tip]
        received, _, rest = stairs(figure.axes[1], "moved")
        target = int(np.searchsorted(edges, end[0])) - 1
        assert received[target] > rest[target]
        assert end[1] >= received[target]
        ends.append(end[0])
    assert min(ends) < 0 < max(ends)


def test_later_layers_have_no_dark_mass_and_no_arrows(synthetic: Synthetic) -> None:
    figure = plots.paired(synthetic.run, 1)
    assert len(panels(figure)) == 2
    assert not any(artists(axes, "moved") for axes in panels(figure))
    assert not [artist for artist in figure.artists if artist.get_gid() == "arrow"]


def test_without_arm_one_panel() -> None:
    run = run_of({place(0, "before"): np.linspace(-1, 2, 500, dtype=np.float32)})
    figure = plots.paired(run, 0)
    assert len(panels(figure)) == 1
    words = texts_of(figure)
    assert not {"before", "after"} & set(words)
    site = site_description("act")
    assert "ARM" in site
    assert not any("ARM" in word.replace(site, "") for word in words)


def test_sites_that_are_patterns_say_which_side_of_the_module_they_observe() -> None:
    assert site_description("module:*.o_proj") == "output of the module"
    assert site_description("input:*.o_proj") == "input of the module"


def test_after_another_arm_layer_the_dark_mass_stands_on_arm_input() -> None:
    generator = np.random.default_rng(3)
    arriving = generator.normal(size=4000).astype(np.float32)
    leaving = arriving[np.abs(arriving) < 0.05]
    values = {
        place(1, "before"): generator.normal(size=4000).astype(np.float32),
        place(1, "arm_input"): arriving,
        place(1, "moved_before"): leaving,
        place(1, "moved_after"): leaving + np.float32(1),
        place(1, "after"): np.where(np.abs(arriving) < 0.05, arriving + 1, arriving),
    }
    run = run_of(values)
    figure = plots.paired(run, 1, log=False)
    heights, edges, _ = stairs(figure.axes[0])
    rounded = torch.from_numpy(arriving).bfloat16().double().numpy()
    widths = np.diff(edges) / np.median(np.diff(edges))
    np.testing.assert_allclose(heights * widths, counted(rounded, edges), rtol=1e-12)
    tops, _, bottoms = stairs(figure.axes[0], "moved")
    assert (bottoms >= 0).all()
    assert ((tops - bottoms) * widths).sum() == pytest.approx(leaving.size)
    assert artists(figure.axes[0], "outline")
    assert "ARM input, for comparison" in texts_of(figure)


DEGENERATE = {
    "zeros": np.zeros(50, np.float32),
    "one value": np.full(50, 3.7, np.float32),
    "single": np.array([2.5], np.float32),
    "nan only": np.full(50, np.nan, np.float32),
    "nothing": np.zeros(0, np.float32),
    "huge": np.array([-3e38, 1e38, 3e38], np.float32),
    "infinite": np.array([1, np.inf, -np.inf, np.nan], np.float32),
}


@pytest.mark.parametrize("values", DEGENERATE.values(), ids=DEGENERATE.keys())
@pytest.mark.parametrize("log", ["auto", True, False])
def test_degenerate_data_draw(values: Any, log: bool | str, tmp_path: Path) -> None:
    phases = ("before", "after", "moved_before", "moved_after")
    run = run_of({place(0, phase): values for phase in phases})
    figure = plots.paired(run, 0, log=log)
    with style.styled():
        figure.savefig(tmp_path / "paired.png")
        if log == "auto":  # the overview has no such choice
            plots.overview(run).savefig(tmp_path / "overview.png")
    finite = int(np.isfinite(values).sum())
    assert ("no finite value" in texts_of(figure)) == (finite == 0)
    assert f"{finite:,}" in texts_of(figure)


def test_what_the_run_does_not_hold_is_refused(synthetic: Synthetic) -> None:
    with pytest.raises(RequestError, match="no layer 7, site act"):
        plots.paired(synthetic.run, 7)
    with pytest.raises(RequestError, match="no module 'x' observed at site act"):
        plots.paired(synthetic.run, 0, module="x")


def test_modules_of_a_layer_are_distinguished() -> None:
    values = {
        place(0, "before", module=f"model.layers.0.mlp.experts.{index}"): np.full(
            10 * (index + 1), 0.5, np.float32
        )
        for index in range(2)
    }
    run = run_of(values)
    figure = plots.paired(run, 0, module="model.layers.0.mlp.experts.1")
    assert "synthetic · layer 0 (first) · act · 20 values" in texts_of(figure)


def test_drawing_leaves_the_run_and_the_global_style_alone(synthetic: Synthetic) -> None:
    tables = {key: sketch.table.copy() for key, sketch in synthetic.run.merged.items()}
    manifest = copy.deepcopy(synthetic.run.manifest)
    settings = dict(mpl.rcParams)
    plots.paired(synthetic.run, 0)
    plots.overview(synthetic.run)
    assert dict(mpl.rcParams) == settings
    assert synthetic.run.manifest == manifest
    for key, table in tables.items():
        np.testing.assert_array_equal(synthetic.run.merged[key].table, table)


@pytest.mark.parametrize(
    ("name", "layer", "log"), [("paired_arm", 0, "auto"), ("paired_log", 2, True)]
)
def test_golden_images(
    synthetic: Synthetic, name: str, layer: int, log: bool | str, tmp_path: Path
) -> None:
    assert_golden(plots.paired(synthetic.run, layer, log=log), name, tmp_path)
