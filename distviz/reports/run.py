"""The sections of a run: the layer, its distributions, curves by depth, tables, plans, effect."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from distviz.output import counted
from distviz.plots import layer_lines, layer_series
from distviz.reports import charts
from distviz.reports.cells import data_table
from distviz.reports.channels import channel_section, module_kinds
from distviz.reports.extremes import extreme_section
from distviz.reports.formats import format_sections
from distviz.reports.histogram_charts import PAIRED
from distviz.reports.histogram_data import first_scales, group_name, paired_frames
from distviz.reports.page import Block, Browser, Chart, Drawing, Facts, Fold, Part, Prose, Section
from distviz.reports.repeat_command import run_command
from distviz.reports.summary import make_part, run_verdict
from distviz.reports.texts import text_section
from distviz.results import (
    GROUP_NAMES,
    PARTITIONS,
    arm_layers,
    arm_settings,
    change_name,
    change_sites,
    is_paired,
    layer_names,
    model_name,
    moved_values,
    number,
    partition_rows,
    percent,
    records,
)
from distviz.sites import ACT, SITES, LayerOrder

if TYPE_CHECKING:
    from distviz.plots import AxisChoice
    from distviz.results import Run

_MAIN = {
    "near_zero": "near-zero share",
    "std": "standard deviation",
    "gini": "Gini coefficient of |x|",
    "distance": "Wasserstein-1 / std before",
}
_KEY = ("layer", "site", "phase", "module", "stack")
_PAIR = {"before": ("before", "$before"), "after": ("after", "$after")}
_CLASS_COLORS = {"before": "$before", "after": "$after", "A": "$before", "B": "$after"}
_MOST_PLANS = 400


def run_part(run: Run, texts: str | None = None, choice: AxisChoice | None = None) -> Part:
    """Return the part of a run.

    ``texts`` is the file of its documents, None if not saved; ``choice`` is that of `axes_of`.
    """
    sections = [
        layer_section(run),
        figure_section(run, choice),
        *depth_sections(run),
        Section("All statistics", [data_table("stats", run.stats())]),
    ]
    found = [_arm_section(run), _class_section(run), extreme_section(run)]
    found += [channel_section(run), text_section(run)]
    sections += [section for section in found if section is not None]
    sections += format_sections(run)
    command = run_command(run.manifest, texts)
    return make_part(run, model_name(run), run_verdict(run), sections, command)


def layer_section(
    run: Run, observed: Sequence[str] | None = None, *, has_change: bool = True
) -> Section:
    """Return the diagram of a layer with sites and the redistribution marked.

    ``observed`` are the sites to mark; None takes all of the run.
    """
    model = run.manifest.get("model") or {}
    seen = list(dict.fromkeys(key.site for key in run.keys) if observed is None else observed)
    activation = str(model.get("activation") or "activation")
    gated = bool(
        model.get("gated", "SiLU" in activation or any(key.site == "up" for key in run.keys))
    )
    sites = [site for site in SITES if gated or site != "up"]
    has_change = has_change and bool(arm_layers(run))
    at = change_sites(run)
    has_rope = bool(model.get("rope"))
    order = LayerOrder.read(model.get("order"))
    lines = layer_lines(sites, activation, gated=gated, has_rope=has_rope, order=order)
    drawing = "\n".join(lines)
    is_drawn = has_change and ACT in at
    pieces = []
    for piece in re.split(r"(\[\w+\]|\bARM\b)", drawing):
        is_seen = piece.startswith("[") and piece[1:-1] in seen
        kind = "seen" if is_seen else "change" if piece == "ARM" and is_drawn else "plain"
        pieces.append((piece, kind))
    text = f"One decoder layer. Observed: {', '.join(seen)}"
    if has_change:
        text += f"; {change_name(run)} acts in {layer_names(arm_layers(run))}"
        text += f" at {', '.join(at)}" * (at != [ACT])
    return Section("Observed sites", [Drawing(f"{text}.", pieces)])


def figure_section(run: Run, choice: AxisChoice | None = None) -> Section:
    """Return the distributions of every layer, with a slider."""
    title = f"Before and after {change_name(run)}" if is_paired(run) else "Distribution"
    when = ", before" * is_paired(run)
    frames, scales = paired_frames(run, choice), first_scales(run, choice)
    browser = Browser(title, PAIRED, frames, scales, _first_shown(run), when)
    return Section(f"{title}, by layer", [browser])


def _first_shown(run: Run) -> tuple[str, int]:
    """Return the group of `paired_frames`, and the number of the frame, that a reader sees first.

    The first layer that ARM changes, at ``act`` if that was observed; else the first place.
    """
    places = list(run.places())
    changed = {(key.layer, key.site) for key in run.keys if key.phase == "moved_after"}
    first = [key for key in places if (key.layer, key.site) in changed] or places
    if not first:
        return "", 0
    chosen = next((key for key in first if key.site == "act"), first[0])
    name = group_name(chosen)
    return name, [key for key in places if group_name(key) == name].index(chosen)


def depth_sections(run: Run) -> list[Section]:
    """Return the curves of every statistic by layer, one section per site of several layers."""
    stats = run.stats()
    shown = stats[stats["phase"].isin(list(_PAIR))]
    sites = list(dict.fromkeys(shown["site"]))
    found = []
    for site in sites:
        here = shown[shown["site"] == site]
        if here["layer"].nunique() < 2:
            continue
        main = [_curve(here, name, word) for name, word in _MAIN.items() if name in here]
        main.append(_distance_curve(run, site))
        rest = [c for c in here if c not in (*_KEY, *_MAIN)]
        others: list[Any] = [_curve(here, name, name) for name in rest]
        blocks: list[Block] = [chart for chart in main if chart is not None]
        folded = Fold("All other statistics by layer", [c for c in others if c], grid=True)
        title = "By depth" + (f": {site}" if len(sites) > 1 else "")
        found.append(Section(title, [*blocks, folded], grid=True))
    return found


def _curve(stats: pd.DataFrame, name: str, title: str) -> Chart | None:
    """Return one statistic by layer; None if it has no finite value."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for kind, row in zip(module_kinds(stats), records(stats[[*_KEY, name]]), strict=True):
        here = rows.setdefault((kind, row["layer"]), {"place": row["layer"], "kind": kind})
        here[row["phase"]] = row[name]
    series = {k: v for k, v in _PAIR.items() if any(r.get(k) is not None for r in rows.values())}
    if not series:
        return None
    if not _is_paired(stats):
        series = {phase: (title, color) for phase, (_, color) in series.items()}
    spec = charts.by_depth(list(rows.values()), series, share=name == "near_zero")
    return Chart(title, spec)


