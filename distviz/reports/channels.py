"""The largest channels of a run: by layer, and beside the distribution of their layer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from distviz.output import counted, listed
from distviz.reports import charts
from distviz.reports.cells import data_table
from distviz.reports.page import Block, Chart, Prose, Section
from distviz.results import (
    channel_summary,
    channels_before,
    is_paired,
    number,
    percent,
    series_names,
)
from distviz.sites import SiteKey

if TYPE_CHECKING:
    from distviz.results import Run

_CHANNELS = 50
_LARGEST = 5
_NAMED = 6
_SUMMARY = "the channels of each layer"
_NAMES = {
    "always_on": "always on",
    "largest": "largest channel",
    "absmax": "largest |x|",
    "ratio": "times the median",
    "persistent": "largest in most tokens",
    "share": "share of tokens",
}
_MEANING = (
    "Dead channels have only zeros, channels that are always on only values above 0. The largest "
    "|x| of the largest channel is compared with that of the median channel."
)
Place = tuple[str, str, int, str]
"""Stack, site, layer and module."""


def module_kinds(rows: pd.DataFrame) -> list[str]:
    """Return the module of each row without its layer: rows of one kind are joined by a line."""
    keys = [SiteKey(*row) for row in rows[list(SiteKey._fields)].itertuples(index=False)]
    names = series_names(keys)
    return [names[key] if key.stack == "decoder" else f"{key.stack}: {names[key]}" for key in keys]


def largest_channels(run: Run) -> dict[Place, list[list[str]]]:
    """Return by place a table of the channels of largest |x|, before any change.

    A row has the channel, its largest magnitude, its share of the sum of squares of the place
    (from mean and standard deviation) and the other layers where it is among the largest.
    """
    before = channels_before(run)
    if before.empty:
        return {}
    places = ["stack", "site", "layer", "module"]
    has_energy = {"count", "mean", "std"} <= set(before)
    if has_energy:
        squares = before["count"] * (before["mean"] ** 2 + before["std"] ** 2)
        total = squares.groupby([before[name] for name in places]).transform("sum")
        before = before.assign(energy=squares / total)
    finite = before[np.isfinite(before["absmax"].to_numpy(dtype=float))]
    ordered = finite.sort_values("absmax", ascending=False, kind="stable")
    largest = ordered.groupby(places, sort=False).head(_LARGEST)
    layers = {
        name: sorted(set(part["layer"]))
        for name, part in largest.groupby(["stack", "site", "channel"], sort=False)
    }
    heads = ["channel", "largest |x|", *(["share of Σx²"] if has_energy else []), "also largest in"]
    found: dict[Place, list[list[str]]] = {}
    for row in largest.itertuples(index=False):
        others = [one for one in layers[row.stack, row.site, row.channel] if one != row.layer]
        line = [str(row.channel), number(float(row.absmax), 4)]
        line += [percent(float(row.energy))] if has_energy else []
        place = (str(row.stack), str(row.site), int(row.layer), str(row.module))
        found.setdefault(place, [heads]).append([*line, _named(others)])
    return found


def _named(layers: list[int]) -> str:
    if not layers:
        return "–"
    if len(layers) > _NAMED:
        return counted(len(layers), "layer")
    return listed("layer", ", ".join(map(str, layers)))


def channel_section(run: Run) -> Section | None:
    """Return the largest and the median channel by layer, and the largest channels."""
    before = channels_before(run)
    if before.empty:
        return None
    blocks: list[Block] = []
    for site in dict.fromkeys(before["site"]):
        here = before[before["site"] == site]
        groups = here.assign(kind=module_kinds(here)).groupby(
            ["layer", "module", "kind"], sort=False
        )
        rows = []
        for (layer, _, kind), absmax in groups["absmax"]:
            finite = absmax[absmax.map(math.isfinite)]
            rows.append(
                {"place": int(layer), "kind": str(kind)}
                | {"most": float(finite.max()), "median": float(finite.median())}
                if len(finite)
                else {"place": int(layer), "kind": ""}
            )
        series = {"most": ("largest channel", "$ks"), "median": ("median channel", "$w1")}
        blocks.append(
            Chart(f"largest |x| of a channel, {site}", charts.by_depth(rows, series), 210)
        )
    ranked = before.sort_values("absmax", ascending=False, kind="stable").head(_CHANNELS)
    names = ["layer", "stack", "site", "channel", "absmax", "mean", "std", "min", "max", "module"]
    blocks.append(
        data_table(
            f"the {counted(len(ranked), 'channel')} of largest |x|" + ", before" * is_paired(run),
            ranked,
            names,
            table="channels",
        )
    )
    summary = channel_summary(run).rename(columns=_NAMES)
    blocks += [
        data_table(_SUMMARY + ", before" * is_paired(run), summary, [*summary]),
        Prose(_MEANING),
    ]
    return Section("Channels", blocks)
