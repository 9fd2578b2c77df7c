"""Charts of distributions, bin by bin, for the slider."""

from __future__ import annotations

from distviz.reports.axes import labels
from distviz.reports.charts import marks, tooltip, visible_under_pointer
from distviz.reports.page import Spec

_X = {
    "field": "l",
    "type": "quantitative",
    "scale": "$x_scale",
    "axis": labels("number", title="$axis", grid=False, values="$ticks"),
}
_Y = {
    "type": "quantitative",
    "scale": {"type": "$scale", "domain": "$heights", "nice": False, "clamp": True},
}
_Y_AXIS = labels("$format", minExtent=56, tickCount=5, title="$unit")
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
    return marks(place, where, type="line", color=color, strokeWidth=width, **_STEPS)


def _hover(form: str, **titles: str) -> Spec:
    """Return invisible bars as high as the chart that show the bin under the pointer."""
    select = {"type": "point", "on": "pointerover", "clear": "pointerout"}
    fields = ((field, title, form) for field, title in titles.items())
    shown = tooltip(("range", "bin", ""), *fields)
    return {
        "transform": [{"filter": "datum.r > datum.l"}],
        "params": [{"name": "hover", "select": select}],
        "mark": {"type": "rect", "color": "$ink", "clip": True},
        "encoding": {
            "x": _X,
            "x2": {"field": "r"},
            "opacity": visible_under_pointer(0.18),
            "tooltip": shown,
        },
    }


def _calculated(**formulas: str) -> list[Spec]:
    return [{"calculate": formula, "as": name} for name, formula in formulas.items()]


def _floored(*fields: str) -> list[Spec]:
    """Return transforms that keep bars above the lower end of a logarithmic scale."""
    formula = "isValid(datum.{0}) ? max(datum.{0}, $floor) : null"
    return _calculated(**{f"{field}_": formula.format(field) for field in fields})


PAIRED: dict[str, Spec] = {
    "paired": {
        "transform": [
            *_calculated(m="datum.m || 0", rest="datum.n - datum.m"),
            *_floored("n", "rest", "o"),
        ],
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