def _is_paired(table: pd.DataFrame) -> bool:
    return bool((table["phase"] == "after").any())


def _distance_curve(run: Run, site: str) -> Chart | None:
    rows = []
    for one in layer_series(run, site):
        values = one.values["distance", "after"]
        for layer, value in zip(one.layers.tolist(), values.tolist(), strict=True):
            if math.isfinite(value):
                rows.append({"place": layer, "kind": one.name, "distance": value})
    if not rows:
        return None
    spec = charts.by_depth(rows, {"distance": (_MAIN["distance"], "$after")})
    return Chart(_MAIN["distance"], spec)


def _arm_section(run: Run) -> Section | None:
    """Return the plans of the redistribution and its effect on the output."""
    effect, layers = run.manifest.get("effect") or {}, arm_layers(run)
    if not layers and not effect:
        return None
    pairs = []
    if layers:
        pairs += [("settings", arm_settings(run) or "–"), ("layers", ", ".join(map(str, layers)))]
        pairs += [("moved", moved)] if (moved := moved_values(run)) else []
    found = _effect_pairs(effect, "loss before" if layers else "loss")
    pairs += [(word, text) for word, text in found if text]
    blocks: list[Block] = [Facts(pairs)]
    if len(run.plans):
        names = [n for n in ("stack", "layer", "site", "pass", "module") if n in run.plans]
        numbers = ("n", "near", "fraction", "k", "eps", "upper", "lower")
        groups = run.plans.groupby(names, sort=False)
        means = groups[[n for n in numbers if n in run.plans]].mean().reset_index()
        means.insert(len(names), "sequences", groups.size().to_numpy())
        blocks.append(data_table("plans, mean over sequences", means, table="plans"))
        if len(run.plans) <= _MOST_PLANS:
            blocks.append(Fold("All sequences", [data_table("plans", run.plans)]))
        else:
            blocks.append(Prose(f"plans.csv holds all {counted(len(run.plans), 'sequence')}."))
    title = f"{change_name(run)}: plan and effect on the output" if layers else "The output"
    return Section(title, blocks)


def _effect_pairs(effect: dict[str, Any], loss: str) -> list[tuple[str, str]]:
    """Return the effect in words; ``loss`` names that of the unchanged model."""
    before, after = effect.get("loss_before"), effect.get("loss_after")
    kl, agreement = effect.get("kl"), effect.get("top1_agreement")
    positions = effect.get("positions")
    return [
        (loss, "" if before is None else f"{before:.4f} nats"),
        ("loss after", "" if after is None else f"{after:.4f} nats ({after - before:+.4f})"),
        ("KL(before ‖ after)", "" if kl is None else counted(number(kl, 4), "nat")),
        ("same most likely token", "" if agreement is None else percent(agreement)),
        ("positions", "" if positions is None else f"{positions:,}"),
    ]


def _class_section(run: Run) -> Section | None:
    """Compare the token classes, roles and positions if they were counted separately."""
    table = run.classes()
    shown = table[table["phase"].isin(list(_PAIR))]
    if not len(shown):
        return None
    return class_section(shown, ["layer", "site", "module", "stack"], _class_marks)


def _class_marks(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": row["token_class"], "series": row["phase"]}
        | {"value": row["near_zero"], "tokens": row["tokens"]}
    ]


def class_section(
    table: pd.DataFrame,
    keys: list[str],
    marks: Callable[[dict[str, Any]], list[dict[str, Any]]],
    *,
    table_name: str = "classes",
) -> Section:
    """Return charts of near-zero shares in the first layer, and the whole tables.

    One of each by token class, by role and by position, where they are known.

    Parameters
    ----------
    table
        One row per layer, partition and token class.
    keys
        The columns of layer, site, module and so on.
    marks
        Returns the marks of a row, for `charts.class_shares`.
    """
    blocks: list[Block] = []
    for partition in PARTITIONS:
        own = partition_rows(table, partition)
        if not len(own):
            continue
        first = own.iloc[0]
        here = records(own[(own[keys] == first[keys]).all(axis=1)])
        rows = [mark for row in here for mark in marks(row)]
        names, series = (list(dict.fromkeys(row[n] for row in rows)) for n in ("name", "series"))
        name = GROUP_NAMES[partition]
        title = f"near-zero share by {name}, layer {first[keys[0]]}, {first[keys[1]]}"
        spec = charts.class_shares(rows, {one: _CLASS_COLORS[one] for one in series}, name)
        blocks.append(Chart(title, spec, max(190, 70 + 22 * len(names))))
        shown = own.drop(columns="partition", errors="ignore")
        plural = "classes" if partition == "class" else f"{name}s"
        blocks.append(data_table(plural, shown, table=table_name))
    return Section("Token classes", blocks)
