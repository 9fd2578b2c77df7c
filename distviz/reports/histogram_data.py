"""The distributions of every layer as numbers for the page: bins, counts, notes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from distviz.output import counted
from distviz.plots import (
    ComparedBins,
    ComparedSide,
    PairedBins,
    Panel,
    SiteAxes,
    axes_of,
    compared_bins,
    paired_bins,
)
from distviz.reports import axes
from distviz.reports.channels import largest_channels
from distviz.results import layer_name, number, percent

if TYPE_CHECKING:
    from distviz.results import Comparison, Run
    from distviz.sites import SiteKey

_DIGITS = 5
Frames = dict[str, list[dict[str, Any]]]


def paired_frames(run: Run) -> Frames:
    """Return by site the frames of a slider, one per layer and module."""
    groups: Frames = {}
    places = list(run.places())
    channels = largest_channels(run)
    for key in places:
        data = paired_bins(run, key.layer, key.site, module=key.module)
        frame = _paired(data, _label(run, key, places))
        frame["own"] = list(axes_of(run, key, own=True).window)
        largest = channels.get((key.stack, key.site, key.layer, key.module))
        groups.setdefault(key.site, []).append(frame | ({"channels": largest} if largest else {}))
    return groups


def _label(run: Run, key: SiteKey, places: Sequence[SiteKey]) -> str:
    same = [k for k in places if (k.layer, k.stack, k.site) == (key.layer, key.stack, key.site)]
    name = layer_name(run, key.layer, key.stack)
    return f"{name} · {key.module}" if len(same) > 1 or key.layer < 0 else name


def _paired(data: PairedBins, label: str) -> dict[str, Any]:
    panels = []
    for panel in data.panels:
        counts = data.heights(panel.counts)
        moved = 0 * counts if panel.moved is None else data.heights(panel.moved)
        other = _outlined(data, panel)
        columns = {"n": _rounded(counts), "m": _rounded(moved)}
        if other is not None:
            columns["o"] = _rounded(data.heights(other))
        color = "after" if panel.phase == "after" else "before"
        panels.append({"spec": "paired", "title": panel.phase, "phase": color, "columns": columns})
    tokens = _tokens(data, data.key.site) | {"format": axes.COUNT, "unit": "values per bin"}
    return {
        "label": label,
        "note": _note(data),
        "edges": _rounded(data.drawn_edges, 8),
        "tokens": tokens,
        "panels": panels,
        "numbers": _numbers([(panel.phase, panel) for panel in data.panels]),
    }


def _outlined(data: PairedBins, panel: Panel) -> Any:
    if panel.phase == "after" and len(data.panels) > 1:
        return data.panels[0].counts
    return data.untouched if panel.phase == "arm_input" else None


def _tokens(data: PairedBins | ComparedBins, site: str) -> dict[str, Any]:
    """Return the values that replace names in the charts of a frame."""
    eps = data.eps if math.isfinite(data.eps) else 0.0
    return {
        "axis": "activation value" if site == "act" else f"{site} value",
        "scale": "log" if data.log else "linear",
        "eps_left": max(-eps, data.window[0]),
        "eps_right": min(eps, data.window[1]),
    } | _value_scale(data.axes)


def _value_scale(chosen: SiteAxes) -> dict[str, Any]:
    """Return the scale of the values, and its ticks where Vega-Lite does not choose them."""
    window, constant = list(chosen.window), chosen.scale.constant
    if constant is None:
        return {"x_scale": {"domain": window, "nice": False, "zero": False}}
    scale, ticks = axes.symlog(window, constant)
    return {"x_scale": scale, "ticks": ticks}


def _note(data: PairedBins) -> str:
    words = [f"near zero: |x| < ε = {number(data.eps)}"]
    if data.moved is not None:
        words.append(f"strong colour: the {counted(data.moved, 'moved value')}")
    outside = max(sum(data.beyond(panel)) for panel in data.panels)
    if outside:
        words.append(f"outside the axis: {percent(outside / max(data.panels[0].count, 1))}")
    if data.key.module:
        words.append(data.key.module)
    return " · ".join(words)


def _numbers(columns: Sequence[tuple[str, Panel | ComparedSide]]) -> list[list[str]]:
    found = [one for _, one in columns]
    titles = {"std": "std", "gini": "Gini of |x|", "low": "min", "high": "max"}
    return [
        ["", *(name for name, _ in columns)],
        ["values", *(f"{one.count:,}" for one in found)],
        ["near-zero", *(percent(one.near_zero) for one in found)],
        *([titles[name], *(number(getattr(one, name), 4) for one in found)] for name in titles),
    ]


def compared_frames(comparison: Comparison) -> Frames:
    """Return by site the frames of a slider, one per pair of layers."""
    groups: Frames = {}
    for pair in comparison.pairs:
        data = compared_bins(comparison, pair)
        first = layer_name(comparison.a, pair.a.layer, pair.a.stack)
        second = layer_name(comparison.b, pair.b.layer, pair.b.stack)
        label = first if first == second else f"{first} of A, {second} of B"
        groups.setdefault(pair.a.site, []).append(
            _compared(data, label) | {"own": list(axes_of(comparison, pair.a, own=True).window)}
        )
    return groups


def _compared(data: ComparedBins, label: str) -> dict[str, Any]:
    a, b = (data.heights(side.shares) for side in (data.a, data.b))
    columns = {name: _rounded(shares) for name, shares in (("a", a), ("b", b))}
    most = float(abs(b - a).max()) * 1.1 or 1.0
    tokens = _tokens(data, data.pair.a.site)
    tokens |= {"format": axes.SHARE, "unit": "share per bin"}
    difference = {
        "scale": "linear",
        "format": axes.SHARE_DIFFERENCE,
        "unit": "B − A",
    }
    sides = {"spec": "sides", "phase": "before", "columns": columns}
    words = [
        f"near zero: |x| < ε = {number(data.eps)} of A",
        f"KS {number(data.ks)}",
        f"W1 / std A {number(data.wasserstein_normalized)}",
        f"JS {counted(number(data.js_divergence), 'bit')}",
    ]
    return {
        "label": label,
        "note": " · ".join(words),
        "edges": _rounded(data.drawn_edges, 8),
        "tokens": tokens,
        "panels": [
            sides | {"title": "A filled, B as a line"},
            sides | {"spec": "difference", "title": "B − A", "tokens": difference},
        ],
        "most": most,
        "numbers": _numbers([("A", data.a), ("B", data.b)]),
    }


def _rounded(numbers: Any, digits: int = _DIGITS) -> list[float]:
    return [float(f"{one:.{digits}g}") for one in numbers.tolist()]
