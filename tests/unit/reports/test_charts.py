"""Charts of the page: scales, curves, withheld intervals."""

from __future__ import annotations

from typing import Any

import pytest
from matplotlib import colormaps

from distviz.plots import COST, LOSS
from distviz.reports import axes, charts


def _lines(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [layer for layer in spec["layer"] if layer["mark"]["type"] == "line"]


@pytest.mark.parametrize(
    ("values", "scale"), [([1.0, 29.0], "linear"), ([1.0, 31.0], "log"), ([0.0, 99.0], "linear")]
)
def test_the_scale_is_logarithmic_over_a_wide_range(values: list[float], scale: str) -> None:
    rows = [{"place": layer, "x.y": value} for layer, value in enumerate(values)]
    spec = charts.by_depth(rows, {"x.y": ("title", "$ink")})
    (line,) = _lines(spec)
    assert line["encoding"]["y"]["scale"]["type"] == scale
    assert [row["v0"] for row in spec["data"]["values"]] == values
    assert line["encoding"]["color"]["legend"] is None


def test_curves_share_their_layers() -> None:
    chart = charts.layer_curves("t", {"a": [(1, 0.5)], "b": [(0, 2.0), (1, None)]}, share=False)
    assert chart is not None
    rows = chart.spec["data"]["values"]
    assert [(row["place"], row.get("v0"), row.get("v1")) for row in rows] == [
        (0, None, 2.0),
        (1, 0.5, None),
    ]
    assert len(_lines(chart.spec)) == 2
    assert charts.layer_curves("t", {"a": [(1, None)]}, share=False) is None


@pytest.mark.parametrize(("low", "layers"), [(None, 2), (-0.1, 3)])
def test_withheld_intervals_have_no_bars(low: float | None, layers: int) -> None:
    row = {"place": 0, "estimate": 0.1, "low": low, "high": low, "p": 0.2, "significant": False}
    assert len(charts.intervals([row], "$ink")["layer"]) == layers


def test_token_classes_have_a_colour_and_a_shape_per_series() -> None:
    spec = charts.class_shares([], {"before": "$before", "after": "$after"})
    assert spec["encoding"]["color"]["scale"]["range"] == ["$before", "$after"]
    assert spec["encoding"]["shape"]["scale"]["range"] == ["circle", "diamond"]


@pytest.mark.parametrize(
    ("colors", "scheme", "worst"),
    [(LOSS, "yelloworangebrown", 0.0), (COST, "yelloworangebrown", 1.0)],
)
def test_maps_have_the_colours_of_figures_and_their_worst_end_is_dark(
    colors: str, scheme: str, worst: float
) -> None:
    cells = [{"x": 0, "y": "a", "value": 1.0, "name": "a", "chosen": False}]
    spec = charts.heatmap(cells, "t", axes.NUMBER, x="x", y="y", colors=colors)
    scale = spec["layer"][0]["encoding"]["color"]["scale"]
    assert (scale["scheme"], scale["reverse"]) == (scheme, worst == 0)
    brightness = [sum(colormaps[colors](place)[:3]) for place in (worst, 0.5, 1 - worst)]
    assert brightness == sorted(brightness)
