"""Charts of the page in the grammar of Vega-Lite.

Strings that begin with ``$`` name colours of the palette or values of a browser's frame.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from distviz.plots import CHANGE, COST, GAIN, LOSS
from distviz.reports import axes
from distviz.reports.page import Chart, Choice, Spec

COLORS = ("$before", "$after", "$ks", "$w1", "$js", "$muted")
_SHORT = 12
"""Characters of names of which three fit side by side on a phone."""


def tooltip(*fields: tuple[str, str, str]) -> list[Spec]:
    """Return the lines of a tooltip from fields, titles and number formats."""
    return [
        {"field": field, "title": title} | ({"format": form} if form else {})
        for field, title, form in fields
    ]


def marks(encoding: Spec, where: str = "", **mark: Any) -> Spec:
    """Return marks of one kind, of the rows that pass a filter."""
    found = {"mark": mark, "encoding": encoding}
    return found | ({"transform": [{"filter": where}]} if where else {})


# By layer, or by number of fillers


class Line(NamedTuple):
    """A curve: its title, its colour, whether it is solid, dashed or dotted, and its key."""

    title: str
    color: str
    dash: str = "solid"
    key: str = ""


DASHES = {"solid": [1, 0], "dashed": [7, 4], "dotted": [1, 4]}


def by_depth(
    rows: list[dict[str, Any]],
    series: Mapping[Any, tuple[str, str] | Line],
    *,
    share: bool = False,
    axis: str = "layer",
    scale: str = "",
    has_legend: bool = True,
) -> Spec:
    """Return lines by layer; ``series`` gives the line of a column.

    Pointing anywhere shows all values of the nearest layer. ``scale`` is that of `axes.fitted`.
    Rows have ``place``, the columns and ``kind``, which separates the lines of several modules.
    """
    # Columns get plain names: a dot or a bracket in a name would be read as a path.
    lines = {name: Line(*line) for name, line in series.items()}
    columns = {name: line.key or f"v{index}" for index, (name, line) in enumerate(lines.items())}
    rows = [
        {"place": row["place"], "kind": row.get("kind", "")}
        | {column: row[name] for name, column in columns.items() if name in row}
        for row in rows
    ]
    values = [row.get(column) for row in rows for column in columns.values()]
    form, kind = (".2%", axes.SHARE) if share else (".4~g", axes.NUMBER)
    titles = [line.title for line in lines.values()]
    colors = {
        "type": "nominal",
        "scale": {"domain": titles, "range": [line.color for line in lines.values()]},
        "legend": _legend(titles) if has_legend else None,
    }
    x = _places(axis, (row["place"] for row in rows))
    y = axes.fitted(values, kind, **_VALUE_AXIS, scale=scale)
    drawn = []
    for index, (name, line) in enumerate(lines.items()):
        place = {"x": x, "y": y | {"field": columns[name]}, "detail": {"field": "kind"}}
        place["color"] = colors | {"datum": line.title}
        look = _LINES[min(index, 1)] | {"strokeDash": DASHES[line.dash]}
        drawn.append(
            {"name": columns[name], **marks(place, f"isValid(datum.{columns[name]})", **look)}
        )
    has_kinds = len({row["kind"] for row in rows}) > 1
    shown = tooltip(
        ("place", axis, ""),
        *([("kind", "module", "")] if has_kinds else []),
        *((columns[name], line.title, form) for name, line in lines.items()),
    )
    return {"data": {"values": rows}, "layer": [*drawn, _nearest(x, shown)]}


def _places(title: str, places: Iterable[int]) -> Spec:
    ticks = axes.whole_ticks(places)
    return {
        "field": "place",
        "type": "quantitative",
        "axis": axes.labels(axes.NUMBER, title=title, values=ticks, grid=False),
        "scale": {"zero": False, "nice": False, "padding": 8},
    }


_VALUE_AXIS: Spec = {"title": None, "tickCount": 4, "minExtent": 42}


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
        "encoding": {"x": x, "opacity": visible_under_pointer(0.5), "tooltip": shown},
    }


def visible_under_pointer(value: float) -> Spec:
    """Return the opacity of a mark that is visible only under the pointer."""
    return {"condition": {"param": "hover", "empty": False, "value": value}, "value": 0}


def layer_curves(
    title: str,
    curves: Mapping[str, list[tuple[int, Any]]],
    *,
    share: bool,
    height: int = 170,
    scale: str = "",
    axis: str = "layer",
    lines: Mapping[str, Line] | None = None,
    chosen: Collection[str] = (),
) -> Chart | None:
    """Return a chart of curves of layers, or another ``axis``; None where no value is finite.

    Of more curves than there are colours, or of ``lines`` with looks of their own, the reader
    chooses; ``chosen`` are those drawn at first, or all.
    """
    rows: dict[int, dict[str, Any]] = {}
    for name, points in curves.items():
        for layer, value in points:
            rows.setdefault(layer, {"place": layer})[name] = value
    if all(row.get(name) is None for row in rows.values() for name in curves):
        return None
    looks = lines or {name: line_of(index, name) for index, name in enumerate(curves)}
    series = {name: looks[name] for name in curves}
    ordered = [rows[layer] for layer in sorted(rows)]
    has_legend = lines is None and not chosen and len(curves) <= len(COLORS)
    spec = by_depth(ordered, series, share=share, axis=axis, scale=scale, has_legend=has_legend)
    if has_legend:
        return Chart(title, spec, height)
    choices = [
        Choice(f"v{index}", line.title, line.color.removeprefix("$"), line.dash)
        for index, line in enumerate(series.values())
    ]
    first = [
        choice for choice, name in zip(choices, series, strict=True) if not chosen or name in chosen
    ]
    return Chart(title, spec, height, choices, [choice.key for choice in first])


def line_of(index: int, title: str, dash: str = "") -> Line:
    """Return the look of a curve by its number: colours repeat with other dashes."""
    rounds, color = divmod(index, len(COLORS))
    return Line(title, COLORS[color], dash or list(DASHES)[rounds % len(DASHES)])


def intervals(
    rows: list[dict[str, Any]], color: str, *, axis: str = "layer", share: bool = False
) -> Spec:
    """Return estimates with intervals by place; filled where the adjusted p is significant.

    Differences of shares are written in per cent. Places other than layers are joined by a line.
    Rows have ``place``, ``estimate``, ``low``, ``high``, ``p`` and ``significant``.
    """
    x = _places(axis, (row["place"] for row in rows))
    kind, form = (axes.SHARE_DIFFERENCE, "+.3~%") if share else (axes.NUMBER, "+.4~g")
    y = {"type": "quantitative", "axis": axes.labels(kind, **_VALUE_AXIS)}
    ends = {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"}}
    bars = marks(ends, "isValid(datum.low)", type="rule", color=color, strokeWidth=1.5)
    # Vega warns of a layer without data, where intervals are withheld.
    shown_bars = [bars] if any(row["low"] is not None for row in rows) else []
    shown = tooltip(
        ("place", axis, ""),
        ("estimate", "estimate", form),
        ("low", "95 % from", form),
        ("high", "to", form),
        ("p", "adjusted p", ".3~g"),
    )
    fill = {"condition": {"test": "datum.significant", "value": color}, "value": "$ground"}
    place = {"x": x, "y": y | {"field": "estimate"}, "fill": fill, "tooltip": shown}
    points = marks(place, type="point", size=42, color=color, strokeWidth=1.4)
    zero = marks({"y": {"datum": 0}}, type="rule", color="$muted")
    path = {"x": x, "y": y | {"field": "estimate"}}
    joined = [marks(path, type="line", color=color, strokeWidth=1)] if axis != "layer" else []
    return {"data": {"values": rows}, "layer": [zero, *joined, *shown_bars, points]}


# By token class


def class_shares(
    rows: list[dict[str, Any]], series: dict[str, str], noun: str = "token class"
) -> Spec:
    """Return shares by token class, one mark per series.

    Rows have ``name``, ``series``, ``value`` and ``tokens``; ``series`` gives the colours, ``noun``
    is what the names are.
    """
    has_series = len(series) > 1
    legend = {"title": None, "orient": "top", "offset": 2} if has_series else None
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
                "axis": axes.labels(axes.SHARE, title="near-zero share", tickCount=6),
                "scale": {"zero": True},
            },
            "color": named | {"scale": {"domain": list(series), "range": list(series.values())}},
            "shape": named | {"scale": {"domain": list(series), "range": shapes}},
            "tooltip": tooltip(
                ("name", noun, ""),
                *[("series", "phase", "")] * has_series,
                ("value", "near-zero", ".3%"),
                ("tokens", "tokens", ","),
            ),
        },
    }


# Settings of a sweep


_SCHEMES = {COST: "yelloworangebrown", GAIN: "purples", CHANGE: "purpleorange"}
"""Matplotlib's names of the colours of figures -> Vega's."""


def heatmap(
    rows: list[dict[str, Any]], title: str, kind: str, *, x: str, y: str, colors: str
) -> Spec:
    """Return one cell per row, in the ``colors`` of figures.

    They are ``COST``, ``LOSS``, ``GAIN`` or, with zero in the middle, ``CHANGE``. Rows have the
    columns ``x`` and ``y``, ``value``, ``name`` and ``chosen``.
    """
    ticks = {"title": x, "labelAngle": 0}
    legend = "lower is worse" if colors == LOSS else None
    place = {
        "x": {"field": x, "type": "ordinal", "axis": ticks},
        "y": {"field": y, "type": "ordinal", "sort": None, "axis": {"title": None}},
    }
    fill = {
        "field": "value",
        "type": "quantitative",
        "scale": {
            "scheme": _SCHEMES[colors.removesuffix("_r")],
            "reverse": colors.endswith("_r") or colors == CHANGE,
            "zero": False,
            "nice": True,
        }
        | ({"domain": _symmetric(rows)} if colors == CHANGE else {}),
        "legend": axes.labels(kind, title=legend, gradientLength=110),
    }
    form = ".4~p" if kind == axes.SHARE else ".4~g"
    filled = {"color": fill, "tooltip": tooltip(("name", "", ""), ("value", title, form))}
    edge = {"type": "rect", "filled": False, "stroke": "$ink", "strokeWidth": 3}
    cells = marks(place | filled, type="rect", stroke="$ground", strokeWidth=0.5)
    outlined = [marks(place, "datum.chosen", **edge)] if any(r["chosen"] for r in rows) else []
    return {"data": {"values": rows}, "layer": [cells, *outlined]}


def _symmetric(rows: list[dict[str, Any]]) -> list[float]:
    reach = max((abs(row["value"]) for row in rows if row["value"] is not None), default=0.0)
    return [-(reach or 1.0), reach or 1.0]


_KL = "KL divergence, nats"


def trade_off(rows: list[dict[str, Any]], budget: float) -> Spec:
    """Return what settings remove against what they cost, with the Pareto front as a line.

    Rows have ``kl``, ``removed``, ``loss``, ``name``, ``front`` and ``chosen``.
    """
    costs = axes.fitted([*(row["kl"] for row in rows), budget], axes.NUMBER, title=_KL, tickCount=6)
    gains = axes.labels(axes.SHARE, title="near-zero share removed", tickCount=5)
    place = {
        "x": costs | {"field": "kl"},
        "y": {"field": "removed", "type": "quantitative", "axis": gains},
    }
    shown = tooltip(
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
                "encoding": {"x": costs | {"field": "budget"}},
            },
            marks(place, "datum.front", type="line", color="$before", interpolate="step-after"),
            marks(points, type="point", size=70, color="$before", strokeWidth=1.5),
        ],
    }
