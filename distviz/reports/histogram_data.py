"""The distributions of every layer as numbers for the page: bins, counts, notes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from distviz.output import counted
from distviz.plots import (
    AxisChoice,
    ComparedBins,
    ComparedSide,
    PairedBins,
    Panel,
    SiteAxes,
    axes_of,
    compared_bins,
    extremes_text,
    outside_texts,
    paired_bins,
    phase_name,
)
from distviz.reports import axes
from distviz.reports.channels import largest_channels
from distviz.reports.extremes import largest_values
from distviz.results import Comparison, layer_name, number, percent

if TYPE_CHECKING:
    from distviz.plots import Tails
    from distviz.results import Run
    from distviz.sites import SiteKey

_DIGITS = 5
_SCALES = ("linear", "symlog")
Frames = dict[str, list[dict[str, Any]]]
"""By group of `group_name`, the frames of a slider."""
View = dict[str, Any]


def group_name(place: SiteKey) -> str:
    """Name the site of a place, whose layers have the same axes, with the stack of an encoder."""
    return place.site if place.stack == "decoder" else f"{place.stack}: {place.site}"


def first_scales(result: Run | Comparison, choice: AxisChoice | None = None) -> dict[str, str]:
    """Return by group the scale of the values that is shown first."""
    if isinstance(result, Comparison):
        places = [pair.a for pair in result.pairs]
    else:
        places = list(result.places())
    return {group_name(place): axes_of(result, place, choice).x_axis for place in places}


def paired_frames(run: Run, choice: AxisChoice | None = None) -> Frames:
    """Return the frames of a run, one per layer and module; ``choice`` as of `axes_of`."""
    groups: Frames = {}
    places = list(run.places())
    channels, extremes = largest_channels(run), largest_values(run)
    for key in places:
        count = partial(paired_bins, run, key.layer, key.site, module=key.module)
        views, data = _views(run, key, choice, count, _paired)
        named = [(_shown_phase(data, panel), panel) for panel in data.panels]
        frame = {
            "label": _label(run, key, places),
            "note": _note(data),
            "views": views,
            "numbers": _numbers(named),
        }
        place = (key.stack, key.site, key.layer, key.module)
        beside = {"channels": channels.get(place), "extremes": extremes.get(place)}
        frame |= {name: table for name, table in beside.items() if table}
        groups.setdefault(group_name(key), []).append(frame)
    return groups


def _views(
    result: Run | Comparison,
    place: SiteKey,
    choice: AxisChoice | None,
    count: Callable[..., Any],
    show: Callable[[Any], View],
) -> tuple[dict[str, dict[str, View]], Any]:
    """Return what the page shows of a place, and bins that ``count`` returned.

    By scale of the values, ``all`` is on the axes of all layers, ``own`` on those of this layer,
    where they differ.
    """
    found: dict[str, dict[str, View]] = {}
    data = None
    for scale in _SCALES:
        asked = replace(choice or AxisChoice(), x_axis=scale)
        shared = axes_of(result, place, asked)
        own = axes_of(result, place, replace(asked, log=shared.log), own=True)
        data = count(axes=shared)
        found[scale] = {"all": show(data)}
        if own != shared:
            found[scale]["own"] = show(count(axes=own))
    return found, data


def _label(run: Run, key: SiteKey, places: Sequence[SiteKey]) -> str:
    same = [k for k in places if (k.layer, k.stack, k.site) == (key.layer, key.stack, key.site)]
    name = layer_name(run, key.layer, key.stack)
    return f"{name} · {key.module}" if len(same) > 1 or key.layer < 0 else name


def _paired(data: PairedBins) -> View:
    columns: dict[str, Any] = {}
    panels: list[dict[str, Any]] = []
    if data.untouched is not None:
        columns["before"] = data.untouched
    for panel in data.panels:
        fields = {"n": panel.phase}
        columns[panel.phase] = panel.counts
        if panel.moved is not None:
            fields["m"] = f"{panel.phase}, moved"
            columns[fields["m"]] = panel.moved
        if panel.phase == "after" and panels:
            fields["o"] = data.panels[0].phase
        elif panel.phase == "arm_input" and data.untouched is not None:
            fields["o"] = "before"
        color = "after" if panel.phase == "after" else "before"
        title = _shown_phase(data, panel)
        panels.append({"spec": "paired", "title": title, "phase": color, "fields": fields})
    tokens = _tokens(data, data.key.site) | {"format": axes.COUNT, "unit": "values per bin"}
    sides = [(_shown_phase(data, panel), panel, data.tails(panel)) for panel in data.panels]
    return _view(data, tokens, columns, panels, sides)


def _shown_phase(data: PairedBins, panel: Panel) -> str:
    """Return the phase as printed; a run without redistribution has one, which needs no name."""
    return phase_name(panel.phase) if len(data.panels) > 1 else ""


def _view(
    data: PairedBins | ComparedBins,
    tokens: dict[str, Any],
    columns: dict[str, Any],
    panels: list[dict[str, Any]],
    sides: Sequence[tuple[str, Panel | ComparedSide, Tails]],
) -> View:
    return {
        "edges": _rounded(data.drawn_edges, 8),
        "columns": {name: _rounded(data.heights(counts)) for name, counts in columns.items()},
        "tokens": tokens,
        "panels": panels,
        "outside": [_outside(*side) for side in sides],
    }


def _outside(name: str, side: Panel | ComparedSide, tails: Tails) -> str:
    """Return a line on what lies outside the axis, or on the extremes where nothing does."""
    texts = outside_texts(tails, side.energy_outside) or [extremes_text(tails)]
    return f"{name}: " * bool(name) + " · ".join(texts)


def _tokens(data: PairedBins | ComparedBins, site: str) -> dict[str, Any]:
    """Return the values that replace names in the charts of a frame."""
    eps = data.eps if math.isfinite(data.eps) else 0.0
    title = "activation value" if site == "act" else f"{site} value"
    return {
        "axis": title + " (symlog)" * (data.axes.x_axis == "symlog"),
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
    if data.key.module:
        words.append(data.key.module)
    return " · ".join(words)


def _numbers(columns: Sequence[tuple[str, Panel | ComparedSide]]) -> list[list[str]]:
    found = [one for _, one in columns]
    titles = {"std": "std", "gini": "Gini of |x|", "low": "min", "high": "max"}
    names = [name for name, _ in columns]
    return [
        ["", *names] if any(names) else [],
        ["values", *(f"{one.count:,}" for one in found)],
        ["near-zero", *(percent(one.near_zero) for one in found)],
        *([titles[name], *(number(getattr(one, name), 4) for one in found)] for name in titles),
    ]


def compared_frames(comparison: Comparison, choice: AxisChoice | None = None) -> Frames:
    """Return the frames of a comparison, one per pair of layers."""
    groups: Frames = {}
    for pair in comparison.pairs:
        count = partial(compared_bins, comparison, pair)
        views, data = _views(comparison, pair.a, choice, count, _compared)
        first = layer_name(comparison.a, pair.a.layer, pair.a.stack)
        second = layer_name(comparison.b, pair.b.layer, pair.b.stack)
        frame = {
            "label": first if first == second else f"{first} of A, {second} of B",
            "note": _distances(data),
            "views": views,
            "numbers": _numbers([("A", data.a), ("B", data.b)]),
        }
        groups.setdefault(group_name(pair.a), []).append(frame)
    return groups


def _distances(data: ComparedBins) -> str:
    words = [
        f"near zero: |x| < ε = {number(data.eps)} of A",
        f"KS {number(data.ks)}",
        f"W1 / std A {number(data.wasserstein_normalized)}",
        f"JS {counted(number(data.js_divergence), 'bit')}",
    ]
    return " · ".join(words)


def _compared(data: ComparedBins) -> View:
    tokens = _tokens(data, data.pair.a.site)
    tokens |= {"format": axes.SHARE, "unit": "share per bin"}
    difference = {
        "scale": "linear",
        "format": axes.SHARE_DIFFERENCE,
        "unit": "B − A",
    }
    sides = {"spec": "sides", "phase": "before", "fields": {"a": "A", "b": "B"}}
    panels = [
        sides | {"title": "A filled, B as a line"},
        sides | {"spec": "difference", "title": "B − A", "tokens": difference},
    ]
    named = [(name, side, data.tails(side)) for name, side in (("A", data.a), ("B", data.b))]
    columns = {name: side.shares for name, side, _ in named}
    most = float(abs(data.heights(data.difference)).max()) * 1.1 or 1.0
    return _view(data, tokens, columns, panels, named) | {"most": most}


def _rounded(numbers: Any, digits: int = _DIGITS) -> list[float]:
    # Whole numbers are written without a decimal point.
    rounded = (float(f"{one:.{digits}g}") for one in numbers.tolist())
    return [int(one) if one.is_integer() else one for one in rounded]
