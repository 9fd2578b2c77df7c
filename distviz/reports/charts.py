"""Charts of the page in the grammar of Vega-Lite.

Strings that begin with ``$`` name colours of the palette or values of a browser's frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from distviz.reports.page import Chart, Spec

COLORS = ("$before", "$after", "$ks", "$w1", "$js", "$muted")
_LOG_SPAN = 30.0
_SHORT = 12
"""Characters of names of which three fit side by side on a phone."""


def _tooltip(*fields: tuple[str, str, str]) -> list[Spec]:
    """Return the lines of a tooltip from fields, titles and number formats."""
    return [
        {"field": field, "title": title} | ({"format": form} if form else {})
        for field, title, form in fields
    ]


def _layer(encoding: Spec, where: str = "", **mark: Any) -> Spec:
    """Return marks of one kind, of the rows that pass a filter."""
    found = {"mark": mark, "encoding": encoding}
    return found | ({"transform": [{"filter": where}]} if where else {})


# By layer, or by number of fillers


def by_depth(
    rows: list[dict[str, Any]],
    series: dict[str, tuple[str, str]],
    *,
    share: bool = False,
    axis: str = "layer",
) -> Spec:
    """Return lines by layer; ``series`` gives a column's title and its colour.

    Pointing anywhere shows all values of the nearest layer. The scale is logarithmic where
    positive values differ by more than a factor of thirty. Rows have ``place``, the columns and
    ``kind``, which separates the lines of several modules.
    """
    # Columns get plain names: a dot or a bracket in a name would be read as a path.
    columns = {name: f"v{index}" for index, name in enumerate(series)}
    rows = [
        {"place": row["place"], "kind": row.get("kind", "")}
        | {column: row.get(name) for name, column in columns.items()}
        for row in rows
    ]
    values = [row[column] for row in rows for column in columns.values()]
    form = ".2%" if share else ".4~g"
    titles = [title for title, _ in series.values()]
    colors = {
        "type": "nominal",
        "scale": {"domain": titles, "range": [color for _, color in series.values()]},
        "legend": _legend(titles),
    }
    x = _places(axis)
    y = _values(values, form, share=share)
    lines = []
    for index, (name, title) in enumerate(zip(series, titles, strict=True)):
        place = {"x": x, "y": y | {"field": columns[name]}, "detail": {"field": "kind"}}
        place["color"] = colors | {"datum": title}
        lines.append(_layer(place, f"isValid(datum.{columns[name]})", **_LINES[min(index, 1)]))
    has_kinds = len({row["kind"] for row in rows}) > 1
    shown = _tooltip(
        ("place", axis, ""),
        *([("kind", "module", "")] if has_kinds else []),
        *((columns[name], title, form) for name, (title, _) in series.items()),
    )
    return {"data": {"values": rows}, "layer": [*lines, _nearest(x, shown)]}


def _places(axis: str) -> Spec:
    return {
        "field": "place",
        "type": "quantitative",
        "axis": {"title": axis, "tickMinStep": 1, "format": "d", "grid": False},
        "scale": {"zero": False, "nice": False, "padding": 8},
    }


_VALUE_AXIS: Spec = {"title": None, "tickCount": 4, "minExtent": 42}


def _values(values: Iterable[float | None], form: str, *, share: bool) -> Spec:
    known = [value for value in values if value is not None and math.isfinite(value)]
    axis = _VALUE_AXIS | {"format": form}
    scale: Spec = {"type": "linear", "zero": share, "nice": True}
    if known and min(known) > 0 and max(known) > _LOG_SPAN * min(known):
        first, last = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
        axis["values"] = [10.0**power for power in range(first, last + 1)]
        scale = {"type": "log", "nice": True}
    return {"type": "quantitative", "scale": scale, "axis": axis}


def _legend(titles: Sequence[str]) -> Spec | None:
    if len(titles) < 2:
        return None
    columns = 3 if max(map(len, titles)) <= _SHORT else 2
    return {"title": None, "orient": "top", "offset": 2, "columns": columns}


_DIAMOND = {"size": 46, "filled": False, "shape": "diamond", "fill": None, "strokeWidth": 1.1}
_DOT = {"size": 34, "filled": True, "opacity": 1}
_LINES: list[Spec] = [
    {"type": "line", "strokeWidth": 2.6, "opacity": 0.75, "point": _DOT},
    {"type": "line", "strokeWidth": 1.1, "point": _DIAMOND},
]
"""Both lines are visible where they coincide."""


def _nearest(x: Spec, shown: list[Spec]) -> Spec:
    """Return a line at the nearest place, with all its values in a tooltip."""
    nearest = {"type": "point", "on": "pointerover", "clear": "pointerout", "nearest": True}
    return {
        "params": [{"name": "hover", "select": nearest | {"encodings": ["x"]}}],
        "mark": {"type": "rule", "color": "$ink", "strokeWidth": 1},
        "encoding": {"x": x, "opacity": _opacity(0.5), "tooltip": shown},
    }


def _opacity(value: float) -> Spec:
    """Return the opacity of a mark that is visible only under the pointer."""
    return {"condition": {"param": "hover", "empty": False, "value": value}, "value": 0}


def layer_curves(
    title: str, curves: dict[str, list[tuple[int, Any]]], *, share: bool, height: int = 170
) -> Chart | None:
    """Return a chart of curves of layers and values; None where no value is finite.

    There are at most as many curves as `COLORS`.
    """
    rows: dict[int, dict[str, Any]] = {}
    for name, points in curves.items():
        for layer, value in points:
            rows.setdefault(layer, {"place": layer})[name] = value
    if all(row.get(name) is None for row in rows.values() for name in curves):
        return None
    series = {name: (name, color) for name, color in zip(curves, COLORS, strict=False)}
    ordered = [rows[layer] for layer in sorted(rows)]
    return Chart(title, by_depth(ordered, series, share=share), height)


def intervals(rows: list[dict[str, Any]], color: str, *, axis: str = "layer") -> Spec:
    """Return estimates with intervals by place; filled where the adjusted p is significant.

    Rows have ``place``, ``estimate``, ``low``, ``high``, ``p`` and ``significant``.
    """
    x = _places(axis)
    y = {"type": "quantitative", "axis": _VALUE_AXIS}
    ends = {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"}}
    bars = _layer(ends, "isValid(datum.low)", type="rule", color=color, strokeWidth=1.5)
    # Vega warns of a layer without data, where intervals are withheld.
    shown_bars = [bars] if any(row["low"] is not None for row in rows) else []
    shown = _tooltip(
        ("place", axis, ""),
        ("estimate", "estimate", "+.4~g"),
        ("low", "95 % from", "+.4~g"),
        ("high", "to", "+.4~g"),
        ("p", "adjusted p", ".3~g"),
    )
    fill = {"condition": {"test": "datum.significant", "value": color}, "value": "$ground"}
    place = {"x": x, "y": y | {"field": "estimate"}, "fill": fill, "tooltip": shown}
    marks = _layer(place, type="point", size=42, color=color, strokeWidth=1.4)
    zero = _layer({"y": {"datum": 0}}, type="rule", color="$muted")
    return {"data": {"values": rows}, "layer": [zero, *shown_bars, marks]}


# By token class


def class_shares(rows: list[dict[str, Any]], series: dict[str, str]) -> Spec:
    """Return shares by token class, one mark per series.

    Rows have ``name``, ``series``, ``value`` and ``tokens``; ``series`` gives the colours.
    """
    legend = {"title": None, "orient": "top", "offset": 2}
    named = {"field": "series", "type": "nominal", "legend": legend}
    shapes = ["circle", "diamond"][: len(series)]
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
            "color": named | {"scale": {"domain": list(series), "range": list(series.values())}},
            "shape": named | {"scale": {"domain": list(series), "range": shapes}},
            "tooltip": _tooltip(
                ("name", "tokens", ""),
                ("series", "phase", ""),
                ("value", "near-zero", ".3%"),
                ("tokens", "count", ","),
            ),
        },
    }


# Settings of a sweep


def heatmap(rows: list[dict[str, Any]], title: str, form: str) -> Spec:
    """Return one cell per setting; rows have ``band``, ``p1``, ``value``, ``name``, ``chosen``."""
    place = {
        "x": {"field": "p1", "type": "ordinal", "axis": {"title": "p1", "labelAngle": 0}},
        "y": {"field": "band", "type": "ordinal", "sort": None, "axis": {"title": None}},
    }
    fill = {
        "field": "value",
        "type": "quantitative",
        "scale": {"scheme": "$ramp", "type": "linear"},
        "legend": {"title": None, "format": form, "gradientLength": 110},
    }
    colors = {
        "color": fill,
        "tooltip": _tooltip(("name", "setting", ""), ("value", title, form)),
    }
    return {
        "data": {"values": rows},
        "layer": [
            _layer(place | colors, type="rect", stroke="$ground", strokeWidth=1.5),
            _layer(
                place, "datum.chosen", type="rect", filled=False, stroke="$after", strokeWidth=3
            ),
        ],
    }


def trade_off(rows: list[dict[str, Any]], budget: float) -> Spec:
    """Return what settings remove against what they cost, with the Pareto front as a line.

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
    shown = _tooltip(
        ("name", "setting", ""),
        ("removed", "removed", ".2%"),
        ("kl", "KL, nats", ".4~g"),
        ("loss", "loss change, nats", "+.4~g"),
    )
    tests = {"datum.chosen": "$after", "datum.front": "$before"}
    conditions = [{"test": test, "value": color} for test, color in tests.items()]
    points = place | {"fill": {"condition": conditions, "value": "$ground"}, "tooltip": shown}
    return {
        "data": {"values": rows},
        "layer": [
            {
                "data": {"values": [{"budget": budget}]},
                "mark": {"type": "rule", "color": "$muted", "strokeDash": [4, 3]},
                "encoding": {"x": {"field": "budget", "type": "quantitative"}},
            },
            _layer(place, "datum.front", type="line", color="$before", interpolate="step-after"),
            _layer(points, type="point", size=70, color="$before", strokeWidth=1.5),
        ],
    }


