"""Charts in the grammar of Vega-Lite. Colours are names behind ``$``, resolved by the page."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from distviz.reports.page import Spec

__all__ = ["COMPARED", "PAIRED", "by_depth", "dots", "heatmap", "intervals", "trade_off"]

_LOG_SPAN = 30.0
_LEGEND = {"title": None, "orient": "top", "offset": 2, "columns": 3}
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


def by_depth(
    rows: list[dict[str, Any]],
    series: dict[str, tuple[str, str]],
    *,
    share: bool = False,
    axis: str = "layer",
) -> Spec:
    """Return lines by layer; ``series`` gives a column's name in words and its colour.

    Pointing anywhere names the nearest layer with all its values. The scale is logarithmic where
    positive values differ by more than a factor of thirty.
    """
    # Plain names for the columns: a dot or a bracket in a name would be read as a path.
    columns = {name: f"v{index}" for index, name in enumerate(series)}
    rows = [
        {"place": row["place"], "kind": row.get("kind", "")}
        | {column: row.get(name) for name, column in columns.items()}
        for row in rows
    ]
    values = [row[c] for row in rows for c in columns.values() if row[c] is not None]
    form = ".2%" if share else ".4~g"
    is_log = _wants_log(values)
    colors = {
        "type": "nominal",
        "scale": {
            "domain": [w for w, _ in series.values()],
            "range": [c for _, c in series.values()],
        },
        "legend": _LEGEND if len(series) > 1 else None,
    }
    x = {
        "field": "place",
        "type": "quantitative",
        "axis": {"title": axis, "tickMinStep": 1, "format": "d", "grid": False},
        "scale": {"zero": False, "nice": False, "padding": 8},
    }
    powers = {"values": _powers(values)} if is_log else {}
    scale = {"type": "log"} if is_log else {"type": "linear", "zero": share}
    y = {
        "type": "quantitative",
        "scale": scale | {"nice": True},
        "axis": {"title": None, "format": form, "tickCount": 4, "minExtent": 42} | powers,
    }
    said = [{"field": "place", "title": axis}, {"field": "kind", "title": "module"}]
    said = said[: 1 + (len({row.get("kind") for row in rows}) > 1)]
    said += [
        {"field": columns[name], "title": word, "format": form}
        for name, (word, _) in series.items()
    ]
    lines = [
        {
            "transform": [{"filter": f"isValid(datum.{columns[name]})"}],
            "mark": _LOOKS[min(index, len(_LOOKS) - 1)],
            "encoding": {
                "x": x,
                "y": y | {"field": columns[name]},
                "color": colors | {"datum": word},
                "detail": {"field": "kind"},
            },
        }
        for index, (name, (word, _)) in enumerate(series.items())
    ]
    return {"data": {"values": rows}, "layer": [*lines, _nearest(x, said)]}


_LOOKS: list[Spec] = [
    {
        "type": "line",
        "strokeWidth": 2.6,
        "opacity": 0.75,
        "point": {"size": 34, "filled": True, "opacity": 1},
    },
    {
        "type": "line",
        "strokeWidth": 1.1,
        "point": {
            "size": 46,
            "filled": False,
            "shape": "diamond",
            "fill": None,
            "strokeWidth": 1.1,
        },
    },
]
"""Where two lines coincide, both can be seen."""


def _nearest(x: Spec, said: list[Spec]) -> Spec:
    """A line at the nearest place that names it with all its values."""
    nearest = {"type": "point", "on": "pointerover", "clear": "pointerout", "nearest": True}
    shown = {"condition": {"param": "hover", "empty": False, "value": 0.5}, "value": 0}
    return {
        "params": [{"name": "hover", "select": nearest | {"encodings": ["x"]}}],
        "mark": {"type": "rule", "color": "$ink", "strokeWidth": 1},
        "encoding": {"x": x, "opacity": shown, "tooltip": said},
    }


def _powers(values: list[float]) -> list[float]:
    """Return the powers of ten that mark a logarithmic scale."""
    first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return [10.0**power for power in range(first, last + 1)]


def _wants_log(values: Iterable[float]) -> bool:
    found = [value for value in values if math.isfinite(value)]
    return bool(found) and min(found) > 0 and max(found) > _LOG_SPAN * min(found)


def intervals(rows: list[dict[str, Any]], color: str, *, axis: str = "layer") -> Spec:
    """Return estimates with intervals by place; filled where the adjusted p is below 0.05.

    Rows have ``place``, ``estimate``, ``low``, ``high``, ``p`` and ``sure``.
    """
    x = {
        "field": "place",
        "type": "quantitative",
        "axis": {"title": axis, "tickMinStep": 1, "format": "d", "grid": False},
        "scale": {"zero": False, "nice": False, "padding": 8},
    }
    value = {"type": "quantitative", "axis": {"title": None, "tickCount": 4, "minExtent": 42}}
    return {
        "data": {"values": rows},
        "layer": [
            {"mark": {"type": "rule", "color": "$muted"}, "encoding": {"y": {"datum": 0}}},
            {
                "transform": [{"filter": "isValid(datum.low)"}],
                "mark": {"type": "rule", "color": color, "strokeWidth": 1.5},
                "encoding": {"x": x, "y": value | {"field": "low"}, "y2": {"field": "high"}},
            },
            {
                "mark": {"type": "point", "size": 42, "color": color, "strokeWidth": 1.4},
                "encoding": {
                    "x": x,
                    "y": value | {"field": "estimate"},
                    "fill": {
                        "condition": {"test": "datum.sure", "value": color},
                        "value": "$ground",
                    },
                    "tooltip": [
                        {"field": "place", "title": axis},
                        {"field": "estimate", "format": "+.4~g"},
                        {"field": "low", "title": "95 % from", "format": "+.4~g"},
                        {"field": "high", "title": "to", "format": "+.4~g"},
                        {"field": "p", "title": "adjusted p", "format": ".3~g"},
                    ],
                },
            },
        ],
    }


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
