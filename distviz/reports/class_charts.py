"""Charts of token classes in the grammar of Vega-Lite. Colours are names behind ``$``."""

from __future__ import annotations

from typing import Any

from distviz.reports.page import Spec

__all__ = ["dots"]


def dots(rows: list[dict[str, Any]], series: dict[str, str]) -> Spec:
    """Return shares by token class, one mark a series; rows have name, series, value, tokens."""
    return {
        "data": {"values": rows},
        "mark": {"type": "point", "filled": True, "size": 90, "opacity": 1},
        "encoding": {
            "y": {"field": "name", "type": "nominal", "sort": None, "axis": {"title": None}},
            "x": {
                "field": "value",
                "type": "quantitative",
                "axis": {"format": ".1%", "title": "near-zero share", "tickCount": 6},
                "scale": {"zero": True},
            },
            "color": {
                "field": "series",
                "type": "nominal",
                "scale": {"domain": list(series), "range": list(series.values())},
                "legend": {"title": None, "orient": "top", "offset": 2},
            },
            "shape": {
                "field": "series",
                "type": "nominal",
                "scale": {"domain": list(series), "range": ["circle", "diamond"][: len(series)]},
                "legend": {"title": None, "orient": "top", "offset": 2},
            },
            "tooltip": [
                {"field": "name", "title": "tokens"},
                {"field": "series", "title": "phase"},
                {"field": "value", "title": "near-zero", "format": ".3%"},
                {"field": "tokens", "title": "how many", "format": ","},
            ],
        },
    }
