"""Charts by layer or by number of fillers, in the grammar of Vega-Lite.

Colours are names behind ``$``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from distviz.reports.page import Spec

__all__ = ["by_depth", "intervals"]

_LOG_SPAN = 30.0
_SHORT = 12
"""Characters of names of which three stand side by side on a phone."""


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
        "legend": _legend([word for word, _ in series.values()]),
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


def _legend(words: list[str]) -> Spec | None:
    if len(words) < 2:
        return None
    columns = 3 if max(map(len, words)) <= _SHORT else 2
    return {"title": None, "orient": "top", "offset": 2, "columns": columns}


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
    bars: list[Spec] = [
        {
            "transform": [{"filter": "isValid(datum.low)"}],
            "mark": {"type": "rule", "color": color, "strokeWidth": 1.5},
            "encoding": {"x": x, "y": value | {"field": "low"}, "y2": {"field": "high"}},
        }
    ]
    if all(row["low"] is None for row in rows):  # withheld: Vega warns of a layer without data
        bars = []
    return {
        "data": {"values": rows},
        "layer": [
            {"mark": {"type": "rule", "color": "$muted"}, "encoding": {"y": {"datum": 0}}},
            *bars,
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
