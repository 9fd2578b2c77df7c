"""The sections of a training: curves over the steps, what changed, distributions by step."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from distviz.output import counted
from distviz.plots import CHANGE, TRAINING_CHANGES, TRAINING_CURVES
from distviz.reports import axes, charts
from distviz.reports.cells import data_table
from distviz.reports.comparison import interval_rows
from distviz.reports.histogram_charts import PAIRED
from distviz.reports.histogram_data import first_scales, paired_frames
from distviz.reports.page import Block, Browser, Chart, Fold, Part, Prose, Section
from distviz.reports.summary import make_part
from distviz.results import (
    Run,
    curve_names,
    measured_line,
    model_name,
    nonfinite_line,
)
from distviz.stats import ALPHA

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distviz.plots import AxisChoice
    from distviz.reports.histogram_data import Frames
    from distviz.results import Training
    from distviz.sites import SiteKey

_SHARES = ("near_zero", "zero_share")
_TESTED = {
    "log_variance_ratio": "log variance ratio, last against first, mean of documents",
    "log_absmax_ratio": "log ratio of the largest |x|, last against first, mean of documents",
    "near_zero_difference": "near-zero difference, last − first, points, mean of documents",
}
_RATIOS = ("std", "absmax")
"""Statistics whose ratio to the first snapshot is a heatmap."""
_MOST_STEPS, _MOST_COLUMNS = 100, 40
"""Steps of a curve, and of a heatmap or a curve that is folded away; of more, so many are drawn."""
_MOST_FRAMES, _MOST_PLACES = 240, 100
"""Distributions of all steps together that the page holds, and places that have any."""
_AT_FIRST = 6
"""Curves that are drawn at first."""
_DIGITS = 5
Item = TypeVar("Item")


def training_part(training: Training, choice: AxisChoice | None = None) -> Part:
    """Return the part of a training; ``choice`` is that of `axes_of`."""
    sites = list(dict.fromkeys(key.site for key in training.keys))
    sections = [section for site in sites for section in _by_step(training, site, sites)]
    warnings: list[str] = []
    if training.keys:
        distributions, warnings = _distributions(training, choice)
        sections.append(distributions)
    if len(training.drift):
        table = data_table("drift", training.drift)
        sections.append(Section("What changed from the first to the last snapshot", [table]))
    verdict = "\n".join(filter(None, [nonfinite_line(training.first_nonfinite), training.verdict]))
    name = str((training.manifest.get("model") or {}).get("architecture") or "")
    line = measured_line(training, name=name, sample=training.sample)
    part = make_part(training, f"{model_name(training)}: training", verdict, sections, "", line)
    return replace(part, warnings=list(dict.fromkeys([*part.warnings, *warnings])))


def _spread(items: Sequence[Item], most: int) -> list[Item]:
    """Choose at most so many items, evenly spaced, with the first and the last."""
    places = np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)
    return [items[place] for place in np.unique(places).tolist()]


def _by_step(training: Training, site: str, sites: Sequence[str]) -> list[Section]:
    """Return the curves of every statistic of a site over the steps, and heatmaps of its change."""
    keys = [key for key in training.keys if key.site == site]
    names = list(dict.fromkeys(training.timeline["statistic"]))
    steps, few = (_spread(training.steps, most) for most in (_MOST_STEPS, _MOST_COLUMNS))
    main = [_curves(training, name, title, keys, steps) for name, title in TRAINING_CURVES.items()]
    others = [
        _curves(training, name, name, keys, few) for name in names if name not in TRAINING_CURVES
    ]
    blocks: list[Block] = [chart for chart in main if chart is not None]
    blocks += [chart for name in _RATIOS if (chart := _heatmap(training, name, keys, few))]
    blocks += _tested(training, site)
    found = [chart for chart in others if chart is not None]
    blocks.append(Fold("All other statistics over the steps", found, grid=True))
    if len(training.steps) > len(steps):
        shown = counted(len(training.steps), "snapshot")
        blocks.append(Prose(f"Drawn: {len(steps)} of {shown}; timeline.csv has all."))
    title = "Over the steps" + (f": {site}" if len(sites) > 1 else "")
    return [Section(title, blocks, grid=True)]


def _curves(
    training: Training, name: str, title: str, keys: Sequence[SiteKey], steps: Sequence[int]
) -> Chart | None:
    """Return one statistic over the steps, a curve for each place; None if it has no value."""
    curves = {
        word: [(step, _rounded(training.curve(name, key).get(step))) for step in steps]
        for key, word in curve_names(keys).items()
    }
    values = [value for points in curves.values() for _, value in points if value is not None]
    if name in ("dead_channels", "nonfinite") and not any(values):
        return None
    chosen = _spread(list(curves), _AT_FIRST) if len(curves) > _AT_FIRST else ()
    share = name in _SHARES
    return charts.layer_curves(title, curves, share=share, axis="step", chosen=chosen)


def _rounded(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{_DIGITS}g}")


def _heatmap(
    training: Training, name: str, keys: Sequence[SiteKey], steps: Sequence[int]
) -> Chart | None:
    """Return the ratio to the first snapshot by place and step; None where there is none."""
    first, rows = training.steps[0], []
    for key, word in curve_names(keys).items():
        curve = training.curve(name, key)
        for step in steps[1:]:
            start, value = curve.get(first, math.nan), curve.get(step, math.nan)
            ratio = math.log2(value / start) if value > 0 and start > 0 else None
            row = {"step": step, "place": word, "value": _rounded(ratio), "chosen": False}
            rows.append(row | {"name": f"step {step}, {word}"})
    if all(row["value"] is None for row in rows):
        return None
    title = TRAINING_CHANGES[name].format(first)
    spec = charts.heatmap(rows, title, axes.NUMBER, x="step", y="place", colors=CHANGE)
    return Chart(title, spec, 90 + 17 * max(len(keys), 2))


def _tested(training: Training, site: str) -> list[Block]:
    """Return the changes of each layer with their intervals, where documents were compared."""
    here = training.drift[training.drift["site"] == site]
    here = here.dropna(subset="p_value")
    rows = {name: interval_rows(here[here["quantity"] == name], "layer") for name in _TESTED}
    found: list[Block] = [
        Chart(title, charts.intervals(rows[name], "$ink", share="near_zero" in name))
        for name, title in _TESTED.items()
        if rows[name]
    ]
    note = f"Filled marks: adjusted p below {ALPHA:g}; bars: 95 % intervals over documents."
    return [*found, Prose(note)] if found else []


def _distributions(training: Training, choice: AxisChoice | None) -> tuple[Section, list[str]]:
    """Return the distribution of each place by step, and warnings about the files read."""
    places = list(dict.fromkeys(key._replace(phase="") for key in training.keys))
    shown = places[:_MOST_PLACES]
    steps = _spread(training.steps, max(_MOST_FRAMES // max(len(shown), 1), 2))
    groups: Frames = {}
    scales: dict[str, str] = {}
    runs, warnings = _by_place(training, shown, steps)
    for name, run in runs.items():
        ((group, frames),) = paired_frames(run, choice).items()
        labels = [f"step {steps[key.layer]}" for key in run.places()]
        groups[name] = [
            frame | {"label": label} for frame, label in zip(frames, labels, strict=True)
        ]
        scales[name] = first_scales(run, choice)[group]
    browser = Browser("Distribution", PAIRED, groups, scales, noun="step", group_noun="place")
    note = "Every snapshot is a run: distviz report takes its folder, such as step-0."
    if (len(shown), len(steps)) != (len(places), len(training.steps)):
        counts = f"{counted(len(shown), 'place')} of {len(places)}"
        counts += f", {counted(len(steps), 'step')} of {len(training.steps)}"
        note = f"Shown: {counts}. {note}"
    return Section("Distributions, by step", [browser, Prose(note)]), warnings


def _by_place(
    training: Training, places: Sequence[SiteKey], steps: Sequence[int]
) -> tuple[dict[str, Run], list[str]]:
    """Return for each place, by name, a run whose layers are the steps: these share their axes.

    Also the warnings about the files of the snapshots.
    """
    sites = {place.site: [one for one in places if one.site == place.site] for place in places}
    names = {
        place: f"{site} · {word}" if len(sites) > 1 else word
        for site, own in sites.items()
        for place, word in curve_names(own).items()
    }
    sketches: dict[SiteKey, dict[SiteKey, Any]] = {place: {} for place in names}
    manifest: dict[str, Any] = {}
    warnings: list[str] = []
    for number, step in enumerate(steps):
        run = training.at(step)
        warnings += run.file_warnings
        manifest = {"model": run.manifest.get("model"), "near_zero_c": run.c}
        for key, sketch in run.merged.items():
            if (place := key._replace(phase="")) in sketches:
                sketches[place][key._replace(layer=number)] = {"all": sketch}
    runs = {names[place]: Run(manifest, own) for place, own in sketches.items() if own}
    return runs, warnings
