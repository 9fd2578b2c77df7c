"""Charts of distributions, bin by bin, in the grammar of Vega-Lite.

Colours are names behind ``$``.
"""

from __future__ import annotations

from typing import Any

from distviz.reports.page import Spec

__all__ = ["COMPARED", "PAIRED"]

_STEP = {"type": "area", "interpolate": "step-after", "line": False, "clip": True}
_X = {
    "field": "l",
    "type": "quantitative",
    "scale": {"domain": "$window", "nice": False, "zero": False},
    "axis": {"title": "$axis", "grid": False},
}
_Y_AXIS = {"minExtent": 46, "tickCount": 5, "format": "$format", "title": "$unit"}
_Y_SCALE = {"type": "$scale", "domain": "$heights", "nice": False, "clamp": True}
_BAND: Spec = {
    "data": {"values": [{}]},
    "mark": {"type": "rect", "color": "$band", "clip": True, "tooltip": None},
    "encoding": {"x": {"datum": "$eps_left"}, "x2": {"datum": "$eps_right"}},
}


def _shape(top: str, bottom: Any, color: str, name: str) -> Spec:
    below = {"field": bottom} if isinstance(bottom, str) else bottom
    return {
        "name": name,
        "mark": _STEP | {"color": color},
        "encoding": {
            "x": _X,
            "y": {"field": top, "type": "quantitative", "scale": _Y_SCALE, "axis": _Y_AXIS},
            "y2": below,
        },
    }


def _outline(field: str, color: str, width: float) -> Spec:
    return {
        "transform": [{"filter": f"isValid(datum.{field})"}],
        "mark": {
            "type": "line",
            "interpolate": "step-after",
            "color": color,
            "strokeWidth": width,
            "clip": True,
        },
        "encoding": {"x": _X, "y": {"field": field, "type": "quantitative", "scale": _Y_SCALE}},
    }


def _hover(fields: dict[str, str], number: str) -> Spec:
    """Bars as high as the chart that cannot be seen until one points at them."""
    said = [{"field": "range", "title": "bin"}]
    said += [{"field": name, "title": word, "format": number} for name, word in fields.items()]
    return {
        "transform": [{"filter": "datum.r > datum.l"}],
        "params": [
            {
                "name": "hover",
                "select": {"type": "point", "on": "pointerover", "clear": "pointerout"},
            }
        ],
        "mark": {"type": "rect", "color": "$ink", "clip": True},
        "encoding": {
            "x": _X,
            "x2": {"field": "r"},
            "opacity": {"condition": {"param": "hover", "empty": False, "value": 0.18}, "value": 0},
            "tooltip": said,
        },
    }


def _floored(*fields: str) -> list[Spec]:
    """On a logarithmic scale bars begin below one value."""
    return [
        {
            "calculate": f"isValid(datum.{name}) ? max(datum.{name}, $floor) : null",
            "as": f"{name}_",
        }
        for name in fields
    ]


_FLOOR = {"datum": "$floor"}
_MOVES: Spec = {
    "transform": [{"calculate": "datum.n - datum.m", "as": "rest"}, *_floored("n", "rest", "o")],
    "layer": [
        _BAND,
        _shape("n_", _FLOOR, "$light", "bars"),
        _shape("n_", "rest_", "$dark", "moved"),
        _outline("o_", "$outline", 1.2),
        _hover({"n": "values", "m": "of these moved"}, ","),
    ],
}
_SIDES: Spec = {
    "transform": _floored("a", "b"),
    "layer": [
        _BAND,
        _shape("a_", _FLOOR, "$before-light", "a"),
        _outline("b_", "$after", 1.8),
        _hover({"a": "A", "b": "B"}, ".3%"),
    ],
}
_DIFFERENCE: Spec = {
    "transform": [
        {"calculate": "max(datum.b - datum.a, 0)", "as": "more"},
        {"calculate": "min(datum.b - datum.a, 0)", "as": "less"},
        {"calculate": "datum.b - datum.a", "as": "change"},
    ],
    "layer": [
        _BAND,
        _shape("more", {"datum": 0}, "$after", "more"),
        _shape("less", {"datum": 0}, "$before", "less"),
        _hover({"change": "B − A"}, "+.3%"),
    ],
}

PAIRED = {"paired": _MOVES}
"""What a browser of paired distributions draws: a phase, the mass that moves in the strong tone."""
COMPARED = {"sides": _SIDES, "difference": _DIFFERENCE}
"""What a browser of compared distributions draws: A filled and B as a line; their difference."""
