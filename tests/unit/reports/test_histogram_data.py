"""The bins of the distributions on the page hold the values, on each of their axes."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from support.html_pages import browsers
from support.synthetic_comparisons import make
from support.synthetic_runs import Synthetic, place, run_of

from distviz.plots import AxisChoice, axes_of
from distviz.reports.histogram_data import compared_frames, first_scales, paired_frames
from distviz.stats import LINEAR, ValueScale
from distviz.studies.comparison import compare_runs

VIEWS = [(scale, span) for scale in ("linear", "symlog") for span in ("all", "own")]


def ends_of(edge: float) -> tuple[float, float]:
    return edge - 1e-7 * abs(edge), edge + 1e-7 * abs(edge)


def scale_of(view: dict[str, Any]) -> ValueScale:
    constant = view["tokens"]["x_scale"].get("constant")
    return LINEAR if constant is None else ValueScale(constant)


@pytest.mark.parametrize(("scale", "span"), VIEWS)
def test_bins_of_the_figure_hold_the_values(
    html: str, synthetic: Synthetic, scale: str, span: str
) -> None:
    (data,) = browsers(html)
    (frames,) = data["groups"].values()
    assert [frame["label"] for frame in frames] == ["layer 0 (first)", "layer 1", "layer 2 (last)"]
    moved = []
    for layer, frame in enumerate(frames):
        view = frame["views"][scale][span]
        assert [panel["title"] for panel in view["panels"]] == ["before", "after"]
        edges = np.array(view["edges"])
        widths = np.diff(scale_of(view).forward(edges))
        widths /= np.median(widths)
        assert view["tokens"]["x_scale"]["domain"] == pytest.approx(edges[[0, -1]])
        for panel in view["panels"]:
            counts = view["columns"][panel["fields"]["n"]] * widths
            raw = synthetic.raw[layer, panel["title"]]
            # A value on an edge may belong to either bin; edges are written with eight digits.
            first = ends_of(edges[0])
            for edge, running in zip(edges, np.cumsum([0, *counts]), strict=True):
                low, high = ends_of(edge)
                least = (raw < low).sum() - (raw <= first[1]).sum()
                most = (raw <= high).sum() - (raw < first[0]).sum()
                # Heights are written with five digits.
                assert least - 0.5 <= running <= most + 0.5
            if "m" in panel["fields"]:
                moved.append((layer, sum(view["columns"][panel["fields"]["m"]] * widths)))
    assert [layer for layer, _ in moved] == [0, 0]
    assert 0 < moved[0][1] <= 0.5 + synthetic.raw[0, "moved_before"].size


def percentage(text: str) -> float:
    return float(text.replace("< ", "").removesuffix(" %")) / 100


@pytest.mark.parametrize(("scale", "span"), VIEWS)
def test_lines_below_the_chart_say_what_is_outside(
    html: str, synthetic: Synthetic, scale: str, span: str
) -> None:
    (data,) = browsers(html)
    (frames,) = data["groups"].values()
    found = 0
    for layer, frame in enumerate(frames):
        view = frame["views"][scale][span]
        left, right = view["tokens"]["x_scale"]["domain"]
        for phase, line in zip(("before", "after"), view["outside"], strict=True):
            raw = synthetic.raw[layer, phase].astype(np.float64)
            beyond = (raw < left) | (raw > right)
            if not beyond.any():
                assert line.startswith(f"{phase}: min ")
                assert "Σx²" not in line
                continue
            found += 1
            energy = float((raw[beyond] ** 2).sum() / (raw**2).sum())
            (written,) = re.findall(r"together (.*) of Σx²", line)
            assert percentage(written) == pytest.approx(energy, rel=0.01, abs=1e-4)
            for side, part in (("below", raw < left), ("above", raw > right)):
                shares = re.findall(rf"(\S+ %) {side} the axis", line)
                assert len(shares) == part.any()
                if shares:
                    assert percentage(shares[0]) == pytest.approx(part.mean(), rel=0.01, abs=1e-4)
    assert (found > 0) == (scale == "linear")


def test_all_layers_of_a_site_have_the_same_axes() -> None:
    rng = np.random.default_rng(1)
    sizes = (0.01, 1.0, 30.0)
    values = {
        place(layer, "before"): rng.normal(0, size, 4000).astype("float32")
        for layer, size in enumerate(sizes)
    }
    values |= {
        key._replace(stack="encoder"): array * np.float32(1e3) for key, array in values.items()
    }
    run = run_of(values, dtype="float32")
    groups = paired_frames(run)
    assert list(groups) == ["act", "encoder: act"]
    for frames in groups.values():
        for scale in ("linear", "symlog"):
            shown = [frame["views"][scale]["all"]["tokens"] for frame in frames]
            assert len({str(one["x_scale"]) for one in shown}) == 1
            own = [frame["views"][scale]["own"]["tokens"]["x_scale"] for frame in frames]
            assert len({str(one) for one in own}) == len(sizes)


@pytest.mark.parametrize("x_axis", ["auto", "linear", "symlog"])
def test_the_choice_decides_what_is_shown_first(synthetic: Synthetic, x_axis: str) -> None:
    choice = AxisChoice(x_axis, centred=True)
    first = axes_of(synthetic.run, place(0, "before"), choice).x_axis
    assert first_scales(synthetic.run, choice) == {"act": first}
    assert x_axis in ("auto", first)
    for frame in paired_frames(synthetic.run, choice)["act"]:
        for scale, span in VIEWS:
            left, right = frame["views"][scale][span]["tokens"]["x_scale"]["domain"]
            assert left == -right


def test_a_comparison_has_the_same_views() -> None:
    compared = compare_runs(make(1).run, make(2, scale=3.0).run)
    choice = AxisChoice("symlog", centred=True)
    assert first_scales(compared, choice) == {"act": "symlog"}
    for frame in compared_frames(compared, choice)["act"]:
        for scale, span in VIEWS:
            views = frame["views"][scale]
            view = views.get(span, views["all"])
            left, right = view["tokens"]["x_scale"]["domain"]
            assert left == -right
            assert [line[:3] for line in view["outside"]] == ["A: ", "B: "]
            assert set(view["columns"]) == {"A", "B"}


def test_a_run_without_a_change_has_no_names_of_phases() -> None:
    values = np.linspace(-1, 2, 300, dtype="float32")
    run = run_of({place(layer, "before"): values for layer in (0, 1)}, dtype="float32")
    for frame in paired_frames(run)["act"]:
        assert frame["numbers"][0] == []
        (line,) = frame["views"]["symlog"]["all"]["outside"]
        assert line == "min −1.00, max 2.00"
        (panel,) = frame["views"]["linear"]["all"]["panels"]
        assert panel["title"] == ""