# Distributions, bin by bin

_X = {
    "field": "l",
    "type": "quantitative",
    "scale": {"domain": "$window", "nice": False, "zero": False},
    "axis": {"title": "$axis", "grid": False},
}
_Y = {
    "type": "quantitative",
    "scale": {"type": "$scale", "domain": "$heights", "nice": False, "clamp": True},
}
_Y_AXIS = {"minExtent": 46, "tickCount": 5, "format": "$format", "title": "$unit"}
_STEPS = {"interpolate": "step-after", "clip": True}
_FLOOR = {"datum": "$floor"}
_BAND: Spec = {
    "data": {"values": [{}]},
    "mark": {"type": "rect", "color": "$band", "clip": True, "tooltip": None},
    "encoding": {"x": {"datum": "$eps_left"}, "x2": {"datum": "$eps_right"}},
}


def _bars(top: str, bottom: Spec, color: str, name: str) -> Spec:
    return {
        "name": name,
        "mark": {"type": "area", "line": False, "color": color, **_STEPS},
        "encoding": {"x": _X, "y": _Y | {"field": top, "axis": _Y_AXIS}, "y2": bottom},
    }


def _outline(field: str, color: str, width: float) -> Spec:
    place = {"x": _X, "y": _Y | {"field": field}}
    where = f"isValid(datum.{field})"
    return _layer(place, where, type="line", color=color, strokeWidth=width, **_STEPS)


