"""Charts of the settings of a sweep in the grammar of Vega-Lite. Colours are names behind ``$``."""

from __future__ import annotations

from typing import Any

from distviz.reports.page import Spec

__all__ = ["heatmap", "trade_off"]


def heatmap(rows: list[dict[str, Any]], title: str, form: str, *, log: bool = False) -> Spec:
    """Return one cell a setting; rows have ``band``, ``p1``, ``value``, ``name``, ``chosen``."""
    place = {
        "x": {"field": "p1", "type": "ordinal", "axis": {"title": "p1", "labelAngle": 0}},
        "y": {"field": "band", "type": "ordinal", "sort": None, "axis": {"title": None}},
    }
    scale = {"scheme": "$ramp", "type": "log" if log else "linear"}
    fill = {"field": "value", "type": "quantitative", "scale": scale}
    fill["legend"] = {"title": None, "format": form, "gradientLength": 110}
    return {
        "data": {"values": rows},
        "layer": [
            {
                "mark": {"type": "rect", "stroke": "$ground", "strokeWidth": 1.5},
                "encoding": place
                | {
                    "color": fill,
                    "tooltip": [
                        {"field": "name", "title": "setting"},
                        {"field": "value", "title": title, "format": form},
                    ],
                },
            },
            {
                "transform": [{"filter": "datum.chosen"}],
                "mark": {"type": "rect", "filled": False, "stroke": "$after", "strokeWidth": 3},
                "encoding": place,
            },
        ],
    }


def trade_off(rows: list[dict[str, Any]], budget: float) -> Spec:
    """Return what settings remove against what they cost; the front joined by a line.

    Rows have ``kl``, ``removed``, ``loss``, ``name``, ``front`` and ``chosen``.
    """
    is_log = all(row["kl"] > 0 for row in rows)
    place = {
        "x": {
            "field": "kl",
            "type": "quantitative",
            "scale": {"type": "log" if is_log else "linear", "padding": 14, "nice": False},
            "axis": {"title": "KL divergence, nats", "format": ".2~g", "tickCount": 6},
        },
        "y": {
            "field": "removed",
            "type": "quantitative",
            "axis": {"title": "near-zero share removed", "format": ".1%", "tickCount": 5},
        },
    }
    shown = [
        {"field": "name", "title": "setting"},
        {"field": "removed", "title": "removed", "format": ".2%"},
        {"field": "kl", "title": "KL, nats", "format": ".4~g"},
        {"field": "loss", "title": "loss change, nats", "format": "+.4~g"},
    ]
    return {
        "data": {"values": rows},
        "layer": [
            {
                "data": {"values": [{"budget": budget}]},
                "mark": {"type": "rule", "color": "$muted", "strokeDash": [4, 3]},
                "encoding": {"x": {"field": "budget", "type": "quantitative"}},
            },
            {
                "transform": [{"filter": "datum.front"}],
                "mark": {"type": "line", "color": "$before", "interpolate": "step-after"},
                "encoding": place,
            },
            {
                "mark": {"type": "point", "size": 70, "color": "$before", "strokeWidth": 1.5},
                "encoding": place
                | {
                    "fill": {
                        "condition": [
                            {"test": "datum.chosen", "value": "$after"},
                            {"test": "datum.front", "value": "$before"},
                        ],
                        "value": "$ground",
                    },
                    "tooltip": shown,
                },
            },
        ],
    }