def _hover(form: str, **titles: str) -> Spec:
    """Return invisible bars as high as the chart that show the bin under the pointer."""
    select = {"type": "point", "on": "pointerover", "clear": "pointerout"}
    fields = ((field, title, form) for field, title in titles.items())
    shown = _tooltip(("range", "bin", ""), *fields)
    return {
        "transform": [{"filter": "datum.r > datum.l"}],
        "params": [{"name": "hover", "select": select}],
        "mark": {"type": "rect", "color": "$ink", "clip": True},
        "encoding": {"x": _X, "x2": {"field": "r"}, "opacity": _opacity(0.18), "tooltip": shown},
    }


def _calculated(**formulas: str) -> list[Spec]:
    return [{"calculate": formula, "as": name} for name, formula in formulas.items()]


def _floored(*fields: str) -> list[Spec]:
    """Return transforms that keep bars above the lower end of a logarithmic scale."""
    formula = "isValid(datum.{0}) ? max(datum.{0}, $floor) : null"
    return _calculated(**{f"{field}_": formula.format(field) for field in fields})


PAIRED: dict[str, Spec] = {
    "paired": {
        "transform": [*_calculated(rest="datum.n - datum.m"), *_floored("n", "rest", "o")],
        "layer": [
            _BAND,
            _bars("n_", _FLOOR, "$light", "bars"),
            _bars("n_", {"field": "rest_"}, "$dark", "moved"),
            _outline("o_", "$outline", 1.2),
            _hover(",", n="values", m="of these moved"),
        ],
    }
}
"""Charts of a browser of before and after: a phase, its moved values in the dark tone."""
COMPARED: dict[str, Spec] = {
    "sides": {
        "transform": _floored("a", "b"),
        "layer": [
            _BAND,
            _bars("a_", _FLOOR, "$before-light", "a"),
            _outline("b_", "$after", 1.8),
            _hover(".3%", a="A", b="B"),
        ],
    },
    "difference": {
        "transform": _calculated(
            more="max(datum.b - datum.a, 0)",
            less="min(datum.b - datum.a, 0)",
            change="datum.b - datum.a",
        ),
        "layer": [
            _BAND,
            _bars("more", {"datum": 0}, "$after", "more"),
            _bars("less", {"datum": 0}, "$before", "less"),
            _hover("+.3%", change="B − A"),
        ],
    },
}
"""Charts of a browser of a comparison: A filled and B as a line; their difference."""
